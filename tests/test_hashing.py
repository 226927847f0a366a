"""The published numbers of SplitMix64."""

from __future__ import annotations

import torch

from diffrec.hashing import GOLDEN, mixed, shifted


def test_the_first_numbers_of_seed_0():
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    got = mixed(GOLDEN * torch.arange(1, 4))
    assert [number % (1 << 64) for number in got.tolist()] == expected


def test_what_is_shifted_in_is_zero():
    assert shifted(torch.tensor([-1, 1 << 40]), 32).tolist() == [(1 << 32) - 1, 1 << 8]
