"""Losses that compare the target with some items instead of all.

positive: (positions,) logits of the targets; negative: (positions, negatives), -inf where an item that was drawn is
the target itself, which then adds nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.nn.functional import embedding, softplus

from diffrec.nn.cross_entropy import logit_chunks
from diffrec.nn.precision import at_least_float32
from diffrec.typing import Float, Int, Tensor

Positive = Float[Tensor, " positions"]
Negative = Float[Tensor, "positions negatives"]

_ALL_FOR_ONE_DRAWN = 64  # on a processor, the logits of so many items cost what one vector costs that is looked up


def uniform_negatives(
    states: Float[Tensor, "positions dim"],
    table: Float[Tensor, "items dim"],
    target: Int[Tensor, " positions"],
    count: int,
) -> tuple[Positive, Negative]:
    """Logits of the target (column 0..items-1) of each position and of `count` items drawn for it alone, uniformly."""
    drawn = torch.randint(len(table), (len(target), count), device=target.device)
    items = torch.cat([target[:, None], drawn], dim=1)
    if table.device.type == "cpu" and len(table) <= _ALL_FOR_ONE_DRAWN * count:
        logits = _LogitsOfSome.apply(at_least_float32(states), at_least_float32(table), items)
    else:
        logits = at_least_float32(torch.bmm(embedding(items, table), states[:, :, None])[:, :, 0])
    return logits[:, 0], logits[:, 1:].masked_fill(drawn == target[:, None], -torch.inf)


class _LogitsOfSome(Function):
    """(positions, some): states @ table.T at `items`, taken from the logits of all items, chunk by chunk.

    A processor multiplies faster than it looks up a vector for every pair of a position and an item.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, items: Tensor) -> Tensor:
        ctx.save_for_backward(states, table, items)
        taken = states.new_empty(items.shape)
        for here, memory in logit_chunks(states, table):
            torch.gather(torch.mm(states[here], table.T, out=memory), 1, items[here], out=taken[here])
        return taken

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        states, table, items = ctx.saved_tensors
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        for here, memory in logit_chunks(states, table):
            slope = memory.zero_().scatter_add_(1, items[here], grad[here])
            torch.mm(slope, table, out=grad_states[here])
            grad_table.addmm_(slope.T, states[here])
        return grad_states, grad_table, None


def shared_negatives(
    states: Float[Tensor, "positions dim"],
    table: Float[Tensor, "items dim"],
    target: Int[Tensor, " positions"],
    drawn: Int[Tensor, " negatives"],
) -> tuple[Positive, Negative]:
    """Logits of the target of each position and of the columns `drawn`, the same for all positions."""
    positive = (states * embedding(target, table)).sum(1)
    negative = at_least_float32(states @ embedding(drawn, table).T)
    return positive, negative.masked_fill(drawn == target[:, None], -torch.inf)


def sampled_softmax(positive: Positive, negative: Negative) -> Float[Tensor, ""]:
    """The mean of -log(e^s+ / (e^s+ + sum of e^s-)); nothing is corrected for how often an item is drawn."""
    return (torch.cat([positive[:, None], negative], dim=1).logsumexp(1) - positive).mean()


def binary_cross_entropy(positive: Positive, negative: Negative) -> Float[Tensor, ""]:
    """The mean over positions of -log sigmoid(s+), and -log sigmoid(-s-) of every negative."""
    return (softplus(-positive) + softplus(negative).sum(1)).mean()


def calibrated(positive: Positive, sampled_share: float, calibration: float) -> Float[Tensor, " positions"]:
    """The s whose sigmoid is sigmoid(s+)^beta (Petrov and Macdonald, RecSys 2023), in float64.

    beta = a (t (1 - 1/a) + 1/a) for the share a of the items that is drawn and the calibration t: 1 at t = 0, which
    leaves s+ as it is, a at t = 1.
    """
    beta = sampled_share * (calibration * (1 - 1 / sampled_share) + 1 / sampled_share)
    probability = positive.double().sigmoid().clamp(1e-10, 1 - 1e-10)
    return -(probability.pow(-beta).clamp(min=1 + 1e-10) - 1).clamp(min=1e-10).log()


def generalised_binary_cross_entropy(
    positive: Positive, negative: Negative, num_items: int, calibration: float
) -> Float[Tensor, ""]:
    """gBCE: binary cross-entropy, averaged over the target and its negatives, of the calibrated target, in float64."""
    count = negative.shape[1]
    share = min(1.0, count / max(num_items - 1, 1))
    of_target = softplus(-calibrated(positive, share, calibration))
    return ((of_target + softplus(negative).sum(1)) / (count + 1)).mean()


def bpr_max(positive: Positive, negative: Negative, penalty: float) -> Float[Tensor, ""]:
    """The mean of -log(sum of w sigmoid(s+ - s-)) + penalty * (sum of w s-^2), w being the softmax of the negatives
    (Hidasi and Karatzoglou, CIKM 2018)."""
    weight = negative.softmax(1)
    ranked = (weight * (positive[:, None] - negative).sigmoid()).sum(1)
    squares = (weight * negative.masked_fill(negative.isneginf(), 0.0).square()).sum(1)
    return (penalty * squares - (ranked + 1e-24).log()).mean()
