"""BSPM against dense matrices in float64 and the exact solution of its equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from diffrec.baselines.bspm import BSPM
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError

ITEMS = 12
ROWS = [[1, 2, 3], [2, 3, 4, 5, 2], [5, 6, 7], [7, 8, 9, 1], [10, 11, 3], [4], [6, 9, 10, 11]]  # nobody met 12


@pytest.fixture
def history():
    return torch.tensor([[2, 3, 4, 5, 2], [12, 1, 0, 0, 0], [0, 0, 0, 0, 0]])


@pytest.fixture
def rows(history):
    r = np.zeros((3, ITEMS + 1))
    r[np.arange(3)[:, None], history.numpy()] = 1
    return r[:, 1:]


@pytest.fixture
def graph():
    """P and the rank -> D^-1/2 V V^T D^1/2, float64; an empty item has D = 1."""
    seen = np.zeros((len(ROWS), ITEMS))
    for user, items in enumerate(ROWS):
        seen[user, np.array(items) - 1] = 1
    degrees = np.maximum(seen.sum(0), 1)
    links = seen / np.sqrt(seen.sum(1, keepdims=True) * degrees)
    _, _, right = np.linalg.svd(links)
    ideal = {k: np.diag(degrees**-0.5) @ right[:k].T @ right[:k] @ np.diag(degrees**0.5) for k in (2, 4)}
    return links.T @ links, ideal


def scores(history, **arguments):
    model = BSPM(ITEMS, **arguments)
    model.solve(Ragged.from_rows(ROWS))
    return model.score(history).double().numpy()


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-6)


def test_euler_in_two_steps_merged_early(history, rows, graph):
    hop, ideal = graph
    state = rows @ hop + 0.3 * rows @ ideal[2]
    for _ in range(2):
        state = state - 0.6 * state @ hop
    close(
        scores(history, solver="euler", sharpening_steps=2, sharpening_time=1.2, ideal_weight=0.3, ideal_rank=2), state
    )


def test_late_merging_adds_what_is_not_sharpened(history, rows, graph):
    hop, ideal = graph
    blurred = rows @ hop
    expected = blurred - 1.2 * blurred @ hop + 0.3 * rows @ ideal[4]
    got = scores(
        history, solver="euler", sharpening_time=1.2, merge="late", ideal_weight=0.3, ideal_rank=4
    )  # fmt: skip
    close(got, expected)


def test_one_step_of_four_stages_is_the_fourth_polynomial(history, rows, graph):
    hop, ideal = graph
    z = -2.5 * hop
    factor = np.eye(ITEMS) + z + z @ z / 2 + z @ z @ z / 6 + z @ z @ z @ z / 24
    close(scores(history, ideal_rank=4), (rows @ hop + 0.2 * rows @ ideal[4]) @ factor)


def test_many_steps_reach_the_solution(history, rows, graph):
    hop, _ = graph
    expected = rows @ hop @ expm(-2.5 * hop)
    close(scores(history, sharpening_steps=40, ideal_rank=0), expected)


def test_combined_scores_are_the_mean_of_what_was_computed(history, rows, graph):
    hop, ideal = graph
    blurred = rows @ hop
    first = (np.eye(ITEMS) - 0.6 * hop) @ np.eye(ITEMS)
    start = blurred + 0.3 * rows @ ideal[2]
    expected = (blurred + start @ first + start @ first @ first) / 3
    got = scores(
        history, solver="euler", sharpening_steps=2, sharpening_time=1.2, combine=True, ideal_weight=0.3, ideal_rank=2
    )
    close(got, expected)


@pytest.mark.parametrize("combine", [False, True])
@pytest.mark.parametrize("merge", ["early", "late"])
def test_without_sharpening_it_is_gf_cf(history, rows, graph, merge, combine):
    """Only points that were computed are combined: the low-pass is added whole to the mean of the blur."""
    hop, ideal = graph
    got = scores(history, sharpening_steps=0, merge=merge, combine=combine, ideal_weight=0.3, ideal_rank=2)
    close(got, rows @ (hop + 0.3 * ideal[2]))


def test_a_solved_model_may_be_asked_with_other_settings(history):
    model = BSPM(ITEMS, ideal_rank=4)
    model.solve(Ragged.from_rows(ROWS))
    asked = {"solver": "euler", "sharpening_steps": 3, "sharpening_time": 0.5, "merge": "late", "combine": True,
             "ideal_weight": 0.7}  # fmt: skip
    assert asked.keys() == {*BSPM.asked_with}
    for name, value in asked.items():
        setattr(model, name, value)
    close(model.score(history).numpy(), scores(history, ideal_rank=4, **asked))


def test_what_is_not_allowed_is_named():
    with pytest.raises(UsageError, match="sharpening_time must be a finite number from 0"):
        BSPM(ITEMS, sharpening_time=-1.0)
    with pytest.raises(UsageError, match="sharpening_steps must be a whole number from 0"):
        BSPM(ITEMS, sharpening_steps=-1)
