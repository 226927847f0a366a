"""SLIM: a sparse, nonnegative item-to-item model, by coordinate descent."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import scipy.sparse as sp
import torch
from torch.nn.functional import embedding_bag, pad

from diffrec.baselines.ease import count_together
from diffrec.baselines.history import ItemToItem
from diffrec.data.neighbours import strongest_per_row
from diffrec.data.ragged import Ragged
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.memory import refuse_without_memory
from diffrec.typing import Float, Int, Tensor

_log = logging.getLogger(__name__)
_COLUMNS = 128  # columns of W solved together
_ENTERING = 64  # coordinates that each takes up at a time
_SWEEPS = 10  # over those, before all others are looked at again


class SLIM(ItemToItem):
    """score = x W, where column j of W minimises |x_j - X w|^2 / 2 + l2 |w|^2 / 2 + l1 |w|_1, w >= 0, w_j = 0.

    X is the binary users x items matrix, x_j its column j, x the history as a row of it.

    neighbours: how many entries of each column are kept in the end, None for all; max_iterations: sweeps over the
    coordinates of a column, fewer where none would move by more than `tolerance`; decay: in (0, 1], weighs x by
    decay^(number of events after the item's most recent one), W stays as it is; 1 reads the history as a set.
    Source: Ning & Karypis, "SLIM: sparse linear methods for top-N recommender systems" (ICDM 2011).
    """

    def __init__(
        self,
        num_items: int,
        l1: float = 1.0,
        l2: float = 100.0,
        neighbours: int | None = None,
        max_iterations: int = 500,
        tolerance: float = 1e-4,
        decay: float = 1.0,
    ) -> None:
        super().__init__(num_items, decay)
        check_numbers(low=0.0, l1=l1)
        check_numbers(above=0.0, l2=l2, tolerance=tolerance)
        check_sizes(max_iterations=max_iterations, neighbours=1 if neighbours is None else neighbours)
        self.l1, self.l2, self.neighbours = l1, l2, neighbours
        self.max_iterations, self.tolerance = max_iterations, tolerance

    def solve(self, sequences: Ragged) -> None:
        instead = "use item-knn, whose matrix is sparse, or fewer items"
        refuse_without_memory(f"SLIM on {self.num_items:,} items", 2 * 4 * self.num_items**2, instead)
        together = torch.from_numpy(count_together(sequences, self.num_items)).to(self.device)
        problem = Problem(together, self.l1, self.l2)
        common_first = problem.curvature.argsort(descending=True, stable=True)  # a block holds columns of a kind
        columns = sp.vstack([self._solved(problem, targets) for targets in common_first.split(_COLUMNS)], format="csr")
        self.keep_sparse(sp.csr_array(columns)[common_first.argsort().cpu().numpy()].T.tocsr())

    def _solved(self, problem: Problem, targets: Int[Tensor, " columns"]) -> sp.csr_array:
        """(columns, N): the columns of W for these targets, as rows."""
        columns = problem.solve(targets, self.max_iterations, self.tolerance)
        return columns if self.neighbours is None else strongest_per_row(columns, self.num_items, self.neighbours)


@dataclass(frozen=True, eq=False)
class Problem:
    """min_w w^T (G + l2) w / 2 - (g_j - l1)^T w over w >= 0 with w_j = 0: SLIM by G = X^T X alone.

    together: G (N, N). In a group of columns each holds the same number of slots: `items` (slots, columns) are the
    coordinates taken up, all different in a column, `weights` their values; every other coordinate is 0.
    """

    together: Float[Tensor, "items items"]
    l1: float
    l2: float

    @property
    def curvature(self) -> Float[Tensor, " items"]:
        return self.together.diagonal() + self.l2

    def solve(self, targets: Int[Tensor, " columns"], max_iterations: int, tolerance: float) -> sp.csr_array:
        """(columns, N): the solution for each target as a row; a column is left when no coordinate would move on."""
        column = torch.arange(len(targets), device=targets.device)
        items, weights = targets.new_empty(0, len(targets)), self.together.new_empty(0, len(targets))
        moved, parts, shape = weights.new_zeros(len(targets)), [], (len(targets), len(self.together))
        for before in range(0, max_iterations, _SWEEPS):
            downhill = self.downhill(targets, items, weights)
            moves = (downhill / self.curvature).scatter_(1, items.T, -torch.inf)
            going_on = (moves.amax(1) > tolerance) | (moved > tolerance)
            parts.append((column[~going_on], items[:, ~going_on], weights[:, ~going_on]))
            if not going_on.any():
                return joined(parts, shape)
            column, targets, downhill, moves = (part[going_on] for part in (column, targets, downhill, moves))
            items, weights = taken_up(items[:, going_on], weights[:, going_on], moves)
            moved = self.descend(items, weights, downhill, min(_SWEEPS, max_iterations - before), tolerance)
        _log.warning("SLIM: %d columns are not solved after %d iterations", len(column), max_iterations)
        return joined([*parts, (column, items, weights)], shape)

    def downhill(
        self,
        targets: Int[Tensor, " columns"],
        items: Int[Tensor, "slots columns"],
        weights: Float[Tensor, "slots columns"],
    ) -> Float[Tensor, "columns items"]:
        """g_j - l1 - G w for every column, l2 left out; -inf for the coordinate of the target itself."""
        downhill = self.together[targets] - self.l1
        if len(items):
            by_column = items.T.contiguous(), weights.T.contiguous()
            downhill -= embedding_bag(by_column[0], self.together, mode="sum", per_sample_weights=by_column[1])
        return downhill.scatter_(1, targets[:, None], -torch.inf)

    def descend(
        self,
        items: Int[Tensor, "slots columns"],
        weights: Float[Tensor, "slots columns"],
        downhill: Float[Tensor, "columns items"],
        sweeps: int,
        tolerance: float,
    ) -> Float[Tensor, " columns"]:
        """Sweep over the slots, `weights` in place; how far a coordinate of each column moved in the last sweep."""
        together = self.together[items[:, None], items[None]]
        together.diagonal().add_(self.l2)
        curvature, left = self.curvature[items], downhill.gather(1, items.T).T - self.l2 * weights
        moved = torch.zeros_like(weights[0])
        for _ in range(sweeps):
            moved.zero_()
            for slot, weight in enumerate(weights):
                move = torch.maximum(left[slot] / curvature[slot], -weight)
                weight += move
                left.addcmul_(together[slot], move, value=-1)
                torch.maximum(moved, move.abs(), out=moved)
            if (moved <= tolerance).all():
                break
        return moved


def taken_up(
    items: Int[Tensor, "slots columns"], weights: Float[Tensor, "slots columns"], moves: Float[Tensor, "columns items"]
) -> tuple[Int[Tensor, "more columns"], Float[Tensor, "more columns"]]:
    """The slots without those that are 0 in every column, and as many new ones as fit, of the coordinates that
    would move most; `moves` is -inf for those that have a slot.
    """
    weights, order = weights.sort(dim=0, descending=True, stable=True)
    used = int((weights > 0).sum(0).amax()) if len(weights) else 0
    entering = moves.topk(min(_ENTERING, moves.shape[1] - len(items) - 1), dim=1).indices.T
    return torch.cat([items.gather(0, order)[:used], entering]), pad(weights[:used], (0, 0, 0, len(entering)))


def joined(parts: list[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int]) -> sp.csr_array:
    """The weights above 0 of all parts: (columns,) numbers, (slots, columns) items, (slots, columns) weights."""
    there = [weights > 0 for _, _, weights in parts]
    columns, items, weights = (
        torch.cat([part[i].expand_as(t)[t] for part, t in zip(parts, there, strict=True)]).cpu().numpy()
        for i in range(3)
    )
    return sp.csr_array((weights, (columns, items)), shape=shape)
