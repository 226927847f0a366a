"""Vectors of items from who had them, for items without words."""

from __future__ import annotations

import numpy as np

from diffrec.data.ragged import Ragged
from diffrec.spaces.item_clusters import singular_vectors
from diffrec.tokenizers.k_means import Points


def collaborative_vectors(sequences: Ragged, num_items: int, width: int) -> Points:
    """(N, width) `singular_vectors` of training sequences; 0 for items that are in none, and where there are fewer."""
    found = singular_vectors(sequences, num_items, width)
    return np.pad(found, ((0, 0), (0, width - found.shape[1])))
