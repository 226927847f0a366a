"""A trained model and the cases that it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffrec.bench.evaluate import Evaluation, evaluate
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import Protocol
from diffrec.data.splits import Cases, Split
from diffrec.errors import UsageError
from diffrec.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and the test cases that it is asked about.

    seed: of the sampling noise and of what is shuffled. Raises UsageError where the model does not know the
    items of the dataset by the same numbers, or where the protocol does not fit the dataset.
    """

    model: Recommender
    dataset: Dataset
    protocol: Protocol
    seed: int = 0
    batch_size: int = 512

    def __post_init__(self) -> None:
        known, there = self.model.num_items, self.dataset.num_items
        if known != there:
            raise UsageError(f"the model knows {known:,} items, {self.dataset.name} has {there:,}")
        names = self.model.vocabulary
        if names is not None and names.item_ids != self.dataset.vocabulary.item_ids:
            raise UsageError(f"the model numbers its items in another way than {self.dataset.name}")

    @cached_property
    def split(self) -> Split:
        """Training sequences and cases."""
        return self.protocol.apply(self.dataset)

    @cached_property
    def item_counts(self) -> np.ndarray:
        """(N,) training interactions of each item."""
        return np.bincount(self.split.train.values, minlength=self.model.num_items + 1)[1:]

    @cached_property
    def evaluation(self) -> Evaluation:
        """The test cases as they are; made once, at first use."""
        return self.evaluate(self.split.test)

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps the model takes by itself, and how many are all; UsageError for one that takes none."""
        own, every = self.model.num_steps, self.model.all_steps
        if own is None or every is None:
            raise UsageError(f"{type(self.model).__name__} takes no steps, so there is one way only to ask it")
        return own, every

    @property
    def cutoff(self) -> int:
        """k of the headline metric."""
        return int(self.protocol.headline.partition("@")[2])

    def evaluate(self, cases: Cases) -> Evaluation:
        """One pass over cases of the same users."""
        size, counts = self.batch_size, self.item_counts
        cutoffs = self.protocol.cutoffs
        return evaluate(self.model, cases, cutoffs, batch_size=size, seed=self.seed, item_counts=counts)
