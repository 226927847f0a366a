"""Popularity: the same list for everybody."""

from __future__ import annotations

import torch

from diffrec.baselines.history import seen_matrix
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.recommender import ClosedFormRecommender
from diffrec.typing import History, Scores


class Popularity(ClosedFormRecommender):
    """score_j = number of training users who have item j.

    A user counts once for an item, however often it was met. Buffer `users`: (N,) float32.
    """

    users: torch.Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)
        self.register_buffer("users", torch.zeros(num_items))

    def solve(self, sequences: Ragged) -> None:
        users_per_item = seen_matrix(sequences, self.num_items).sum(axis=0)
        self.users = torch.from_numpy(users_per_item).float().to(self.device)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        return self.users.expand(len(history), -1)
