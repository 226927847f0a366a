"""Noise that belongs to a request."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from diffrec.diffusion.noise import RequestNoise


def test_independent_of_the_batch():
    keys = torch.arange(1000)
    whole = RequestNoise.from_keys(keys, 7).normal(33)
    for size in (1, 7):
        parts = torch.cat([RequestNoise.from_keys(part, 7).normal(33) for part in keys.split(size)])
        assert torch.equal(whole, parts)


def test_split_goes_on_where_the_whole_would():
    noise = RequestNoise.from_keys(torch.arange(10), 1)
    noise.normal(4)
    parts = noise.split(3)
    assert torch.equal(torch.cat([part.normal(4) for part in parts]), noise.normal(4))


def test_rows_that_are_taken_go_on_where_the_whole_would():
    noise, rows = RequestNoise.from_keys(torch.arange(10), 1), torch.tensor([7, 2, 2])
    noise.normal(4)
    taken = noise.take(rows)
    assert torch.equal(taken.normal(4), noise.normal(4)[rows])


def test_padding_and_batch_mates_do_not_count():
    long = torch.tensor([[3, 4, 0, 0], [3, 4, 5, 6]])
    assert RequestNoise.from_history(long).state[0] == RequestNoise.from_history(long[:1, :2]).state[0]
    assert RequestNoise.from_history(long).state[0] != RequestNoise.from_history(long[:1, [1, 0]]).state[0]


def test_the_distribution_is_normal():
    noise = RequestNoise.from_keys(torch.arange(4000), 3)
    normal = torch.cat([noise.normal(25) for _ in range(4)], dim=1)
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(normal.T).fill_diagonal_(0).abs().max()
    assert correlation < 5 / 4000**0.5


def test_seed_and_draw_change_everything():
    keys = torch.arange(50)
    first, second = RequestNoise.from_keys(keys, 0), RequestNoise.from_keys(keys, 1)
    a, b, c = first.normal(8), first.normal(8), second.normal(8)
    assert not (a == b).any()
    assert not (a == c).any()


def test_slots_do_not_depend_on_how_many_there_are():
    few, many = (RequestNoise.from_keys(torch.arange(50)).slots(length, 5) for length in (3, 40))
    assert torch.equal(few, many[:, :3])
    assert torch.equal(few[:, 0], RequestNoise.from_keys(torch.arange(50)).normal(5))
    assert many.std().item() == pytest.approx(1, abs=0.03)
    assert many.flatten(0, 1).T.corrcoef().fill_diagonal_(0).abs().max() < 0.1
    assert many.transpose(0, 1).flatten(1).corrcoef().fill_diagonal_(0).abs().max() < 0.3


def test_uniform_numbers_are_drawn_anew_each_time():
    noise = RequestNoise.from_keys(torch.arange(50))
    first, second = noise.uniform(8), noise.uniform(8)
    assert not (first == second).any()
