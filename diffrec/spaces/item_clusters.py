"""Groups of items that the same users have, worked out from training sequences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.nn.singular_vectors import leading, normalised

_ROUNDS, _RUNS = 100, 10  # of k-means; a run stands still after a few dozen rounds, some end with an outlier alone


def singular_vectors(sequences: Ragged, num_items: int, dim: int = 64) -> NDArray[np.float64]:
    """(N, dim or fewer) V S of the `dim` largest singular values of D_u^-1/2 X D_i^-1/2, X binary users x items.

    Rows have length 1, for lengths tell mostly how many users an item has; those of items that nobody has are 0.
    Fewer than `dim` where the matrix has no more.
    """
    if min(len(sequences), num_items) < 2:
        raise UsageError(f"clusters of items need two users and two items, got {len(sequences)} and {num_items}")
    values, vectors = leading(normalised(sequences.to_csr(num_items), user_power=0.5), dim)
    rows = vectors * values
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def k_means(points: NDArray[np.floating], num_clusters: int, seed: int) -> NDArray[np.int64]:
    """(points,) clusters 0..num_clusters-1 with the least squared distances of a few runs of Lloyd's rounds.

    Each starts from points that k-means++ draws (Arthur and Vassilvitskii 2007). Of runs that are equal up to rounding
    the first counts.
    """
    rng = np.random.default_rng(seed)
    runs = [kmeans2(points, far_apart(points, num_clusters, rng), _ROUNDS, minit="matrix") for _ in range(_RUNS)]
    errors = np.array([np.square(points - centres[labels]).sum() for centres, labels in runs])
    return runs[int(np.argmax(errors <= errors.min() * (1 + 1e-9)))][1].astype(np.int64)


def far_apart(points: NDArray[np.floating], count: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """`count` of the points, each drawn in proportion to its squared distance from the nearest of those before it."""
    chosen = [int(rng.integers(len(points)))]
    away = np.full(len(points), np.inf)
    while len(chosen) < count:
        away = np.minimum(away, cdist(points, points[chosen[-1:]], "sqeuclidean")[:, 0])
        share = away / away.sum() if away.any() else None
        chosen.append(int(rng.choice(len(points), p=share)))
    return points[chosen]
