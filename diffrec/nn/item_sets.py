"""Histories read as sets: an item that was met twice counts once."""

from __future__ import annotations

import torch

from diffrec.typing import Bool, History


def first_occurrences(history: History) -> Bool[torch.Tensor, "batch length"]:
    """Which slots hold an item for the first time; False on padding."""
    ordered, order = history.sort(dim=1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(first).scatter(1, order, first) & (history > 0)
