"""PureSVD: the history projected onto the strongest directions between items."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.nn.functional import embedding_bag

from diffrec.baselines.history import item_weights, seen_matrix
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.nn.singular_vectors import leading, normalised
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.typing import History, Scores

Normalisation = Literal["raw", "symmetric"]


class PureSVD(ClosedFormRecommender):
    """score = x V V^T, with V the right singular vectors of the `rank` largest singular values.

    They are those of the binary users x items matrix X (`raw`), or of D_U^-1/2 X D_I^-1/2 (`symmetric`), where D
    holds how many items a user and how many users an item has; x is the history as a row of X. There are no
    more vectors than the rank of the matrix. Buffer `vectors`: (N, rank) float32.

    decay: in (0, 1], weighs x by decay^(number of events after the item's most recent one), V stays as it is; 1
    reads the history as a set.
    Source: Cremonesi et al., "Performance of recommender algorithms on top-N recommendation tasks" (RecSys 2010).
    """

    asked_with = ("decay",)
    rows_at_least = Recommender.rows_at_least  # a product with a table, which rounds by the number of its rows
    vectors: torch.Tensor

    def __init__(
        self, num_items: int, rank: int = 64, normalisation: Normalisation = "raw", decay: float = 1.0
    ) -> None:
        super().__init__(num_items)
        check_sizes(rank=rank)
        choose("normalisation", normalisation, get_args(Normalisation))
        check_numbers(above=0.0, most=1.0, decay=decay)
        self.rank, self.decay = rank, decay
        self.normalisation: Normalisation = normalisation
        self.register_buffer("vectors", torch.zeros(num_items, 1))

    def solve(self, sequences: Ragged) -> None:
        seen = seen_matrix(sequences, self.num_items)
        _, vectors = leading(normalised(seen, 0.5) if self.normalisation == "symmetric" else seen, self.rank)
        self.vectors = torch.from_numpy(vectors).to(self.device, torch.float32).contiguous()

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        items, weights = (history - 1).clamp(min=0), item_weights(history, self.decay)
        return embedding_bag(items, self.vectors, mode="sum", per_sample_weights=weights) @ self.vectors.T
