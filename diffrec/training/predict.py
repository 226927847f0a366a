"""The lists of all test users, written as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pytorch_lightning import Callback

from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.splits import Cases
from diffrec.errors import check_sizes
from diffrec.lists import Recommendations
from diffrec.paths import naming
from diffrec.training.build import Run


def predict(run: Run, output: Path, k: int = 10) -> int:
    """Write the `k` best items for every test case as Parquet and return the number of rows.

    Columns: user_id and item_id (as in the source), rank (1 is best), score.
    """
    check_sizes(k=k)
    lists = _Lists()
    run.model.predicted_items = k
    cast(Any, run.trainer).callbacks.append(lists)
    run.trainer.predict(run.model, run.data, return_predictions=False)
    items = torch.cat([part.items for part in lists.parts]).numpy()
    scores = torch.cat([part.scores for part in lists.parts]).numpy()
    batches = cast(EvaluationBatches, run.data.predict_dataloader().dataset)
    users = np.repeat(_users(batches.cases)[batches.order][: len(items)], items.shape[1])
    ranks = np.tile(np.arange(1, items.shape[1] + 1), len(items))
    there = items.ravel() > 0
    ids = np.asarray(run.data.dataset.vocabulary.item_ids, dtype=object)
    columns = {
        "user_id": users[there],
        "rank": ranks[there].astype(np.int32),
        "item_id": ids[items.ravel()[there] - 1],
        "score": scores.ravel()[there],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with naming(output):
        pq.write_table(pa.table(columns), output, compression="zstd")
    return int(there.sum())


def _users(cases: Cases) -> np.ndarray:
    """(cases,) ids of the users, their numbers as text where the cases know no ids."""
    return cases.key.astype(str).astype(object) if cases.users is None else cases.users


class _Lists(Callback):
    """Keeps the lists; Lightning's own collection refuses frozen dataclasses."""

    def __init__(self) -> None:
        self.parts: list[Recommendations] = []

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Recommendations, *args: Any) -> None:
        self.parts.append(Recommendations(outputs.items.cpu(), outputs.scores.cpu()))
