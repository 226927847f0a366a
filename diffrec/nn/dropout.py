"""Dropout whose mask costs sixteen random bits an element."""

from __future__ import annotations

import math

import torch
from torch import nn

from diffrec.typing import Float, Tensor

_LEVELS = 1 << 16
_INT64 = torch.iinfo(torch.int64)


class Dropout(nn.Dropout):
    """`nn.Dropout` that is faster on the CPU, where torch draws one number an element.

    p is rounded to a multiple of 2^-16 and what is kept is scaled by the rounded share, so that expectations
    are exact. The mask comes from torch's generator and does not depend on the number of threads.
    """

    def forward(self, input: Float[Tensor, ...]) -> Float[Tensor, ...]:
        dropped = round(self.p * _LEVELS)
        if not self.training or dropped == 0:
            return input
        if dropped == _LEVELS or input.device.type != "cpu":
            return super().forward(input)
        mask = scaled_mask(input.shape, dropped, input.dtype)
        return input * mask if input.requires_grad else mask.mul_(input)


def scaled_mask(shape: tuple[int, ...], dropped: int, dtype: torch.dtype) -> Float[Tensor, ...]:
    """0 with probability dropped / 2^16, else 2^16 / (2^16 - dropped); a mask of expectation 1 on the CPU."""
    size = math.prod(shape)
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(_INT64.min, None)
    kept = bits.view(torch.int16)[:size].view(shape) >= dropped - _LEVELS // 2
    return kept.to(dtype).mul_(_LEVELS / (_LEVELS - dropped))
