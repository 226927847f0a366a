"""PreferGrow: its graphs, that it learns walks, and that a walk with the true ratios ends at the truth."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError
from diffrec.models import PreferGrow
from diffrec.models.prefergrow import drawn

N = 20
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0], [0, 0, 0]])


def model(**arguments) -> PreferGrow:
    torch.manual_seed(0)
    return PreferGrow(N, **{"embedding_size": 8, "max_history_length": 4, **arguments})


@pytest.mark.parametrize("graph", ["pair", "point", "hybrid", "adaptive"])
@pytest.mark.parametrize("readout", ["linear", "inner_product"])
def test_every_graph_trains_and_scores(graph, readout):
    made = model(graph=graph, readout=readout, gamma=0.9)
    p = made.not_preferred
    assert p.shape == (N + (graph != "pair"),)
    assert p.sum().item() == pytest.approx(1)
    made.training_loss(Batch(HISTORY[:2], torch.tensor([[5], [6]]))).backward()
    gradients = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (made.dislike is not None) == (graph == "adaptive")
    with torch.no_grad():
        scores = made.eval().score(HISTORY)
    assert scores.shape == (3, N)
    assert torch.isfinite(scores).all()
    assert made.denoiser_calls == 42


@torch.no_grad()
@pytest.mark.parametrize("graph", ["pair", "hybrid"])
def test_walks_with_the_true_ratios_end_where_the_truth_is(graph, monkeypatch):
    made = model(graph=graph, gamma=0.5, guidance_scale=1.0)
    truth = torch.arange(200) % N
    p = made.not_preferred

    def true(x_t: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        here = torch.exp(-sigma)[:, None] * torch.eye(len(p))[truth] - torch.expm1(-sigma)[:, None] * p
        return here.log() - here.gather(1, x_t[:, None]).log()

    monkeypatch.setattr(made, "log_ratios", true)
    scores = made.eval().score(torch.ones(200, 1, dtype=torch.int64))
    assert torch.equal(scores.argmax(1), truth)


@torch.no_grad()
def test_guidance_goes_on_from_what_is_known_without_the_history():
    made = model().eval()
    x, sigma = torch.tensor([3, 5, 20]), torch.tensor(0.5)
    condition, null = made.conditioner(HISTORY, made.items), made.conditioner.null.expand(3, -1)
    known, unknown = (made.log_ratios(x, sigma.expand(3), part) for part in (condition, null))
    made.guidance_scale = 3.0
    torch.testing.assert_close(made._guided(x, sigma, condition), 3 * known - 2 * unknown, rtol=1e-4, atol=1e-5)
    made.guidance_scale = 1.0
    torch.testing.assert_close(made._guided(x, sigma, condition), known)


def test_states_are_drawn_as_often_as_they_are_likely():
    noise = RequestNoise.from_keys(torch.arange(40_000))
    chances = torch.tensor([2.0, -1.0, 5.0, 3.0])
    shares = torch.bincount(drawn(chances.expand(40_000, -1), noise), minlength=4) / 40_000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.0, 0.5, 0.3]), atol=0.01, rtol=0)


def test_it_beats_popularity_on_walks(ndcg, walks, popular):
    data = walks(256)
    torch.manual_seed(0)
    arguments = {"embedding_size": 32, "lr": 2e-2, "warmup_steps": 10, "num_inference_steps": 5, "guidance_scale": 1.0}
    assert ndcg(PreferGrow(data.num_items, graph="hybrid", **arguments), data, 8) > 1.5 * popular


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="embedding_size must be even, got 9"):
        model(embedding_size=9, num_heads=1)
    with pytest.raises(UsageError, match=r"sigma_min must be above 0 and below sigma_max, got 1\.0 and 0\.5"):
        model(sigma_min=1.0, sigma_max=0.5)
