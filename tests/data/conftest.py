"""Small datasets in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffrec.data.dataset import Dataset, DatasetInfo, Interactions
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary


@pytest.fixture(scope="session")
def dataset_of():
    """`dataset_of(rows)`: a whole dataset; `dataset_of(train=rows, valid=..., test=...)`: one split by files."""

    def build(rows: list[list[int]] | None = None, aligned: bool = True, **files: list[list[int]]) -> Dataset:
        parts = {"all": rows} if rows is not None else files
        num_items = max((item for part in parts.values() for row in part for item in row), default=1)
        return Dataset(
            name="small",
            vocabulary=Vocabulary(tuple(map(str, range(1, num_items + 1)))),
            parts={
                name: Interactions(Ragged.from_rows(part), np.arange(len(part)).astype(str))
                for name, part in parts.items()
            },
            info=DatasetInfo("Small", "", "none"),
            aligned=aligned,
        )

    return build


@pytest.fixture(scope="session")
def log_of(dataset_of):
    """`log_of(rows)`: a whole dataset of (time, item) events, in a catalogue of 20 items."""

    def build(rows: list[list[tuple[int, int]]]) -> Dataset:
        dataset = dataset_of([[item for _, item in row] for row in rows] + [[20]])
        everybody = dataset.parts["all"].take(np.arange(len(rows)))
        times = Ragged.from_rows([[time for time, _ in row] for row in rows], dtype=np.int64)
        return replace(dataset, parts={"all": replace(everybody, timestamps=times)})

    return build
