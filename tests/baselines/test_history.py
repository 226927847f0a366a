"""Weights of a history against plain loops, and the two ways an item x item matrix is kept."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from diffrec.baselines import ItemKNN, Markov, RP3beta, SequentialRules, item_knn, rp3beta, sequential_rules
from diffrec.baselines.history import ItemToItem, event_weights, item_weights, last_occurrences
from diffrec.data import neighbours
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.nn import memory

HISTORY = torch.tensor([[3, 1, 3, 2, 0], [5, 5, 5, 5, 5], [0, 0, 0, 0, 0], [4, 0, 0, 0, 0]])


def random_history(rows: int, length: int, num_items: int) -> torch.Tensor:
    """Right-padded histories of random length with many repeats."""
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(1, num_items + 1, (rows, length), generator=generator)
    lengths = torch.randint(0, length + 1, (rows, 1), generator=generator)
    return torch.where(torch.arange(length) < lengths, items, 0)


def test_every_event_decays_with_the_events_after_it():
    assert event_weights(HISTORY, 0.5).tolist() == [
        [0.125, 0.25, 0.5, 1.0, 0.0],
        [0.0625, 0.125, 0.25, 0.5, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
    ]


def test_last_occurrences_against_a_loop():
    history = random_history(40, 12, 6)
    expected = [
        [item > 0 and item not in row[place + 1 :] for place, item in enumerate(row)] for row in history.tolist()
    ]
    assert last_occurrences(history).tolist() == expected


def test_item_weights_at_decay_one_are_a_set():
    history = random_history(40, 12, 6)
    ones = torch.zeros(40, 7).scatter_add_(1, history, item_weights(history, 1.0))[:, 1:]
    assert ones.tolist() == [[float(item in row) for item in range(1, 7)] for row in history.tolist()]


@pytest.fixture(params=["sparse", "table"])
def model_and_matrix(request):
    """A model whose matrix is kept in one of the two forms, and that matrix."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(50, 50)).astype(np.float32) * (rng.random((50, 50)) < 0.1)
    model = ItemToItem(50, decay=0.7)
    if request.param == "sparse":
        model.keep_sparse(sp.csr_array(matrix.astype(np.float64)))
    else:
        model.keep_table(matrix)
    assert (model.table.numel() > 0) == (request.param == "table")
    return model, matrix.astype(np.float64)


def test_scores_are_weighted_sums_of_rows(model_and_matrix):
    model, matrix = model_and_matrix
    history = random_history(30, 9, 50)
    expected = np.zeros((30, 50))
    for row, items in enumerate(history.tolist()):
        items = [item for item in items if item]
        for place, item in enumerate(items):
            if item not in items[place + 1 :]:
                expected[row] += 0.7 ** (len(items) - 1 - place) * matrix[item - 1]
    np.testing.assert_allclose(model.score(history).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_scores_do_not_depend_on_the_batch(model_and_matrix):
    model, _ = model_and_matrix
    history = random_history(30, 9, 50)
    together = model.score(history)
    one_by_one = torch.cat([model.score(row[None, : max(1, int((row > 0).sum()))]) for row in history])
    assert torch.equal(together, one_by_one)


@pytest.mark.parametrize("length", [0, 3])
def test_an_empty_history_scores_zero(model_and_matrix, length):
    model, _ = model_and_matrix
    assert torch.equal(model.score(torch.zeros(2, length, dtype=torch.int64)), torch.zeros(2, 50))


@pytest.mark.parametrize(("share", "kept_as"), [(0.05, "sparse"), (0.3, "table")])
def test_well_filled_matrices_are_kept_as_a_table(share, kept_as):
    model = ItemToItem(40, decay=1.0)
    matrix = sp.random_array((40, 40), density=share, format="csr", rng=np.random.default_rng(0))
    model.keep_sparse(sp.csr_array(matrix))
    assert ("table" if model.table.numel() else "sparse") == kept_as
    kept = model.table.numpy() if kept_as == "table" else model.sparse().toarray()
    np.testing.assert_array_equal(kept, matrix.toarray().astype(np.float32))


def test_keeping_another_matrix_forgets_the_first():
    model = ItemToItem(40, decay=1.0)
    model.keep_table(np.ones((40, 40), dtype=np.float32))
    model.keep_sparse(sp.csr_array((40, 40)))
    assert torch.equal(model.score(torch.tensor([[1, 2]])), torch.zeros(1, 40))
    model.keep_sparse(sp.csr_array(np.eye(40)))
    model.keep_table(np.zeros((40, 40), dtype=np.float32))
    assert (len(model.values), len(model.indices), int(model.indptr.max())) == (0, 0, 0)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(UsageError, match="decay must be a finite number above 0 up to 1, got"):
        ItemToItem(5, decay=decay)


@pytest.mark.parametrize("cells", [1 << 24, 1 << 13], ids=["one-block", "blocks"])
@pytest.mark.parametrize(
    ("model", "rest"),
    [
        (ItemKNN(400), item_knn),
        (ItemKNN(400, neighbours=20, neighbours_of="candidate"), item_knn),
        (RP3beta(400, neighbours=20), rp3beta),
        (SequentialRules(400, normalisation="cos"), sequential_rules),
        (Markov(400), sequential_rules),
    ],
    ids=["item-knn", "nearest", "rp3beta", "sequential-rules", "markov"],
)
def test_memory_is_known_before_it_is_needed(model, rest, cells, monkeypatch):
    """What is asked for is hardly more than what is used, and nothing is computed where one byte is missing."""
    monkeypatch.setattr(neighbours, "_CELLS", cells)
    values = np.random.default_rng(0).integers(1, 401, size=400 * 12).astype(np.int32)
    sequences = Ragged.from_lengths(values, np.tile([4, 20], 200))
    asked = []
    monkeypatch.setattr(memory._log, "info", lambda message, what, needed, free: asked.append(needed * 1e9))
    tracemalloc.start()
    model.solve(sequences)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= asked[0] < 4 * peak
    monkeypatch.setattr(memory, "available_memory", lambda: int(asked[0]) - 1)
    for name in ("item_products", "count_rules"):
        monkeypatch.setattr(rest, name, None, raising=False)
    with pytest.raises(UsageError, match=rf"{type(model).__name__} on 400 items needs .* GB are free; .*use"):
        model.solve(sequences)
