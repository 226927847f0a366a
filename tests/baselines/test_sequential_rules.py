"""Sequential rules against golden counts, and plain loops from there on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines.sequential_rules import SequentialRules, normalised
from diffrec.data.rules import count_rules
from diffrec.errors import UsageError


def loop_scores(history: torch.Tensor, rules: np.ndarray, decay: float) -> np.ndarray:
    """score_j = sum_k d^(L-1-k) S[h_k, j], event by event."""
    scores = np.zeros((len(history), rules.shape[1]))
    for row, items in enumerate(history.tolist()):
        for age, item in enumerate(reversed([item for item in items if item])):
            scores[row] += decay**age * rules[item - 1]
    return scores


@pytest.mark.parametrize("window", [2, 5, 10])
def test_counts_are_golden(closed_forms, window):
    counts = count_rules(closed_forms.sequences, closed_forms.num_items, window).toarray()
    np.testing.assert_allclose(counts, closed_forms.arrays[f"rules.w{window}inv.C"].numpy(), rtol=1e-12)


@pytest.mark.parametrize("window", [5, 10])
@pytest.mark.parametrize("decay", [0.5, 0.7])
def test_raw_scores_are_golden(closed_forms, window, decay):
    model = SequentialRules(closed_forms.num_items, window, "raw", decay)
    model.solve(closed_forms.sequences)
    expected = closed_forms.arrays[f"rules.w{window}inv.raw.decay{decay}"].float()
    torch.testing.assert_close(model.score(closed_forms.history), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalisation", ["p", "cos"])
def test_normalised_rules_and_scores_against_loops(closed_forms, normalisation):
    counts = closed_forms.arrays["rules.w10inv.C"].numpy()
    expected = np.zeros_like(counts)
    for i in range(13):
        for j in range(13):
            by_row, by_column = 1 + counts[i].sum(), 1 + counts[:, j].sum()
            expected[i, j] = counts[i, j] / (by_row if normalisation == "p" else np.sqrt(by_row * by_column))
    rules = normalised(count_rules(closed_forms.sequences, 13, 10), normalisation)
    np.testing.assert_allclose(rules.toarray(), expected, rtol=1e-12)

    model = SequentialRules(13, 10, normalisation, 0.7)
    model.solve(closed_forms.sequences)
    scores = model.score(closed_forms.history).numpy()
    np.testing.assert_allclose(scores, loop_scores(closed_forms.history, expected, 0.7), rtol=1e-5, atol=1e-6)


def test_a_window_shorter_than_a_sequence_and_an_empty_one(closed_forms):
    with pytest.raises(UsageError, match="window must be a whole number from 1, got 0"):
        SequentialRules(13, window=0)
    sequences = closed_forms.sequences.take(np.array([0]))
    assert count_rules(sequences.drop_last(100), 13, 10).nnz == 0
