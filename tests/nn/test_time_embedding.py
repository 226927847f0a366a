"""Both sinusoids against their formula, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from diffrec.nn.time_embedding import cosine_sine, sine_cosine

STEPS = [0, 1, 2, 17, 999]


@pytest.mark.parametrize("dim", [2, 7, 10, 64])
def test_cosine_before_sine(dim):
    half = dim // 2
    expected = []
    for t in STEPS:
        angles = [t * 10_000 ** (-k / half) for k in range(half)]
        expected.append([*map(math.cos, angles), *map(math.sin, angles), *[0.0] * (dim % 2)])
    torch.testing.assert_close(cosine_sine(torch.tensor(STEPS), dim), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dim", [4, 8, 64])
def test_sine_before_cosine(dim):
    half = dim // 2
    expected = []
    for t in STEPS:
        angles = [t * 10_000 ** (-k / (half - 1)) for k in range(half)]
        expected.append([*map(math.sin, angles), *map(math.cos, angles)])
    torch.testing.assert_close(sine_cosine(torch.tensor(STEPS), dim), torch.tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("embed", [cosine_sine, sine_cosine])
def test_every_step_has_its_own_vector(embed):
    vectors = embed(torch.arange(1000), 16)
    assert vectors.shape == (1000, 16)
    assert vectors.dtype == torch.float32
    distances = torch.cdist(vectors, vectors) + 10 * torch.eye(1000)
    assert distances.min() > 1e-2
