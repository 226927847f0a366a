"""Propagation over the graph of users and their items, whose cost is that of reading the neighbours' rows."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from diffrec.nn.fitted_shape import FittedShape
from diffrec.typing import Float, Int, Tensor


class BipartiteGraph(FittedShape):
    """S = D^-1/2 A D^-1/2 of the nodes: the users, and after them the `num_items` items. Before `fit`, no user.

    Kept as the lists of neighbours alone: with F = D^-1/2 E, S E is D^1/2 times the mean over each node's neighbours
    of F, a sum of rows without weights (`embedding_bag`; `benchmarks/speed/graph.py` has it beside a sparse product).
    `neighbours` (2 pairs,) and `offsets` (nodes + 1,) are int32.
    """

    neighbours: Tensor
    offsets: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("neighbours", torch.empty(0, dtype=torch.int32))
        self.register_buffer("offsets", torch.zeros(num_items + 1, dtype=torch.int32))
        self.num_items = num_items

    def fit(self, users: Int[Tensor, " pairs"], items: Int[Tensor, " pairs"], num_users: int) -> None:
        """From all different (user, item) pairs, users from 0, items from 1."""
        items = items - 1 + num_users
        nodes, neighbours = torch.cat([users, items]), torch.cat([items, users])
        degrees = torch.bincount(nodes, minlength=num_users + self.num_items)
        device = self.offsets.device
        self.neighbours = neighbours[nodes.argsort(stable=True)].int().to(device)
        self.offsets = torch.nn.functional.pad(degrees.cumsum(0), (1, 0)).int().to(device)

    @property
    def degrees(self) -> Float[Tensor, "nodes 1"]:
        """D: how many neighbours each node has, 1 for a node without."""
        return self.offsets.diff().clamp(min=1).float()[:, None]

    def means(self, table: Float[Tensor, "nodes dim"]) -> Float[Tensor, "nodes dim"]:
        """D^-1 A table: the mean over the neighbours of every node, 0 where there are none."""
        return self._sums(table).div_(self.degrees)

    def layers(self, table: Float[Tensor, "nodes dim"], num_layers: int) -> list[Float[Tensor, "nodes dim"]]:
        """D^-1/2 S^k table for k = 0..num_layers; nothing here is differentiable."""
        layers = [table / self.degrees.sqrt()]
        for _ in range(num_layers):
            layers.append(self.means(layers[-1]))
        return layers

    def mean_of_layers(self, table: Float[Tensor, "nodes dim"], num_layers: int) -> Float[Tensor, "nodes dim"]:
        """The mean of S^k table for k = 0..num_layers; the way back is the same way, since S is symmetric."""
        return _MeanOfLayers.apply(table, self, num_layers)

    def horner(self, table: Float[Tensor, "nodes dim"], num_layers: int) -> Float[Tensor, "nodes dim"]:
        """The same, not differentiable: D^1/2 (F + D^-1 A (F + ...)) / (num_layers + 1)."""
        roots, inverse = self.degrees.sqrt(), 1 / self.degrees
        scaled = table / roots
        total = scaled
        for _ in range(num_layers):
            sums = self._sums(total)
            total = torch.addcmul(scaled, sums, inverse, out=sums)
        return total * (roots / (num_layers + 1))

    def _sums(self, table: Float[Tensor, "nodes dim"]) -> Float[Tensor, "nodes dim"]:
        """A table."""
        return embedding_bag(self.neighbours, table, self.offsets, mode="sum", include_last_offset=True)


class _MeanOfLayers(Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, graph: BipartiteGraph, num_layers: int) -> Tensor:
        ctx.graph, ctx.num_layers = graph, num_layers
        return graph.horner(table, num_layers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.graph.horner(grad, ctx.num_layers), None, None
