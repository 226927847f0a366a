"""The sequences of the golden closed forms, in our conventions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from diffrec.data.ragged import Ragged


@pytest.fixture(scope="session")
def closed_forms(golden):
    """arrays: the golden tensors; history: (24, 9) numbers 1..13, 0-padded; sequences: the same as rows."""
    arrays = golden("closed_forms")
    history = arrays["data.sequences"] + 1
    flat = history[history > 0].numpy()
    sequences = Ragged.from_lengths(flat, (history > 0).sum(1).numpy())
    return SimpleNamespace(arrays=arrays, history=history, sequences=sequences, num_items=13)
