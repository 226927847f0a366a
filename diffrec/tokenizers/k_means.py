"""k-means in which no centre is left without points."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from diffrec.errors import UsageError, check_sizes
from diffrec.spaces.item_clusters import far_apart

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


def nearest(points: Points, centres: Points) -> tuple[Labels, Points]:
    """(points,) the nearest centre, the first where several are, and the squared distance to it."""
    away = (centres**2).sum(1) - 2 * points @ centres.T
    labels = away.argmin(1)
    least = away[np.arange(len(points)), labels] + (points**2).sum(1)
    return labels, least.clip(min=0)


def lloyd(points: Points, centres: Points, rounds: int) -> tuple[Points, Labels]:
    """Centres after at most `rounds` rounds of Lloyd's, or when none moves, and the nearest centre of each point.

    A centre without points goes to the point that is furthest from its own, the next one to the second furthest.
    """
    labels, least = nearest(points, centres)
    for _ in range(rounds):
        members = np.bincount(labels, minlength=len(centres))
        belongs = sp.csr_array((np.ones(len(points)), labels, np.arange(len(points) + 1)), (len(points), len(centres)))
        moved = np.asarray(belongs.T @ points) / np.maximum(members, 1)[:, None]
        if len(dead := np.flatnonzero(members == 0)):
            moved[dead] = points[np.argsort(-least, kind="stable")[: len(dead)]]
        still = np.abs(moved - centres).max() < 1e-10
        centres = moved
        labels, least = nearest(points, centres)
        if still:
            break
    return centres, labels


def k_means(points: Points, count: int, rounds: int, seed: int) -> tuple[Points, Labels]:
    """`lloyd` from points that k-means++ draws; UsageError for fewer points than centres."""
    check_sizes(count=count, rounds=rounds)
    if len(points) < count:
        raise UsageError(f"{count} codes need at least as many items, got {len(points)}")
    starts = far_apart(points, count, np.random.default_rng(seed))
    return lloyd(points, starts.astype(np.float64), rounds)
