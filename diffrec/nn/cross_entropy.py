"""Cross-entropy over the whole catalogue in chunks, so that memory does not grow with the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import Function

from diffrec.nn.precision import at_least_float32
from diffrec.typing import Float, Int, Tensor

_LOGITS_AT_ONCE = 1 << 22  # 16 MiB of float32: inside a processor's cache, which is what makes this fast


def cross_entropy_over_items(
    states: Float[Tensor, "positions dim"],
    table: Float[Tensor, "items dim"],
    target: Int[Tensor, " positions"],
    prior: Callable[[slice], Tensor] | None = None,
    weight: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """mean of -log softmax(states @ table.T + weight * prior)[target]; target: column 0..items-1.

    prior: the fixed logits (rows, items) of a slice of the positions, asked for chunk by chunk; `weight` goes with it.
    Logits exist for one chunk of positions at a time, and the gradient is computed along with the loss,
    in float32 under autocast too.
    """
    return _ChunkedCrossEntropy.apply(at_least_float32(states), at_least_float32(table), target, prior, weight)


def logit_chunks(states: Tensor, table: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A slice of the positions at a time, and memory (rows, items) for the logits of all items there."""
    rows = max(1, _LOGITS_AT_ONCE // len(table))
    memory = states.new_empty(min(rows, len(states)), len(table))
    for start in range(0, len(states), rows):
        here = slice(start, start + rows)
        yield here, memory[: len(states[here])]


class _ChunkedCrossEntropy(Function):
    """d loss / d logits = (softmax - onehot) / positions, formed in place chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        target: Tensor,
        prior: Callable[[slice], Tensor] | None,
        weight: Tensor | None,
    ) -> Tensor:
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        total, grad_weight = states.new_zeros(()), states.new_zeros(())
        for here, memory in logit_chunks(states, table):
            picked = target[here, None]
            logits = torch.mm(states[here], table.T, out=memory)
            known = None
            if prior is not None and weight is not None:
                known = prior(here)
                logits.addcmul_(known, weight)
            at_target = logits.gather(1, picked)
            highest = logits.amax(1, keepdim=True)  # max would look for its place too, one item after the other
            slope = torch.softmax(logits, dim=1, out=logits)
            # the probability of the best item is at least 1 / items, so its logarithm is safe
            total += (highest - slope.amax(1, keepdim=True).log() - at_target).sum()
            slope.scatter_add_(1, picked, torch.full_like(at_target, -1.0))
            if known is not None:
                grad_weight += torch.linalg.vecdot(slope, known).sum()
            torch.mm(slope, table, out=grad_states[here])
            grad_table.addmm_(slope.T, states[here])
        ctx.save_for_backward(grad_states, grad_table, grad_weight)
        ctx.positions, ctx.weighted = len(states), weight is not None
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, Tensor | None]:
        grad_states, grad_table, grad_weight = (part * (grad / ctx.positions) for part in ctx.saved_tensors)
        return grad_states, grad_table, None, None, grad_weight if ctx.weighted else None
