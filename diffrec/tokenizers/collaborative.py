"""Vectors of items: those that were given, else from who had them, for items without words."""

from __future__ import annotations

import numpy as np
import torch

from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.nn.principal import principal
from diffrec.spaces.embedding import read_vectors
from diffrec.spaces.item_clusters import singular_vectors
from diffrec.tokenizers.k_means import Points
from diffrec.typing import Float, Tensor


def collaborative_vectors(sequences: Ragged, num_items: int, width: int) -> Points:
    """(N, width) `singular_vectors` of training sequences; 0 for items that are in none, and where there are fewer."""
    found = singular_vectors(sequences, num_items, width)
    return np.pad(found, ((0, 0), (0, width - found.shape[1])))


def item_features(
    item_vectors: str | None, sequences: Ragged, num_items: int, size: int, whiten: bool
) -> Float[Tensor, "items size"]:
    """Frozen vectors for a model that reads its items from them.

    item_vectors: a name of `diffrec data embed`, or a safetensors file, see `read_vectors`, of which the strongest
    `size` directions are taken, with equal spread if `whiten`; None: singular vectors of the training sequences, of
    entries around 1. UsageError where they are of other items, or narrower.
    """
    if item_vectors is None:
        return torch.from_numpy(collaborative_vectors(sequences, num_items, size) * np.sqrt(size)).float()
    raw = read_vectors(item_vectors)
    if len(raw) != num_items or raw.shape[1] < size:
        needed = f"{num_items} items and a width of at least {size}"
        raise UsageError(f"vectors of {needed} are needed, got {len(raw)} of width {raw.shape[1]}")
    return principal(raw, size, whiten).float()
