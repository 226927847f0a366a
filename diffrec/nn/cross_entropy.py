"""Cross-entropy over the whole catalogue in chunks, so that memory does not grow with the batch."""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from diffrec.typing import Float, Int, Tensor

_LOGITS_AT_ONCE = 1 << 23  # 32 MiB of float32: about a processor's cache, which is what makes this fast


def cross_entropy_over_items(
    states: Float[Tensor, "positions dim"], table: Float[Tensor, "items dim"], target: Int[Tensor, " positions"]
) -> Float[Tensor, ""]:
    """mean of -log softmax(states @ table.T)[target]; target: column 0..items-1.

    Logits exist for one chunk of positions at a time, and the gradient is computed along with the loss.
    """
    return _ChunkedCrossEntropy.apply(states, table, target)


class _ChunkedCrossEntropy(Function):
    """d loss / d logits = (softmax - onehot) / positions, formed in place chunk by chunk."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, table: Tensor, target: Tensor) -> Tensor:
        rows = max(1, _LOGITS_AT_ONCE // len(table))
        grad_states, grad_table = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        for start in range(0, len(states), rows):
            here = slice(start, start + rows)
            logits = states[here] @ table.T
            picked = target[here, None]
            log_norm = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (log_norm - logits.gather(1, picked)).sum()
            slope = logits.sub_(log_norm).exp_()
            slope.scatter_add_(1, picked, torch.full_like(log_norm, -1.0))
            torch.mm(slope, table, out=grad_states[here])
            grad_table.addmm_(slope.T, states[here])
        ctx.save_for_backward(grad_states, grad_table)
        ctx.positions = len(states)
        return total / len(states)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_table = ctx.saved_tensors
        return grad_states * (grad / ctx.positions), grad_table * (grad / ctx.positions), None
