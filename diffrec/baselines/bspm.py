"""BSPM: blur the interactions of a user over the graph of items, then sharpen them, without training.

Choi et al., "Blurring-Sharpening Process Models for Collaborative Filtering", SIGIR 2023, arXiv 2211.09324; official
code github.com/jeongwhanchoi/BSPM (MIT; nothing is taken from it).

Differs from the original in:
- up to 4,096 items the graph is one dense table of items, above it stays sparse (`nn.item_graph.ItemGraph`);
- the singular vectors are exact up to rounding, and no larger than the rank (the original's are randomised);
- the solvers are written out; four stages of order four are one polynomial of a linear equation, whichever they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from diffrec.baselines.history import seen_matrix
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.nn.item_graph import ItemGraph
from diffrec.recommender import ClosedFormRecommender
from diffrec.spaces.interaction import InteractionSpace
from diffrec.typing import Float, History, Scores, Tensor


class BSPM(ClosedFormRecommender):
    """Blur b = r P and ideal low-pass l = r D_I^-1/2 V V^T D_I^1/2, then dS/dt = -S P from 0 to `sharpening_time`.

    r is the history as a row of the binary users x items matrix, P and V are those of `ItemGraph` with p = 1/2, D_I
    counts the users of each item. Blur and low-pass are one Euler step of length 1 each.

    solver, sharpening_steps, sharpening_time: how the equation is solved (K_s steps to T_s; 0 steps: not at all);
    ideal_weight, ideal_rank: beta, and the columns of V (0: no low-pass); merge: "early" starts from
    S(0) = b + beta l, "late" from b and adds beta l to what comes out; combine: the mean of b and of S after each step
    in place of the last S. GF-CF is 0 steps with ideal_weight 0.3 and ideal_rank 256.

    A row is worked out in float64: matrix products round by the number of their rows, which float32 scores of it do
    not show.
    """

    asked_with = ("solver", "sharpening_steps", "sharpening_time", "merge", "combine", "ideal_weight")
    item_degrees: Tensor

    def __init__(
        self,
        num_items: int,
        solver: Literal["euler", "rk4"] = "rk4",
        sharpening_steps: int = 1,
        sharpening_time: float = 2.5,
        merge: Literal["early", "late"] = "early",
        combine: bool = False,
        ideal_weight: float = 0.2,
        ideal_rank: int = 448,
    ) -> None:
        super().__init__(num_items)
        choose("solver", solver, SOLVERS)
        choose("kind of merge", merge, ("early", "late"))
        check_sizes(least=0, sharpening_steps=sharpening_steps, ideal_rank=ideal_rank)
        check_numbers(low=0.0, sharpening_time=sharpening_time, ideal_weight=ideal_weight)
        self.solver, self.sharpening_steps, self.sharpening_time = solver, sharpening_steps, sharpening_time
        self.merge, self.combine, self.ideal_weight = merge, combine, ideal_weight
        self.space = InteractionSpace(num_items)
        self.graph = ItemGraph(num_items, rank=ideal_rank)
        self.register_buffer("item_degrees", torch.ones(num_items))

    def solve(self, sequences: Ragged) -> None:
        seen = seen_matrix(sequences, self.num_items)
        self.graph.fit(seen)
        # an item that nobody met has a row of zeros in V, whatever it is divided by
        self.item_degrees = torch.from_numpy(seen.sum(axis=0)).clamp(min=1).to(self.device)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        r = self.space.encode(history).double()
        blurred = self.graph.propagate(r)
        ideal = self._ideal(r)
        early = self.merge == "early" and self.sharpening_steps > 0  # else there is nothing to be merged into
        points = [blurred, *self._sharpened(blurred + ideal if early else blurred)]
        scores = torch.stack(points).mean(0) if self.combine else points[-1]
        return (scores if early else scores + ideal).float()

    def _ideal(self, r: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        """beta l."""
        roots = self.item_degrees.sqrt()
        return self.ideal_weight * self.graph.low_pass(r / roots) * roots

    def _sharpened(self, state: Float[Tensor, "batch items"]) -> list[Float[Tensor, "batch items"]]:
        """S after each step from S(0) = state."""
        points = [state]
        for _ in range(self.sharpening_steps):
            length = self.sharpening_time / self.sharpening_steps
            points.append(SOLVERS[self.solver](lambda x: -self.graph.propagate(x), points[-1], length))
        return points[1:]


Velocity = Callable[[Tensor], Tensor]


def euler(velocity: Velocity, x: Float[Tensor, "batch items"], length: float) -> Float[Tensor, "batch items"]:
    """One step of dx/dt = velocity(x)."""
    return x + length * velocity(x)


def rk4(velocity: Velocity, x: Float[Tensor, "batch items"], length: float) -> Float[Tensor, "batch items"]:
    """One step of the classical Runge-Kutta method."""
    k1 = velocity(x)
    k2 = velocity(x + length / 2 * k1)
    k3 = velocity(x + length / 2 * k2)
    k4 = velocity(x + length * k3)
    return x + length / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


SOLVERS = {"euler": euler, "rk4": rk4}
