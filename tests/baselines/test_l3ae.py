"""L3AE against the conditions of its minimum in float64, and against EASE where texts weigh nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines import EASE, L3AE
from diffrec.baselines.ease import without_diagonal
from diffrec.baselines.history import seen_matrix
from diffrec.errors import UsageError
from diffrec.nn import memory
from diffrec.tokenizers.collaborative import item_features


def solved(closed_forms, **arguments: float) -> L3AE:
    model = L3AE(closed_forms.num_items, vector_size=4, **arguments)
    model.solve(closed_forms.sequences)
    return model


def test_no_other_table_without_a_diagonal_is_better(closed_forms):
    """The slopes of both objectives are zero at every place that is free."""
    size, weights = closed_forms.num_items, {"regularization": 7.0, "text_weight": 5.0, "text_regularization": 3.0}
    x = seen_matrix(closed_forms.sequences, size).toarray().astype(np.float64)
    f = item_features(None, closed_forms.sequences, size, 4, whiten=False).double().numpy().T
    empty = np.eye(size, dtype=bool)

    products, penalty = f.T @ f, 3.0 * np.eye(size)
    texts = np.zeros((size, size))
    for j in range(size):  # each column alone, without the item itself
        others = np.arange(size) != j
        square = (products + penalty)[np.ix_(others, others)]
        texts[others, j] = np.linalg.solve(square, products[others, j])

    table = solved(closed_forms, **weights).table.double().numpy()
    slope = x.T @ (x @ table - x) + 7.0 * table + 5.0 * (table - texts)
    assert not table[empty].any()
    assert np.abs(slope[~empty]).max() < 1e-4 * np.abs(x.T @ x).max()
    assert np.abs(texts).max() > 0.1


def test_without_texts_it_is_ease(closed_forms):
    plain = EASE(closed_forms.num_items, 50.0)
    plain.solve(closed_forms.sequences)
    torch.testing.assert_close(solved(closed_forms, regularization=50.0, text_weight=0.0).table, plain.table)


def test_with_nothing_but_texts_it_says_what_they_say(closed_forms):
    """As gamma grows B goes to S, whatever users had."""
    f = item_features(None, closed_forms.sequences, closed_forms.num_items, 4, whiten=False)
    texts = without_diagonal(f @ f.T, 2.0)
    table = solved(closed_forms, text_weight=1e6, text_regularization=2.0).table
    assert (table - texts).abs().max() < 1e-3 * texts.abs().max()


def test_what_does_not_fit_is_refused_before_anything_is_read(monkeypatch, closed_forms):
    monkeypatch.setattr(memory, "available_memory", lambda: 1599)
    with pytest.raises(UsageError, match=r"L3AE on 10 items needs 0\.00 GB of memory"):
        L3AE(10, item_vectors="no/such-file").solve(closed_forms.sequences)
