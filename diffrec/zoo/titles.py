"""Titles that may not be shipped: taken from the user's own copy of the dataset when one is first needed."""

from __future__ import annotations

from functools import cached_property

from diffrec.data.catalogue import REGISTERED, find
from diffrec.data.sources import load_dataset
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import DiffrecError


class BorrowedTitles(Vocabulary):
    """The item ids of an entry, with the titles of the dataset `source` if its item ids are the same.

    The dataset is read, and fetched unless `offline`, at the first use of a title. Where it cannot be had
    there are no titles, and the error for an unknown title says how to get them.
    """

    def __init__(self, item_ids: tuple[str, ...], source: str, offline: bool = False) -> None:
        super().__init__(item_ids)
        self.__dict__.update(source=source, offline=offline)  # a frozen dataclass refuses plain assignment
        del self.__dict__["titles"]  # so that the property below is asked

    @cached_property
    def titles(self) -> tuple[str, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The titles of the dataset, None where they cannot be had."""
        source = self.__dict__["source"]
        try:
            if self.__dict__["offline"] and source != "synthetic" and find(source).folder is None:
                return None
            theirs = load_dataset(source).vocabulary
        except DiffrecError:
            return None
        return theirs.titles if theirs.item_ids == self.item_ids else None

    def _suggestion(self, query: str) -> str:
        if self.titles is not None:
            return super()._suggestion(query)
        source = self.__dict__["source"]
        get = f"run 'diffrec data fetch {source}'" if source in REGISTERED else f"set DIFFREC_DATA to where {source} is"
        return f"{super()._suggestion(query)}; titles come with the dataset: {get}"
