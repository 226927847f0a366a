"""Small datasets in memory."""

from __future__ import annotations

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
