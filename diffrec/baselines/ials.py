"""iALS: matrix factorisation of implicit feedback by alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn.functional import pad

from diffrec.baselines.history import last_occurrences, seen_matrix
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, check_numbers, check_sizes
from diffrec.nn.memory import refuse_without_memory
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.typing import Float, History, Int, Scores, Tensor

_ELEMENTS = 1 << 22  # of a block of systems: 16 MiB of float32


class IALS(ClosedFormRecommender):
    """score_j = <w, h_j>, where w is what the last step of the alternation gives a user with this history.

    The steps minimise, over user vectors w_u and item vectors h_i in turn,

        sum_{(u, i) observed} (<w_u, h_i> - 1)^2 + alpha0 sum_{all (u, i)} <w_u, h_i>^2
        + regularization [ sum_u (n_u + alpha0 I)^nu |w_u|^2 + sum_i (n_i + alpha0 U)^nu |h_i|^2 ]

    n_u is how many different items user u has, n_i how many of the U users item i has, I the number of items.
    Buffers, float32: `items` (N, embedding_size), in coordinates where alpha0 sum_i h_i h_i^T is diagonal, and
    `spectrum` (embedding_size,), that diagonal.

    epochs: steps over the items, between which lie steps over the users; init_std: of the expected length that user
    vectors start with, so that a coordinate has init_std / sqrt(embedding_size). Items start from nothing, so that
    their numbers do not matter.
    Sources: Hu et al., "Collaborative filtering for implicit feedback datasets" (ICDM 2008); this objective and its
    scaling are of Rendle et al., "Revisiting the performance of iALS on item recommendation benchmarks" (2021).
    """

    rows_at_least = Recommender.rows_at_least  # a product with a table, which rounds by the number of its rows
    items: torch.Tensor
    spectrum: torch.Tensor

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        alpha0: float = 0.1,
        regularization: float = 0.01,
        nu: float = 1.0,
        epochs: int = 16,
        init_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_items)
        check_sizes(embedding_size=embedding_size, epochs=epochs)
        check_numbers(low=0.0, nu=nu)
        check_numbers(above=0.0, alpha0=alpha0, regularization=regularization, init_std=init_std)
        check_sizes(0, seed=seed)
        self.embedding_size, self.epochs, self.init_std, self.seed = embedding_size, epochs, init_std, seed
        self.alpha0, self.regularization, self.nu = alpha0, regularization, nu
        self.register_buffer("items", torch.zeros(num_items, 1))
        self.register_buffer("spectrum", torch.zeros(1))

    def solve(self, sequences: Ragged) -> None:
        what = f"iALS on {len(sequences):,} users and {self.num_items:,} items with {self.embedding_size} coordinates"
        refuse_without_memory(what, self._needed(sequences), "use fewer coordinates")
        seen = seen_matrix(sequences, self.num_items)
        by_user, by_item = (Rows.of_matrix(matrix, self.device) for matrix in (seen, seen.T.tocsr()))
        draw = torch.randn(len(sequences), self.embedding_size, generator=torch.Generator().manual_seed(self.seed))
        items = self._step(by_item, (draw * self.init_std / self.embedding_size**0.5).to(self.device))
        for _ in range(self.epochs - 1):
            items = self._step(by_item, self._step(by_user, items))
        self.items, self.spectrum = diagonal(items, self.alpha0)

    def _needed(self, sequences: Ragged) -> int:
        """Bytes at most: four times the vectors, the pairs from both sides, and one block of systems."""
        longest = padded_lengths(torch.from_numpy(np.diff(sequences.offsets))).max() if len(sequences) else 0
        often = np.bincount(sequences.values, minlength=2).max()
        width = max(int(longest), 2 * int(often))
        systems = _ELEMENTS + width * self.embedding_size + min(width, self.embedding_size) ** 2
        vectors = (len(sequences) + self.num_items) * self.embedding_size
        return 16 * (vectors + systems) + 40 * len(sequences.values)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        rows = Rows.of_history(history)
        return ridge(rows, self.items, self.spectrum, self._penalty(rows, self.num_items)) @ self.items.T

    def _step(self, rows: Rows, others: Float[Tensor, "others dim"]) -> Float[Tensor, "rows dim"]:
        """The vectors of one side that are best for those of the other."""
        return ridge(rows, *diagonal(others, self.alpha0), self._penalty(rows, len(others)))

    def _penalty(self, rows: Rows, others: int) -> Float[Tensor, " rows"]:
        """Of the squared length of each row's vector, of `others` it could be together with."""
        return self.regularization * (rows.lengths + self.alpha0 * others) ** self.nu


