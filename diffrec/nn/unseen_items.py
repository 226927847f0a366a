"""Negative examples: items that a user does not have."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.typing import Bool, Int, Tensor

_ROUNDS = 16  # a user with half of the catalogue keeps an item of their own once in 65,536


class UnseenItems(nn.Module):
    """Uniform draws from the items that a user does not have in training.

    Drawn by torch's generator, whose state is in the checkpoint. An item of the user's own is drawn again, up to
    sixteen times: users with the whole catalogue, who have no other item, get one of theirs.
    """

    keys: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.register_buffer("keys", torch.empty(0, dtype=torch.int64), persistent=False)

    def fit(self, users: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> None:
        """From all different (user, item) pairs of training."""
        self.keys = self._key(users, items).sort().values.to(self.keys.device)

    def draw(self, users: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """An item number from 1 for each user."""
        items = self._anything(users)
        again = self.seen(users, items).nonzero()[:, 0]
        for _ in range(_ROUNDS):
            if not len(again):
                break
            items[again] = self._anything(again)
            again = again[self.seen(users[again], items[again])]
        return items

    def seen(self, users: Int[Tensor, " batch"], items: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which of the pairs are in training."""
        asked = self._key(users, items)
        if not len(self.keys):
            return torch.zeros_like(asked, dtype=torch.bool)
        place = torch.searchsorted(self.keys, asked).clamp(max=len(self.keys) - 1)
        return self.keys[place] == asked

    def _anything(self, like: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        return torch.randint(1, self.num_items + 1, like.shape, device=like.device)

    def _key(self, users: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"]) -> Int[Tensor, " pairs"]:
        return users * (self.num_items + 1) + items
