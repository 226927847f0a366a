"""iALS against a dense alternation in double precision, and by what its solutions have to satisfy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines import ials
from diffrec.baselines.ials import IALS, padded_lengths
from diffrec.data.ragged import Ragged
from diffrec.errors import DiffrecError, UsageError
from diffrec.nn import memory

SETTINGS = {"alpha0": 0.3, "regularization": 0.05, "nu": 0.7}


@pytest.fixture(scope="module")
def sequences():
    """90 users with 0 to 41 of 60 items, some twice: rows shorter and longer than any width here."""
    rng = np.random.default_rng(0)
    sizes = np.arange(90) % 42
    favourites = rng.random((3, 60)) ** 4
    rows = [
        rng.choice(60, size, p=p / p.sum()) + 1 for size, p in zip(sizes, favourites[np.arange(90) % 3], strict=True)
    ]
    return Ragged.from_lengths(np.concatenate(rows), sizes)


def seen_of(sequences: Ragged) -> np.ndarray:
    seen = np.zeros((len(sequences), 60))
    seen[sequences.row_of_entry, sequences.values - 1] = 1
    return seen


def dense_step(seen: np.ndarray, others: np.ndarray, alpha0: float, regularization: float, nu: float) -> np.ndarray:
    """Each row's normal equations."""
    everybody = alpha0 * others.T @ others
    penalty = regularization * (seen.sum(1) + alpha0 * len(others)) ** nu
    systems = [
        everybody + (others.T * x) @ others + p * np.eye(others.shape[1]) for x, p in zip(seen, penalty, strict=True)
    ]
    return np.stack([np.linalg.solve(system, x @ others) for system, x in zip(systems, seen, strict=True)])


@pytest.mark.parametrize("dim", [3, 16, 40], ids=["by coordinates", "by either", "by members"])
@pytest.mark.parametrize("elements", [1 << 22, 1 << 10], ids=["large blocks", "small blocks"])
def test_scores_are_those_of_a_dense_alternation(sequences, dim, elements, monkeypatch):
    monkeypatch.setattr(ials, "_ELEMENTS", elements)
    seen = seen_of(sequences)
    users = torch.randn(90, dim, generator=torch.Generator().manual_seed(3)).double().numpy() * 0.2 / dim**0.5
    for _ in range(4):
        items = dense_step(seen.T, users, **SETTINGS)
        users = dense_step(seen, items, **SETTINGS)
    expected = users @ items.T
    model = IALS(60, dim, epochs=4, init_std=0.2, seed=3, **SETTINGS)
    model.solve(sequences)
    got = model.score(torch.from_numpy(sequences.padded(np.arange(90))))
    np.testing.assert_allclose(got, expected, atol=2e-4)


def objective(seen: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """As it is written in the docstring."""
    alpha0, regularization, nu = SETTINGS.values()
    scores, (num_users, num_items) = users @ items.T, seen.shape
    of_users = ((seen.sum(1) + alpha0 * num_items) ** nu * users.square().sum(1)).sum()
    of_items = ((seen.sum(0) + alpha0 * num_users) ** nu * items.square().sum(1)).sum()
    return (seen * (scores - 1) ** 2).sum() + alpha0 * scores.square().sum() + regularization * (of_users + of_items)


def test_the_objective_is_flat_at_a_user_and_falls_with_every_epoch(sequences):
    seen, values = torch.from_numpy(seen_of(sequences)), []
    history = torch.from_numpy(sequences.padded(np.arange(90)))
    for epochs in (1, 2, 4, 8):
        model = IALS(60, 8, epochs=epochs, **SETTINGS)
        model.solve(sequences)
        items = model.items.double()
        users = torch.linalg.lstsq(items, model.score(history).double().T).solution.T.requires_grad_()
        value = objective(seen, users, items)
        (slope,) = torch.autograd.grad(value, users)
        assert slope.abs().max() < 1e-3 < items.abs().max()
        values.append(float(value.detach()))
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_have_the_same_bits_in_any_batch(sequences, size):
    model = IALS(60, 24, epochs=2)
    model.solve(sequences)
    rng = np.random.default_rng(1)
    history = torch.from_numpy(
        np.where(np.arange(50) < rng.integers(0, 51, (1000, 1)), rng.integers(1, 61, (1000, 50)), 0)
    )
    together = model.checked_scores(history, None)
    parts = [model.checked_scores(part, None) for part in history[-1000 // size * size :].split(size)[:60]]
    assert torch.equal(torch.cat(parts), together[: sum(map(len, parts))])


def test_order_and_repeats_of_a_history_do_not_count(sequences):
    model = IALS(60, 8, epochs=2)
    model.solve(sequences)
    scores = model.score(torch.tensor([[4, 9, 30, 0], [30, 4, 9, 4]]))
    torch.testing.assert_close(scores[0], scores[1])


def test_the_seed_decides(sequences):
    first, again, other = (IALS(60, 8, epochs=1, seed=seed) for seed in (0, 0, 1))
    for model in (first, again, other):
        model.solve(sequences)
    assert torch.equal(first.items, again.items)
    assert not torch.allclose(first.items.abs(), other.items.abs())


def test_widths_are_few_and_less_than_half_padding():
    lengths = torch.arange(1, 5000)
    widths = padded_lengths(lengths)
    assert padded_lengths(torch.tensor([0, 1, 8, 9, 17, 33, 49, 64, 65])).tolist() == [8, 8, 8, 16, 24, 48, 64, 64, 96]
    assert (widths >= lengths).all()
    assert (2 * widths < 3 * lengths)[16:].all()
    assert len(widths.unique()) < 20


def test_a_system_that_float32_cannot_solve_is_an_error():
    """Many copies of one item in 40 dimensions, held back by next to nothing."""
    with pytest.raises(DiffrecError, match="use a larger regularization"):
        ials.by_coordinates(torch.ones(1, 100, 40), torch.full((1, 40), 1e-9))


@pytest.mark.parametrize("wrong", [{"alpha0": 0.0}, {"regularization": 0.0}, {"init_std": -1.0}, {"nu": -1.0},
                                   {"embedding_size": 0}, {"epochs": 0}, {"seed": -1}])  # fmt: skip
def test_arguments_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        IALS(5, **wrong)


def test_too_many_coordinates_are_refused_before_anything_is_computed(sequences, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * 150 * 64)
    monkeypatch.setattr(ials, "seen_matrix", None)
    with pytest.raises(UsageError, match=r"iALS on 90 users and 60 items with 64 coordinates needs .* use fewer coord"):
        IALS(60).solve(sequences)
