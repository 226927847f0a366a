"""Vectors of items from who had them."""

from __future__ import annotations

import torch

from diffrec.data.ragged import Ragged
from diffrec.tokenizers.collaborative import item_features


def test_features_have_entries_around_one():
    rows = Ragged.from_rows([[(7 * i + j) % 15 + 1 for j in range(5)] for i in range(20)])
    features = item_features(None, rows, 15, 4, whiten=False)
    torch.testing.assert_close(features.square().mean(1), torch.ones(15))
