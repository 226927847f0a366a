"""Models small enough to be saved and damaged a thousand times."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

import diffrec.models
from diffrec.baselines import Popularity
from diffrec.data.synthetic import synthetic
from diffrec.recommender import Recommender
from diffrec.zoo import save

NUM_ITEMS = 100


class Tiny(Recommender):
    """The mean of item vectors, times all item vectors."""

    def __init__(
        self, num_items: int, width: int = 4, widths: tuple[int, ...] = (2, 3), scale: float | None = 1.0
    ) -> None:
        super().__init__(num_items, max_history_length=5)
        self.items = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.parts = nn.ModuleList(nn.Linear(width, size) for size in widths)
        self.register_buffer("steps", torch.arange(3))
        self.scale = scale

    def score(self, history, *, noise=None):
        return self.items(history).sum(1) @ self.items.weight[1:].T * (self.scale or 1.0)


@pytest.fixture(scope="session")
def dataset():
    """100 items with titles."""
    return synthetic()


@pytest.fixture(scope="session")
def tiny_class():
    """A torch model that diffrec.models exports for the length of the test run."""
    Tiny.__module__ = "diffrec.models.tiny"
    sys.modules["diffrec.models.tiny"] = types.ModuleType("diffrec.models.tiny", "Tiny: a model for tests.")
    diffrec.models.__dict__["Tiny"] = Tiny
    yield Tiny
    del diffrec.models.__dict__["Tiny"], sys.modules["diffrec.models.tiny"]


@pytest.fixture
def tiny(tiny_class, dataset):
    """A model with random weights and the vocabulary of the dataset."""
    torch.manual_seed(0)
    model = tiny_class(NUM_ITEMS).eval()
    model.vocabulary = dataset.vocabulary
    return model


@pytest.fixture
def entry(tiny, dataset, tmp_path):
    """The saved `tiny`."""
    facts = {"command": "diffrec fit", "seed": 3, "epochs": 2, "seconds": 1.5}
    return save(tiny, tmp_path / "tiny.synthetic", dataset=dataset, protocol="loo-full-masked@1",
                metrics={"ndcg@10": 0.25, "recall@10": 0.5}, training=facts)  # fmt: skip


@pytest.fixture
def popularity(dataset):
    """A solved closed form."""
    model = Popularity(NUM_ITEMS)
    model.solve(dataset.parts["all"].items)
    model.vocabulary = dataset.vocabulary
    return model.eval()
