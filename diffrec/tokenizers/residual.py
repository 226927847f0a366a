"""Residual k-means: each level quantises what the levels before it left over.

Source: Chen et al., "Approximate Nearest Neighbor Search by Residual Vector Quantization" (Sensors 2010).
"""

from __future__ import annotations

import numpy as np

from diffrec.errors import check_sizes
from diffrec.tokenizers.k_means import Points, k_means
from diffrec.tokenizers.tokens import Tokens


def residual_k_means(vectors: Points, levels: int, size: int, rounds: int = 25, seed: int = 0) -> Tokens:
    """`levels` codes of `size` for each of the vectors (N, width)."""
    check_sizes(levels=levels)
    codebooks, codes = residual_codebooks(vectors, levels, size, rounds, seed)
    steps = [book[code] for book, code in zip(codebooks, codes.T, strict=True)]
    left = vectors - np.sum(steps[:-1], axis=0)
    last = np.square(left).sum(1, keepdims=True) - 2 * left @ codebooks[-1].T + np.square(codebooks[-1]).sum(1)
    return Tokens(codes, np.sum(steps, axis=0), last)


def residual_codebooks(
    vectors: Points, levels: int, size: int, rounds: int, seed: int
) -> tuple[list[Points], np.ndarray]:
    """The centres (size, width) of every level, and the codes (N, levels)."""
    left, books, codes = np.asarray(vectors, dtype=np.float64), [], []
    for level in range(levels):
        centres, labels = k_means(left, size, rounds, seed + level)
        left = left - centres[labels]
        books.append(centres)
        codes.append(labels)
    return books, np.stack(codes, axis=1)
