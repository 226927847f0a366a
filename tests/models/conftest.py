"""What the tests of models share: how good a model is after some training on generated walks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch

from diffrec.baselines import Popularity
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.recommender import Recommender


@pytest.fixture(scope="session")
def ndcg() -> Callable[..., float]:
    """`ndcg(model, data, epochs, *callbacks)`: test NDCG@10 after training."""

    def measure(model: Recommender, data: InteractionDataModule, epochs: int, *callbacks: pl.Callback) -> float:
        trainer = pl.Trainer(
            max_epochs=epochs, limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", callbacks=list(callbacks),
        )  # fmt: skip
        torch.manual_seed(0)
        trainer.fit(model, datamodule=data)
        return trainer.test(model, datamodule=data, verbose=False)[0]["test/ndcg@10"]

    return measure


@pytest.fixture(scope="session")
def walks() -> Callable[[int], InteractionDataModule]:
    """`walks(batch_size)`: generated walks over 100 items."""
    return lambda batch_size: InteractionDataModule.of(synthetic(), "loo-full-masked@1", batch_size=batch_size)


@pytest.fixture(scope="session")
def popular(ndcg, walks) -> float:
    """What popularity reaches on them."""
    data = walks(64)
    return ndcg(Popularity(data.num_items), data, 1)
