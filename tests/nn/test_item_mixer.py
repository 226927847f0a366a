"""GiffCF's denoiser against loops over coordinates in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.nn.item_mixer import ItemMixer

ITEMS, DIM, TIME = 7, 3, 6


def swish(x):
    return x / (1 + np.exp(-x))


def dense(layer, x):
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def mixed(mixer, *features):
    return dense(mixer.last, swish(dense(mixer.first, np.array(features))))[0]


def told(network, time):
    angles = time * 10_000.0 ** (-np.arange(0, TIME, 2) / TIME)
    sinusoid = np.concatenate([np.cos(angles), np.sin(angles)])
    return dense(network[2], swish(dense(network[0], sinusoid)))[0]


def reference(model, x_t, t, c, smooth):
    table = model.table.detach().numpy()
    u, q = x_t @ table / ITEMS, c @ table / max(np.abs(c).sum(), 1)
    of_embeddings, of_items = (told(network, t + 1) for network in (model.time_of_embeddings, model.time_of_items))
    embedding = np.array([mixed(model.of_embeddings, u[k], q[k], of_embeddings) for k in range(DIM)])
    scores = table @ embedding
    return np.array([mixed(model.of_items, scores[i], c[i], smooth[i], of_items) for i in range(ITEMS)])


@pytest.mark.parametrize("mixer_size", [2, 5])
def test_output(mixer_size):
    """A history of less than one item in sum, one of none, and one of many, at steps of their own."""
    torch.manual_seed(0)
    model = ItemMixer(ITEMS, DIM, TIME, mixer_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    x_t, condition = torch.randn(3, ITEMS), torch.randn(3, 2, ITEMS)
    condition[0] *= 0.01
    condition[1] = 0
    t = torch.tensor([0, 2, 1])
    output = model(x_t, t, condition).detach().numpy()
    for row in range(3):
        c, smooth = condition[row].double().numpy()
        expected = reference(model, x_t[row].double().numpy(), int(t[row]), c, smooth)
        np.testing.assert_allclose(output[row], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x_t[1:2], t[1:2], condition[1:2]), model(x_t, t, condition)[1:2])


def test_weights_start_by_glorot():
    model = ItemMixer(400, 100, 20, 2)
    bound = (6 / 500) ** 0.5
    assert 0.98 * bound < model.table.abs().max() <= bound
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 8
    assert not any(bias.any() for bias in biases)
