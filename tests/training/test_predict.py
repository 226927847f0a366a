"""The table of lists is what `recommend` gives, user by user."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from diffrec.data.dataset import Interactions
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.training.build import build
from diffrec.training.fit import fit
from diffrec.training.predict import predict


@pytest.fixture
def run(tmp_path):
    """A fitted EASE on users with ids like "u-7", every tenth of whom is too short to be asked."""
    run = build(["model/ease", "data/synthetic"], ["--data.eval_batch_size=17"], tmp_path)
    items = run.data.dataset.parts["all"].items
    rows = [items[row][: 2 if row % 10 == 0 else None].tolist() for row in range(len(items))]
    everybody = Interactions(Ragged.from_rows(rows), np.array([f"u-{row}" for row in range(len(rows))], dtype=object))
    run.data.__dict__["dataset"] = replace(run.data.dataset, parts={"all": everybody})
    fit(run)
    return run


@pytest.mark.parametrize("k", [10, 3])
def test_lists_are_those_of_the_model_for_each_user_under_the_id_of_the_source(run, tmp_path, k):
    rows = predict(run, tmp_path / "out" / "lists.parquet", k)
    table = pq.read_table(tmp_path / "out" / "lists.parquet").to_pydict()
    assert list(table) == ["user_id", "rank", "item_id", "score"]
    cases = run.data.split.test
    assert rows == len(table["user_id"]) == k * len(cases)
    found = {
        (user, rank): item for user, rank, item in zip(table["user_id"], table["rank"], table["item_id"], strict=True)
    }
    wanted = run.model.recommend(torch.from_numpy(cases.history.padded(np.arange(len(cases)))), k=k).items
    ids = run.data.dataset.vocabulary.item_ids
    asked = [f"u-{row}" for row in range(200) if row % 10]
    assert found == {
        (user, place + 1): ids[int(wanted[row, place]) - 1] for row, user in enumerate(asked) for place in range(k)
    }


def test_cases_without_ids_are_told_by_their_number(run, tmp_path):
    split = run.data.split
    run.data.__dict__["split"] = replace(split, test=replace(split.test, users=None))
    predict(run, tmp_path / "lists.parquet", 1)
    assert pq.read_table(tmp_path / "lists.parquet")["user_id"].to_pylist() == [
        str(row) for row in np.argsort(-split.test.history.lengths, kind="stable")
    ]


def test_a_list_of_nothing_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="k must be a whole number from 1, got 0"):
        predict(run, tmp_path / "lists.parquet", 0)
