"""The lists of all test users, written as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import Callback

from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.list_table import list_table, write_parquet
from diffrec.data.splits import Cases
from diffrec.errors import check_sizes
from diffrec.lists import Recommendations
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
    users = _users(batches.cases)[batches.order][: len(items)]
    table = list_table(users, items, scores, run.data.dataset.vocabulary.item_ids)
    write_parquet(table, output)
    return len(table)


def _users(cases: Cases) -> np.ndarray:
    """(cases,) ids of the users, their numbers as text where the cases know no ids."""
    return cases.key.astype(str).astype(object) if cases.users is None else cases.users


class _Lists(Callback):
    """Keeps the lists; Lightning's own collection refuses frozen dataclasses."""

    def __init__(self) -> None:
        self.parts: list[Recommendations] = []

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Recommendations, *args: Any) -> None:
        self.parts.append(Recommendations(outputs.items.cpu(), outputs.scores.cpu()))
