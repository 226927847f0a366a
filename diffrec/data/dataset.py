"""The one container for interactions: item numbers 1..N in time order, and the way back to ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Interactions:
    """What users did, oldest first.

    items: item numbers 1..N, one row a user (int32); user_ids: (users,) ids of the source as str;
    timestamps: seconds since 1970, aligned with items, or None where the source has no times;
    elapsed: seconds since the first item of the row, where the source has nothing but the gaps.
    """

    items: Ragged
    user_ids: np.ndarray
    timestamps: Ragged | None = None
    elapsed: Ragged | None = None

    @property
    def times(self) -> Ragged | None:
        """Seconds of which only differences inside a row mean something."""
        return self.elapsed if self.timestamps is None else self.timestamps

    def __post_init__(self) -> None:
        if len(self.items) != len(self.user_ids):
            raise ValueError(f"{len(self.items)} rows of items for {len(self.user_ids)} users")

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: np.ndarray) -> Interactions:
        """The users of the given rows, in the given order."""
        timestamps, elapsed = (None if x is None else x.take(rows) for x in (self.timestamps, self.elapsed))
        return Interactions(self.items.take(rows), self.user_ids[rows], timestamps, elapsed)


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset comes from and what may be done with it; fetched_from: where this copy was got, if stated."""

    title: str
    homepage: str
    licence: str
    citation: str = ""
    fetched_from: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Named interactions, either whole (`parts == {"all": ...}`) or split by its publisher into
    `train`, `valid` and `test`. `aligned` tells whether row u is the same user in every part."""

    name: str
    vocabulary: Vocabulary
    parts: Mapping[str, Interactions]
    info: DatasetInfo
    aligned: bool = True

    def __repr__(self) -> str:
        sizes = f"{self.num_users:,} users, {self.num_items:,} items, {self.num_interactions:,} interactions"
        return f"<Dataset {self.name}: {sizes} in {', '.join(self.parts)}>"

    @property
    def num_items(self) -> int:
        return len(self.vocabulary)

    @property
    def num_users(self) -> int:
        sizes = [len(part.items) for part in self.parts.values()]
        return sizes[0] if self.aligned else sum(sizes)

    @property
    def num_interactions(self) -> int:
        return sum(len(part.items.values) for part in self.parts.values())

    @cached_property
    def sha256(self) -> str:
        """Hash of the content (ids, order, times), whatever file format it came in."""
        digest = hashlib.sha256("\n".join(self.vocabulary.item_ids).encode())
        for name in sorted(self.parts):
            part = self.parts[name]
            digest.update(name.encode())
            digest.update("\n".join(map(str, part.user_ids)).encode())
            digest.update(part.items.offsets.astype("<i8").tobytes())
            digest.update(part.items.values.astype("<i4").tobytes())
            if part.timestamps is not None:
                digest.update(part.timestamps.values.astype("<i8").tobytes())
        return digest.hexdigest()
