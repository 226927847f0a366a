"""Mult-VAE against its equations over dense vectors, and the annealing of its divergence."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import log_softmax, normalize

from diffrec.data.batch import Batch
from diffrec.models.multvae import MultVAE

HISTORY = torch.tensor([[3, 1, 7, 3], [2, 8, 0, 0], [5, 0, 0, 0]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MultVAE(9, hidden_size=6, latent_size=4, anneal_cap=0.2, anneal_steps=10).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def multi_hot() -> torch.Tensor:
    return torch.zeros(3, 10).scatter_(1, HISTORY, 1.0)[:, 1:]


def encoded(model: MultVAE) -> tuple[torch.Tensor, torch.Tensor]:
    """By products of whole vectors."""
    hidden = torch.tanh(normalize(multi_hot()) @ model.table.weight[1:] + model.bias)
    mu, log_variance = model.to_latent(hidden).chunk(2, dim=1)
    return mu, log_variance


def decoded(model: MultVAE, z: torch.Tensor) -> torch.Tensor:
    return model.output(torch.tanh(model.from_latent(z)))


def test_scores_are_the_logits_at_mu(model):
    torch.testing.assert_close(model.score(HISTORY), decoded(model, encoded(model)[0]))


def test_loss_and_gradients(model):
    """An item that was met twice counts once; the divergence is that of torch's normal distributions."""
    model.updates.fill_(1)
    torch.manual_seed(3)
    loss = model.training_loss(Batch(HISTORY, HISTORY[:, :0]))
    torch.manual_seed(3)
    mu, log_variance = encoded(model)
    posterior = torch.distributions.Normal(mu, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    z = mu + torch.randn_like(mu) * posterior.stddev
    likelihood = (multi_hot() * log_softmax(decoded(model, z), dim=1)).sum(1)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    expected = (0.1 * divergence - likelihood).mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    ours, plain = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_the_divergence_rises_with_the_updates_up_to_its_cap(model):
    batch, weights = Batch(HISTORY, HISTORY[:, :0]), []
    for _ in range(4):
        weights.append(model.kl_weight)
        model.train().training_loss(batch)
    assert weights == [0.0, 0.1, 0.2, 0.2]
    model.eval().training_loss(batch)
    assert model.state_dict()["updates"] == 4, "only training counts"


def test_dropout_hides_items_of_the_input_alone(model):
    """One item is hidden three times in four, and counts four times where it is not."""
    model.dropout.p = 0.75
    torch.manual_seed(0)
    kept = torch.stack([model.train().encode(HISTORY[2:])[0] for _ in range(200)])
    alone = model.eval().encode(torch.zeros_like(HISTORY[2:]))[0]
    hidden = (kept - alone).abs().amax((1, 2)) < 1e-6
    assert 0.65 < hidden.float().mean() < 0.85
    with torch.no_grad():
        fourfold = model.to_latent(torch.tanh(4 * model.table.weight[5] + model.bias))[:4]
    torch.testing.assert_close(kept[~hidden], fourfold.expand(int((~hidden).sum()), 1, 4), rtol=1e-4, atol=1e-5)
