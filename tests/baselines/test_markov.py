"""The Markov chain against golden transition counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines.markov import Markov
from diffrec.data.ragged import Ragged


@pytest.mark.parametrize("normalisation", ["raw", "p", "cos"])
def test_scores_are_the_row_of_the_last_item_with_earlier_ones_as_tie_breakers(closed_forms, normalisation):
    counts = closed_forms.arrays["rules.markov.C"].numpy()
    rows, columns = 1 + counts.sum(1, keepdims=True), 1 + counts.sum(0, keepdims=True)
    chain = {"raw": counts, "p": counts / rows, "cos": counts / np.sqrt(rows * columns)}[normalisation]
    expected = np.zeros((24, 13))
    for row, items in enumerate(closed_forms.history.tolist()):
        for age, item in enumerate(reversed([item for item in items if item])):
            expected[row] += 1e-4**age * chain[item - 1]
    model = Markov(13, normalisation)
    model.solve(closed_forms.sequences)
    np.testing.assert_allclose(model.score(closed_forms.history).numpy(), expected, rtol=1e-5, atol=1e-9)


def test_earlier_items_only_break_ties():
    model = Markov(4, "raw")
    model.solve(Ragged.from_rows([[1, 2], [1, 3], *[[4, 3]] * 50]))
    best = model.score(torch.tensor([[4, 1]])).argsort(descending=True)[0, :2] + 1
    assert best.tolist() == [3, 2]  # both once after 1; 3 also after 4
    fifty_times_before, once_after_last = model.score(torch.tensor([[4, 1]]))[0, [2, 1]]
    assert fifty_times_before - once_after_last == pytest.approx(50e-4, rel=1e-3)


def test_arguments_of_the_chain_rebuild_it():
    assert Markov(4, "cos").init_args == {"num_items": 4, "normalisation": "cos"}
