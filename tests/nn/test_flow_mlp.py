"""FlowCF's MLP against its formula."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import linear

from diffrec.nn.flow_mlp import FlowMLP
from diffrec.nn.time_embedding import cosine_sine


def network() -> FlowMLP:
    torch.manual_seed(0)
    model = FlowMLP(13, (6, 4), num_train_timesteps=4, time_embedding_size=5, dropout=0.999)
    for layer in model.layers:
        torch.nn.init.normal_(layer.bias)  # biases that are seen
    return model


def test_tanh_between_linear_layers_over_state_and_time():
    """Step t of 4 stands at (3 - t) / 4 of the way from the prior."""
    model, x = network().eval(), torch.randn(3, 13)
    angles = 2 * math.pi * torch.tensor([0.75, 0.0, 0.25])
    z = torch.cat([x, model.time(cosine_sine(angles, 5))], dim=1)
    for place, layer in enumerate(model.layers):
        z = linear(z if place == 0 else torch.tanh(z), layer.weight, layer.bias)
    torch.testing.assert_close(model(x, torch.tensor([0, 3, 2])), z)
    torch.testing.assert_close(model(x, torch.tensor([3]))[1:2], z[1:2])


def test_dropout_acts_before_every_layer():
    """Where nearly all is dropped, what is left of most rows is the last bias."""
    model, rows = network(), torch.randn(200, 13)
    left = (model(rows, torch.tensor([1])) == model.layers[-1].bias).all(1)
    assert left.float().mean() > 0.9


def test_weights_start_by_fan_and_biases_at_0():
    model = FlowMLP(400, (300,), num_train_timesteps=9)
    for layer in (*model.layers, model.time):
        fan_out, fan_in = layer.weight.shape
        assert 0.8 < layer.weight.std().item() / (2 / (fan_in + fan_out)) ** 0.5 < 1.25
        assert (layer.bias == 0).all()
