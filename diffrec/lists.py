"""Ranked lists, and the windows of histories that they answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from diffrec.metrics.functional import hide, rows_at_once
from diffrec.typing import Float, History, Int, Scores, Tensor


@dataclass(frozen=True)
class Recommendations:
    """Ranked lists. items: (batch, k) item numbers, best first, 0 where the candidates ran out;
    scores: (batch, k), -inf there."""

    items: Int[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]


def top_k(scores: Scores, excluded: Int[Tensor, "batch excluded"], k: int) -> Recommendations:
    """The k best item numbers per row, leaving out `excluded` (0 is ignored); ties by item number."""
    rows = rows_at_once(scores)
    chunks = zip(scores.split(rows), excluded.split(rows), strict=True)
    parts = [_top_k(*chunk, min(k, scores.shape[1])) for chunk in chunks]
    best, columns = (torch.cat(column) for column in zip(*parts, strict=True))
    items = (columns + 1).masked_fill(torch.isneginf(best), 0)
    padding = (0, max(k - scores.shape[1], 0))
    return Recommendations(nn.functional.pad(items, padding), nn.functional.pad(best, padding, value=-torch.inf))


def _top_k(
    scores: Scores, excluded: Int[Tensor, "batch excluded"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Scores and columns of the k best, best first, lower columns first where scores are equal."""
    masked = hide(scores, excluded)
    values, columns = torch.topk(masked, k, dim=1)
    last = values[:, -1:]
    # topk keeps any of the columns that share the last score; where there are more of them, take the first
    if (((masked >= last).sum(1, dtype=torch.int32) > k) & ~torch.isneginf(last[:, 0])).any():
        numbers = torch.arange(masked.shape[1], dtype=torch.int32, device=masked.device)
        sharing = torch.where(masked == last, numbers, masked.shape[1])
        first = torch.topk(sharing, k, dim=1, largest=False).values
        at_last = values == last
        place = (at_last.cumsum(1) - 1).clamp(min=0)
        columns = torch.where(at_last, first.gather(1, place).to(columns.dtype), columns)
    columns = columns.sort(dim=1).values
    best, order = masked.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return best, columns.gather(1, order)


def right_padded(history: History, times: History | None = None) -> History:
    """Padding (0), wherever it is, moved behind the items; their order stays. With `times`, those of the items."""
    values = history if times is None else times
    misplaced = (history[:, :-1] == 0) & (history[:, 1:] > 0)
    return values.gather(1, (history == 0).int().argsort(dim=1, stable=True)) if misplaced.any() else values


def last_items(history: History, length: int, times: History | None = None) -> Int[Tensor, "batch window"]:
    """The last `length` items of every right-padded row, still right-padded. With `times`, those of the items."""
    values = history if times is None else times
    if history.shape[1] <= length:
        return values
    sizes = (history > 0).sum(1, keepdim=True)
    index = (sizes - length).clamp(min=0) + torch.arange(length, device=history.device)
    return values.gather(1, index)
