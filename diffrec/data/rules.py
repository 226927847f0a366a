"""Counted "i, soon after it j" in sequences."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from diffrec.data.ragged import Ragged

_EVENT = 80  # bytes that one distance needs for an event


def bound_of_rules(sequences: Ragged, num_items: int, window: int) -> tuple[int, int]:
    """How many entries `count_rules` gives at most, and how many bytes it needs at most beside three times those."""
    often = np.bincount(sequences.values, minlength=num_items + 1)[1:]
    return int(np.minimum(often * window, num_items).sum()), _EVENT * len(sequences.values)


def count_rules(sequences: Ragged, num_items: int, window: int) -> sp.csr_array:
    """S (N, N) float64: pairs of events up to `window` apart, each worth one over its distance."""
    rules = sp.csr_array((num_items, num_items))
    items, rows = sequences.values.astype(np.int64) - 1, sequences.row_of_entry
    for distance in range(1, window + 1):
        together = rows[:-distance] == rows[distance:]
        pairs = items[:-distance][together], items[distance:][together]
        worth = np.full(len(pairs[0]), 1 / distance)
        rules = rules + sp.coo_array((worth, pairs), shape=rules.shape).tocsr()
    return rules
