"""Popularity against the golden user-item matrix."""

from __future__ import annotations

import torch

from diffrec.baselines.popularity import Popularity


def test_users_are_counted_once_per_item(closed_forms):
    model = Popularity(closed_forms.num_items)
    model.solve(closed_forms.sequences)
    users_per_item = closed_forms.arrays["data.X"].sum(0)
    assert not torch.equal(users_per_item, closed_forms.arrays["rules.popularity"])  # there are repeats
    assert torch.equal(model.score(closed_forms.history), users_per_item.float().expand(24, -1))
