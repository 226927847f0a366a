"""A batch keeps its five tensors wherever it goes."""

from __future__ import annotations

import torch

from diffrec.data.batch import Batch


def test_moving_keeps_every_field_in_its_place():
    batch = Batch(torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64), key=torch.tensor([4, 5]))
    moved = batch.to("meta")
    assert [None if x is None else (x.device.type, x.shape) for x in moved.fields()] == [
        ("meta", (2, 3)), ("meta", (2, 1)), None, ("meta", (2,)), None,
    ]  # fmt: skip
    assert moved.seen is None
    assert batch.history.device.type == "cpu"


def test_the_fields_come_in_the_order_of_the_constructor():
    parts = (*(torch.full((1, n), n) for n in (1, 2, 3)), torch.tensor([9]), torch.tensor([[8]]))
    batch = Batch(*parts)
    assert batch.fields() == parts
    assert (batch.history, batch.target, batch.seen, batch.key, batch.times) == parts
