"""Baselines that are solved, not trained."""

from __future__ import annotations

from typing import ClassVar

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.nn.fitted_shape import FittedShape
from diffrec.recommender.base import Recommender


class ClosedFormRecommender(FittedShape, Recommender):
    """A baseline that is computed from the training sequences in one go, without gradients.

    A subclass gives `solve(sequences)`, which fills its buffers; under Lightning it runs before the
    first validation of a one-epoch fit. Buffers may change shape: loading takes the shapes of the file.

    asked_with: constructor arguments that only `score` reads, so that a solved model may be asked with others.
    """

    asked_with: ClassVar[tuple[str, ...]] = ()

    examples = "once"
    rows_at_least = 1  # rows are added up one by one

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)
        self.automatic_optimization = False

    def solve(self, sequences: Ragged) -> None:
        """Compute the model from training sequences."""
        raise NotImplementedError

    def prepare(self, sequences: Ragged) -> None:
        self.solve(sequences)

    @property
    def cannot_start_from_another(self) -> str:
        return "it is solved in one go, not trained"

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None
