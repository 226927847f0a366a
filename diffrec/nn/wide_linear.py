"""A linear layer between a narrow side and one as wide as the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from diffrec.typing import Float, Tensor

_COLUMNS = 512  # one product of a few hundred rows and thousands of columns was slower with MKL


def wide_linear(
    inputs: tuple[Float[Tensor, "batch _"], ...], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"]
) -> Float[Tensor, "batch out"]:
    """cat(inputs, 1) @ weight.T + bias, without the concatenation, and with wide results in blocks of columns."""
    if weight.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(torch.cat(inputs, dim=1), weight, bias)
    return _WideLinear.apply(weight, bias, *inputs)


def _blocks(width: int) -> Iterator[slice]:
    return (slice(start, min(start + _COLUMNS, width)) for start in range(0, width, _COLUMNS))


class _WideLinear(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *inputs)
        output = bias.new_empty(len(inputs[0]), len(bias))
        parts = weight.split([x.shape[1] for x in inputs], dim=1)
        for columns in _blocks(len(bias)):
            torch.addmm(bias[columns], inputs[0], parts[0][columns].T, out=output[:, columns])
        for x, part in zip(inputs[1:], parts[1:], strict=True):
            output.addmm_(x, part.T)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        widths = [x.shape[1] for x in inputs]
        grad_weight = torch.empty_like(weight)
        for x, part in zip(inputs, grad_weight.split(widths, dim=1), strict=True):
            for columns in _blocks(x.shape[1]):
                torch.mm(grad.T, x[:, columns], out=part[:, columns])
        parts = zip(weight.split(widths, dim=1), ctx.needs_input_grad[2:], strict=True)
        return grad_weight, grad.sum(0), *(grad @ part if needed else None for part, needed in parts)
