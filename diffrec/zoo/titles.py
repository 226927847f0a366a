"""Titles that may not be shipped: taken from the user's own copy of the dataset when one is first needed."""

from __future__ import annotations

from dataclasses import dataclass

from diffrec.data.catalogue import REGISTERED, find
from diffrec.data.sources import load_dataset
from diffrec.errors import DiffrecError


@dataclass(frozen=True)
class DatasetTitles:
    """The titles of the dataset of that name, if it lies on this machine and has the same item ids.

    Nothing is ever fetched; `how_to_get` says which command does it.
    """

    dataset: str

    def titles(self, item_ids: tuple[str, ...]) -> tuple[str, ...] | None:
        """The titles of these items; None where the dataset is not here, damaged or of other items."""
        try:
            if not self._is_here():
                return None
            theirs = load_dataset(self.dataset).vocabulary
        except DiffrecError:
            return None
        return theirs.titles if theirs.item_ids == item_ids else None

    @property
    def how_to_get(self) -> str:
        """A command for registered datasets, a setting for those people bring."""
        name = self.dataset
        if name not in REGISTERED and self._is_here():
            return f"{name}, which is on this machine, has no titles for them; ids work"
        get = f"run 'diffrec data fetch {name}'" if name in REGISTERED else f"set DIFFREC_DATA to where {name} is"
        return f"titles come with the dataset: {get}"

    def _is_here(self) -> bool:
        try:
            return find(self.dataset).is_here
        except DiffrecError:
            return False
