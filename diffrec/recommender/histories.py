"""Histories as users give them: titles, ids or item numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import UsageError, is_whole
from diffrec.typing import History, Int, Tensor


def checked_items(items: Int[Tensor, "batch slots"], num_items: int) -> Int[Tensor, "batch slots"]:
    """The same in 64 bits; UsageError for what is no table of item numbers 0..num_items."""
    if items.ndim != 2 or items.dtype.is_floating_point or items.dtype == torch.bool:
        seen = f"{tuple(items.shape)} of {str(items.dtype).removeprefix('torch.')}"
        raise UsageError(f"item numbers are a (batch, length) tensor of whole numbers, got {seen}")
    wrong = items[(items < 0) | (items > num_items)]
    if len(wrong):
        raise UsageError(f"item numbers must lie in 1..{num_items}, 0 for padding, got {int(wrong[0])}")
    return items.long()


def numbers_of(queries: Sequence[str | int] | Sequence[Sequence[str | int]], vocabulary: Vocabulary | None) -> History:
    """(users, longest) item numbers of titles or ids, of one user or of several, padded on the right.

    UsageError for what is no list of them, and without a vocabulary; NotFoundError for a title or id it has not.
    """
    if vocabulary is None:
        raise UsageError("this model has no vocabulary; pass a (batch, length) tensor of item numbers")
    if isinstance(queries, str):
        raise UsageError(f"a history is a list of titles or ids, got the text {queries!r}; write [{queries!r}]")
    if not isinstance(queries, Sequence):
        what = "a list of titles or ids, or a (batch, length) tensor of item numbers"
        raise UsageError(f"a history is {what}, got {type(queries).__name__}")
    several = bool(queries) and isinstance(queries[0], Sequence) and not isinstance(queries[0], str)
    rows = queries if several else [queries]
    if not all(isinstance(row, Sequence) and not isinstance(row, str) for row in rows):
        raise UsageError("histories are lists of titles or ids, one list a user; got a title or an id beside a list")
    if wrong := [q for row in rows for q in row if not (isinstance(q, str) or is_whole(q))]:  # pyright: ignore[reportGeneralTypeIssues]
        raise UsageError(f"a title or an id is text or a whole number, got {wrong[0]!r}")
    numbers = [torch.tensor(vocabulary.numbers([str(q) for q in row]), dtype=torch.int64) for row in rows]  # pyright: ignore[reportGeneralTypeIssues]
    return nn.utils.rnn.pad_sequence(numbers, batch_first=True)
