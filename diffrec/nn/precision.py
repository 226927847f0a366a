"""Where autocast does not decide: what it passes over, sums that need their digits, answers that it would round."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from diffrec.typing import Float, Tensor


def at_least_float32(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor itself, or in float32 what a layer under autocast gave in fewer digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def full_precision(device: str) -> AbstractContextManager[object]:
    """Without autocast on `device`; where there is none anyway nothing is entered, for a graph could not hold it."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
