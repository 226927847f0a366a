"""Groups of items that the same users have, worked out from training sequences."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds
from scipy.spatial.distance import cdist

from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError

_ROUNDS, _RUNS = 100, 10  # of k-means; a run stands still after a few dozen rounds, some end with an outlier alone


def singular_vectors(sequences: Ragged, num_items: int, dim: int = 64) -> NDArray[np.float64]:
    """(N, dim or fewer) V S of the `dim` largest singular values of D_u^-1/2 X D_i^-1/2, X binary users x items.

    Rows have length 1, for lengths tell mostly how many users an item has; those of items that nobody has are 0.
    Fewer than `dim` where the matrix has no more. The signs of columns are arbitrary, which distances do not see.
    """
    seen = sequences.to_csr(num_items).astype(np.float64)
    seen.data[:] = 1.0
    by_user, by_item = (sp.diags_array(1 / np.sqrt(np.maximum(seen.sum(axis), 1))) for axis in (1, 0))
    smaller = min(len(sequences), num_items)
    if smaller < 2:
        raise UsageError(f"clusters of items need two users and two items, got {len(sequences)} and {num_items}")
    start = np.random.default_rng(0).standard_normal(smaller)
    _, values, vectors = svds(by_user @ seen @ by_item, min(dim, smaller - 1), v0=start)
    assert vectors is not None  # it is where nothing else is asked for
    rows = vectors.T * values
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def k_means(points: NDArray[np.floating], num_clusters: int, seed: int) -> NDArray[np.int64]:
    """(points,) clusters 0..num_clusters-1 with the least squared distances of a few runs of Lloyd's rounds.

    Each starts from points that k-means++ draws (Arthur and Vassilvitskii 2007).
    """
    rng = np.random.default_rng(seed)
    runs = [kmeans2(points, _far_apart(points, num_clusters, rng), _ROUNDS, minit="matrix") for _ in range(_RUNS)]
    errors = [np.square(points - centres[labels]).sum() for centres, labels in runs]
    return runs[int(np.argmin(errors))][1].astype(np.int64)


def _far_apart(points: NDArray[np.floating], count: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """`count` of the points, each drawn in proportion to its squared distance from those before it."""
    chosen = points[rng.integers(len(points), size=1)]
    while len(chosen) < count:
        away = cdist(points, chosen, "sqeuclidean").min(1)
        share = away / away.sum() if away.any() else None
        chosen = np.concatenate([chosen, points[rng.choice(len(points), 1, p=share)]])
    return chosen
