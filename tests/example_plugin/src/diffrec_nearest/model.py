"""Nearest: the mean of the history's vectors, each weighed by how late it came, compared with all items."""

from __future__ import annotations

import torch

from diffrec.errors import check_numbers, check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.spaces.embedding import EmbeddingSpace


class Nearest(NextItemRecommender):
    """embedding_size: of the item vectors; half_life: how many items later an item counts half."""

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 32,
        half_life: float = 3.0,
        max_history_length: int = 50,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_sizes(embedding_size=embedding_size)
        check_numbers(low=0.01, half_life=half_life)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.1)
        self.half_life = half_life

    def states(self, history: torch.Tensor) -> torch.Tensor:
        """(batch, length, dim): the weighted mean up to and including every item; padding adds nothing."""
        place = torch.arange(history.shape[1], device=history.device)
        age = place[:, None] - place
        weight = torch.where(age >= 0, 0.5 ** (age.clamp(min=0) / self.half_life), 0.0)
        there = (history > 0).float()
        total = weight @ (self.items.encode(history) * there[..., None])
        return total / (there @ weight.T).clamp(min=1e-6)[..., None]
