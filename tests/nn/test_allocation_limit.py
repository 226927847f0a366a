"""A constructor that asks for too much is stopped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.nn.allocation_limit import AllocationLimit


def test_numbers_and_tensors_are_counted():
    with AllocationLimit(12, 2, "is allowed"):
        nn.Linear(3, 3)
    for elements, tensors in ((11, 2), (12, 1)):
        with (
            pytest.raises(ValueError, match=r"^its arguments ask for a far larger model than is allowed$"),
            AllocationLimit(elements, tensors, "is allowed"),
        ):
            nn.Linear(3, 3)
    with pytest.raises(ValueError, match="larger"), AllocationLimit(100, 2, "is allowed"):
        torch.zeros(size=(101,))
