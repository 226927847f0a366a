"""The table of lists is what `recommend` gives, user by user."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import torch

from diffrec.training.build import build
from diffrec.training.fit import fit
from diffrec.training.predict import predict


def test_lists_are_those_of_the_model_for_each_user(tmp_path):
    run = build(["model/ease", "data/synthetic"], ["--data.eval_batch_size=17"], tmp_path)
    fit(run)
    rows = predict(run, tmp_path / "out" / "lists.parquet")
    table = pq.read_table(tmp_path / "out" / "lists.parquet").to_pydict()
    cases = run.data.split.test
    assert rows == len(table["user"]) == 10 * len(cases)
    found = {
        (user, rank): item for user, rank, item in zip(table["user"], table["rank"], table["item_id"], strict=True)
    }
    wanted = run.model.recommend(torch.from_numpy(cases.history.padded(np.arange(len(cases)))), k=10).items
    ids = run.data.dataset.vocabulary.item_ids
    assert found == {
        (int(cases.key[row]), place + 1): ids[int(wanted[row, place]) - 1]
        for row in range(len(cases))
        for place in range(10)
    }
