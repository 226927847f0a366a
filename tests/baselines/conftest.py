"""The sequences of the golden closed forms, in our conventions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases, Split


@pytest.fixture(scope="session")
def closed_forms(golden):
    """arrays: the golden tensors; history: (24, 9) numbers 1..13, 0-padded; sequences: the same as rows, split: of them
    alone, an item an hour."""
    arrays = golden("closed_forms")
    history = arrays["data.sequences"] + 1
    flat = history[history > 0].numpy()
    sequences = Ragged.from_lengths(flat, (history > 0).sum(1).numpy())
    hours = Ragged(3600 * sequences.position_of_entry, sequences.offsets)
    nobody = Cases(*[Ragged.empty(0)] * 3, np.empty(0))
    split = Split(sequences, nobody, nobody, hours, dated=True)
    return SimpleNamespace(arrays=arrays, history=history, sequences=sequences, split=split, num_items=13)
