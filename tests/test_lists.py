"""`top_k` against sorting by (score, item number) in plain Python."""

from __future__ import annotations

import math

import numpy as np
import torch

from diffrec.lists import top_k


def slow_list(scores: list[float], excluded: list[int], k: int) -> list[int]:
    candidates = [item for item in range(1, len(scores) + 1) if item not in excluded]
    best = sorted(candidates, key=lambda item: (-scores[item - 1], item))[:k]
    return best + [0] * (k - len(best))


def test_random_cases_with_ties():
    rng = np.random.default_rng(0)
    boundary_ties = short_lists = 0
    for _ in range(600):
        rows, items, k = (int(rng.integers(1, high)) for high in (6, 40, 30))
        scores = rng.integers(0, int(rng.choice([1, 2, 4, 500])), (rows, items)).astype(np.float32) - 1
        excluded = rng.integers(0, items + 1, (rows, int(rng.integers(0, 20))))
        got = top_k(torch.from_numpy(scores), torch.from_numpy(excluded), k)
        assert got.items.shape == got.scores.shape == (rows, k)
        for row in range(rows):
            expected = slow_list(scores[row].tolist(), excluded[row].tolist(), k)
            assert got.items[row].tolist() == expected
            assert got.scores[row].tolist() == [scores[row, i - 1] if i else -math.inf for i in expected]
            one_more = slow_list(scores[row].tolist(), excluded[row].tolist(), k + 1)
            boundary_ties += one_more[-1] > 0 and scores[row, one_more[-1] - 1] == scores[row, one_more[-2] - 1]
            short_lists += expected[-1] == 0
    assert boundary_ties > 100
    assert short_lists > 100


def test_wide_rows_of_ties():
    scores = torch.zeros(4, 20_000)
    scores[:, 15_000:15_004] = 1
    got = top_k(scores, torch.tensor([[0], [1], [15_001], [3]]), 6)
    assert got.items.tolist() == [
        [15_001, 15_002, 15_003, 15_004, 1, 2],
        [15_001, 15_002, 15_003, 15_004, 2, 3],
        [15_002, 15_003, 15_004, 1, 2, 3],
        [15_001, 15_002, 15_003, 15_004, 1, 2],
    ]


def test_a_row_does_not_depend_on_its_neighbours():
    scores = torch.randint(0, 30, (64, 500), generator=torch.Generator().manual_seed(0)).float()
    excluded = torch.randint(0, 501, (64, 3), generator=torch.Generator().manual_seed(1))
    together = top_k(scores, excluded, 10).items
    for row in range(64):
        assert torch.equal(top_k(scores[row : row + 1], excluded[row : row + 1], 10).items[0], together[row])


def test_the_scores_are_left_alone():
    scores = torch.ones(2, 5)
    top_k(scores, torch.tensor([[1], [2]]), 3)
    assert (scores == 1).all()