@dataclass(frozen=True, eq=False)
class Rows:
    """One side of the observed pairs: row after row, the numbers (from 0) of those it is observed with, all different.

    others: (entries,) int64; lengths: (rows,) int64.
    """

    others: Int[Tensor, " entries"]
    lengths: Int[Tensor, " rows"]

    @classmethod
    def of_matrix(cls, matrix: sp.csr_array, device: torch.device) -> Rows:
        parts = matrix.indices, np.diff(matrix.indptr)
        return cls(*(torch.from_numpy(part.astype(np.int64)).to(device) for part in parts))

    @classmethod
    def of_history(cls, history: History) -> Rows:
        there = last_occurrences(history)
        return cls(history[there] - 1, there.sum(1))

    def blocks(self, dim: int, none: int) -> Iterator[tuple[Int[Tensor, " some"], Int[Tensor, "some width"]]]:
        """All rows in groups of similar length, and whom they hold, `none` behind the end.

        A block has room for its systems of equations; its width depends on the lengths alone, and so do solutions.
        """
        others, starts = pad(self.others, (0, 1), value=none), self.lengths.cumsum(0) - self.lengths
        widths = padded_lengths(self.lengths)
        for width in widths.unique().tolist():
            slots = torch.arange(width, device=widths.device)
            height = max(1, _ELEMENTS // (width * dim + min(width, dim) ** 2))
            for rows in (widths == width).nonzero()[:, 0].split(height):
                inside = slots < self.lengths[rows, None]
                yield rows, others[torch.where(inside, starts[rows, None] + slots, len(self.others))]


def padded_lengths(lengths: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Each rounded up to one of 8, 16, 24, 32, 48, 64, 96, ...: few shapes, and less than half of one is padding."""
    bits = torch.frexp((lengths - 1).clamp(min=0).double()).exponent
    step = 2 ** (bits - 2).clamp(min=3).long()
    return ((lengths + step - 1) // step).clamp(min=1) * step


def diagonal(
    vectors: Float[Tensor, "rows dim"], alpha0: float
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, " dim"]]:
    """The vectors V in coordinates where alpha0 V^T V is diagonal, and that diagonal, so that systems are cheap."""
    spectrum, basis = torch.linalg.eigh(alpha0 * (vectors.T @ vectors).double())
    return vectors @ basis.to(vectors.dtype), spectrum.clamp(min=0).to(vectors.dtype)


def ridge(
    rows: Rows,
    vectors: Float[Tensor, "others dim"],
    spectrum: Float[Tensor, " dim"],
    penalty: Float[Tensor, " rows"],
) -> Float[Tensor, "rows dim"]:
    """For each row the w with the smallest sum_j (<w, v_j> - 1)^2 + w^T diag(spectrum) w + penalty |w|^2, j in the row.

    DiffrecError where float32 cannot solve it.
    """
    others, dim = vectors.shape
    members, solution = pad(vectors, (0, 0, 0, 1)), vectors.new_zeros(len(rows.lengths), dim)
    for chosen, held in rows.blocks(dim, none=others):
        solve = by_members if held.shape[1] <= dim else by_coordinates
        solution[chosen] = solve(members[held], spectrum + penalty[chosen, None])
    return solution


def by_coordinates(
    members: Float[Tensor, "batch width dim"], weight: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """(V^T V + diag(weight))^-1 V^T 1 for every V: systems of dim equations."""
    return positive_solution(members.mT @ members, weight, members.sum(1))


def by_members(
    members: Float[Tensor, "batch width dim"], weight: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dim"]:
    """The same as diag(weight)^-1 V^T (V diag(weight)^-1 V^T + I)^-1 1: systems of width equations."""
    weighted = members / weight[:, None]
    ones = torch.ones_like(members[..., 0])
    return (weighted.mT @ positive_solution(weighted @ members.mT, ones, ones)[..., None])[..., 0]


def positive_solution(
    matrix: Float[Tensor, "batch size size"], diagonal: Float[Tensor, "batch size"], right: Float[Tensor, "batch size"]
) -> Float[Tensor, "batch size"]:
    """(matrix + diag(diagonal))^-1 right by Cholesky; the matrix is changed."""
    matrix.diagonal(dim1=1, dim2=2).add_(diagonal)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        raise DiffrecError("a system of least squares is not positive definite in float32; use a larger regularization")
    return torch.cholesky_solve(right[..., None], factor)[..., 0]
