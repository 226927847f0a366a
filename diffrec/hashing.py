"""Hashes of whole numbers in tensors: the same on every device, and for any number of threads."""

from __future__ import annotations

from diffrec.typing import Int, Tensor

GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed 64-bit integer


def mixed(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """A bijection of 64-bit numbers, whose products wrap: Stafford's variant 13 (in SplitMix64, Steele et al. 2014)."""
    x = (x ^ shifted(x, 30)) * -4658895280553007687
    x = (x ^ shifted(x, 27)) * -7723592293110705685
    return x ^ shifted(x, 31)


def shifted(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """The upper bits moved down, with zeros behind them."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
