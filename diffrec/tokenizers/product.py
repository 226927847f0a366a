"""Product quantisation: the vector is cut into parts, each with a codebook of its own, so that codes have no order.

Sources: Jegou et al., "Product Quantization for Nearest Neighbor Search" (TPAMI 2011); for the learned rotation Ge et
al., "Optimized Product Quantization" (TPAMI 2014), section 4.1.
"""

from __future__ import annotations

import numpy as np

from diffrec.errors import UsageError, check_sizes
from diffrec.tokenizers.k_means import Points, k_means, lloyd
from diffrec.tokenizers.tokens import Tokens

_TURNS, _ROUNDS_A_TURN = 20, 4  # of the rotation, and of k-means in each


def product_quantisation(
    vectors: Points, levels: int, size: int, rounds: int = 25, seed: int = 0, *, rotate: bool = False
) -> Tokens:
    """`levels` codes of `size` for each of the vectors (N, width), whose width is a multiple of `levels`.

    rotate: a rotation is learned along with the codebooks, by turns (OPQ).
    """
    check_sizes(levels=levels)
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.shape[1] % levels:
        raise UsageError(f"vectors of width {vectors.shape[1]} cannot be cut into {levels} equal parts")
    centre = vectors.mean(0)
    points = vectors - centre
    rotation = balanced_directions(points, levels) if rotate else np.eye(vectors.shape[1])
    fits = [k_means(part, size, rounds, seed + level) for level, part in enumerate(_parts(points @ rotation, levels))]
    for _ in range(_TURNS if rotate else 0):
        left, _, right = np.linalg.svd(points.T @ _joined(fits))  # the rotation that brings points nearest to codes
        rotation = left @ right
        parts = _parts(points @ rotation, levels)
        fits = [lloyd(part, centres, _ROUNDS_A_TURN) for part, (centres, _) in zip(parts, fits, strict=True)]
    last = _parts(points @ rotation, levels)[-1]
    centres = fits[-1][0]
    away = np.square(last).sum(1, keepdims=True) - 2 * last @ centres.T + np.square(centres).sum(1)
    codes = np.stack([labels for _, labels in fits], axis=1)
    return Tokens(codes, _joined(fits) @ rotation.T + centre, away)


def balanced_directions(points: Points, levels: int) -> Points:
    """(width, width) principal directions, dealt out so that the products of the variances of the parts are alike.

    The widest first, each to the part with the least product that has room: section 4.2, "eigenvalue allocation".
    """
    variances, directions = np.linalg.eigh(points.T @ points / len(points))
    room, product = np.full(levels, points.shape[1] // levels), np.zeros(levels)
    dealt: list[list[int]] = [[] for _ in range(levels)]
    for direction in np.argsort(-variances, kind="stable"):
        part = int(np.where(room > 0, product, np.inf).argmin())
        dealt[part].append(int(direction))
        room[part] -= 1
        product[part] += np.log(max(variances[direction] / variances.max(), 1e-12)) + 30  # so that a product grows
    return directions[:, [direction for part in dealt for direction in part]]


def _parts(points: Points, levels: int) -> list[Points]:
    return np.split(points, levels, axis=1)


def _joined(fits: list[tuple[Points, np.ndarray]]) -> Points:
    return np.concatenate([centres[labels] for centres, labels in fits], axis=1)
