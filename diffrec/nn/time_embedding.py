"""Sinusoidal embeddings of the timestep, in the two spellings the papers use."""

from __future__ import annotations

import math

import torch
from jaxtyping import Num
from torch import nn

from diffrec.typing import Float, Int, Tensor


def cosine_sine(t: Num[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """[cos(t f_k), sin(t f_k)], f_k = 10000^(-k / half), a zero column if dim is odd (DiffRec, DiffuRec, FlowCF)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = t[:, None].float() * frequencies
    return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def sine_cosine(t: Int[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """[sin(t f_k), cos(t f_k)], f_k = 10000^(-k / (half - 1)) (DreamRec, PreferDiff); dim is even."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=t.device))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
