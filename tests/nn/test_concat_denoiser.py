"""DreamRec's denoiser against its formula; golden numbers are in tests/models."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, linear

from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.time_embedding import sine_cosine

DIM = 8


def parts(layers: int) -> tuple[ConcatDenoiser, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A denoiser and x_t, t, condition for five requests."""
    torch.manual_seed(layers)
    return ConcatDenoiser(DIM, layers), torch.randn(5, DIM), torch.tensor([0, 3, 3, 40, 999]), torch.randn(5, DIM)


@pytest.mark.parametrize("layers", [1, 2])
def test_linear_layers_over_state_condition_and_time(layers):
    model, x, t, condition = parts(layers)
    state = model.state_dict()

    def layer(name, value):
        return linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    time = layer("time.2", gelu(layer("time.0", sine_cosine(t, DIM))))
    expected = layer("output.0", torch.cat([x, condition, time], dim=1))
    if layers == 2:
        expected = layer("output.2", gelu(expected))
    torch.testing.assert_close(model(x, t, condition), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_step_for_all_is_the_same_step_for_each(layers):
    model, x, _, condition = parts(layers)
    each = model(x, torch.full((5,), 17), condition)
    torch.testing.assert_close(model(x, torch.tensor([17]), condition), each, rtol=1e-6, atol=1e-6)
    assert (model(x, torch.tensor([18]), condition) - each).abs().max() > 1e-4


def test_widths():
    assert [tuple(p.shape) for p in ConcatDenoiser(4).output.parameters()] == [(4, 12), (4,)]
    assert [tuple(p.shape) for p in ConcatDenoiser(4, 2).output.parameters()] == [(8, 12), (8,), (4, 8), (4,)]
