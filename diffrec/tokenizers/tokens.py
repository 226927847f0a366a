"""Semantic IDs: each item as a few codes, and what can be said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrec.errors import UsageError

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tokens:
    """codes: (N, levels) int64 of items 1..N, each from 0; reconstruction: (N, width) what the codes stand for.

    last_distances: (N, size) how far each item is from every code of the last level, where a tokenizer can tell.
    """

    codes: Codes
    reconstruction: NDArray[np.float64] | None = None
    last_distances: NDArray[np.float64] | None = None


def groups_of(codes: Codes) -> Codes:
    """(N,) the number of each item's tuple, in lexicographic order of the tuples."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def place_in_group(groups: Codes) -> Codes:
    """(N,) how many items with a smaller number are in the same group."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    place = np.empty_like(groups)
    place[order] = np.arange(len(groups)) - starts[groups[order]]
    return place


def report_card(codes: Codes, sizes: Sequence[int]) -> dict[str, Any]:
    """Facts about codes (N, levels) whose levels have `sizes` codes each.

    distinct: tuples that occur; collisions: share of items beyond the first of their tuple, 1 - distinct / N;
    sharing: share of items that share their tuple with another; largest: most items of one tuple; usage: share of the
    codes of each level that occur; entropy: bits of each level's code over the items, and of the first codes together
    in `prefix_entropy`.
    """
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or (codes < 0).any() or (codes >= np.asarray(sizes)).any():
        seen = f"{codes.shape} from {codes.min(initial=0)} to {codes.max(initial=0)}"
        raise UsageError(f"codes of shape (items, {len(sizes)}) from 0 to below {list(sizes)} are needed, got {seen}")
    members = np.bincount(groups_of(codes))
    levels = [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]
    prefixes = [np.bincount(groups_of(codes[:, : level + 1])) for level in range(len(sizes))]
    return {
        "items": len(codes),
        "sizes": list(sizes),
        "distinct": len(members),
        "collisions": 1 - len(members) / len(codes),
        "sharing": float(members[members > 1].sum() / len(codes)),
        "largest": int(members.max()),
        "usage": [float((level > 0).mean()) for level in levels],
        "entropy": [entropy(level) for level in levels],
        "prefix_entropy": [entropy(prefix) for prefix in prefixes],
    }


def entropy(counts: NDArray[np.int64]) -> float:
    """Bits, of shares of a total."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def lost_share(vectors: NDArray[np.floating], reconstruction: NDArray[np.floating]) -> float:
    """Squared error of a reconstruction, as a share of the vectors' spread around their mean."""
    centred = vectors - vectors.mean(0)
    return float(np.square(vectors - reconstruction).sum() / np.square(centred).sum())
