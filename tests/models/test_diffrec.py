"""T-DiffRec: the recency weights of its official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.data.ragged import Ragged
from diffrec.models import DiffRec

RAMPS = [(0.1, 1.0), (0.5, 1.0), (0.0, 0.3)]


@pytest.mark.parametrize("recency", RAMPS)
def test_weighted_vectors(golden, recency):
    """The file holds one row a pair, users interleaved, each user's in time order."""
    a = golden("tdiffrec")
    users, items = a["pairs"].numpy().T
    rows = Ragged.from_groups(users, items + 1, 6)
    history = torch.from_numpy(rows.padded(np.arange(6)))
    vectors = DiffRec(25, dims=(4,), recency=recency).space.encode(history)
    torch.testing.assert_close(vectors.double(), a[f"matrix.w{recency[0]}_{recency[1]}"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("recency", RAMPS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 17])
def test_ramps(golden, recency, size):
    vectors = DiffRec(17, dims=(4,), recency=recency).space.encode(torch.arange(1, size + 1)[None])
    expected = golden("tdiffrec")[f"ramp.w{recency[0]}_{recency[1]}.n{size}"]
    torch.testing.assert_close(vectors[0, :size].double(), expected, rtol=1e-6, atol=1e-7)
