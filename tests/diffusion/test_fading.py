"""Fading beside the arrays of PreferGrow's official code, and beside matrices that are written out."""

from __future__ import annotations

import pytest
import torch

from diffrec.diffusion.fading import back, fade, geometric, score_entropy

GRAPHS = ("pair", "point", "adaptive", "hybrid")


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("prefergrow")


def distribution(graph: str, arrays) -> torch.Tensor:
    states = arrays[f"{graph}.log_score"].shape[1]
    if graph == "adaptive":
        return arrays["adaptive.logits"].double().softmax(0)
    p = torch.zeros(states, dtype=torch.float64)
    gamma = {"pair": 1.0, "point": 0.0, "hybrid": float(arrays["hybrid.gamma"])}[graph]
    p[:11] = gamma / 11
    p[11:] = 1 - gamma
    return p


@pytest.mark.parametrize("graph", GRAPHS)
def test_score_entropy_is_that_of_the_arrays(graph, arrays):
    logs, p = arrays[f"{graph}.log_score"].double().requires_grad_(), distribution(graph, arrays)
    x0, x_t = arrays[f"{graph}.x0"], arrays[f"{graph}.xt"]
    losses = score_entropy(logs, x0, x_t, arrays["beta"].double(), p)
    torch.testing.assert_close(losses, arrays[f"{graph}.score_entropy_generic"], rtol=1e-6, atol=1e-9)
    agrees = arrays[f"{graph}.score_entropy_agrees"].bool()
    released = arrays[f"{graph}.score_entropy"].double()
    torch.testing.assert_close(losses[agrees], released[agrees], rtol=1e-3, atol=1e-5)
    (gradient,) = torch.autograd.grad(losses.sum(), logs)
    theirs = arrays[f"{graph}.score_entropy_grad"].double()
    elsewhere = torch.ones_like(theirs).scatter(1, x_t[:, None], 0).bool()
    elsewhere &= arrays[f"{graph}.score_entropy_grad_agrees"].bool()[:, None]
    assert elsewhere.any() or graph == "hybrid"
    torch.testing.assert_close(gradient[elsewhere], theirs[elsewhere], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("graph", ["pair", "point", "adaptive"])
def test_a_step_back_is_that_of_the_arrays(graph, arrays):
    logs, p = arrays[f"{graph}.log_score"].double(), distribution(graph, arrays)
    x_t, theirs = arrays[f"{graph}.xt"], arrays[f"{graph}.reverse_probs"].double()
    got = torch.cat([
        back(logs[row : row + 1], x_t[row : row + 1], 0.3 * beta, p) for row, beta in enumerate(arrays["beta"].double())
    ])  # fmt: skip
    torch.testing.assert_close(got * logs.amax(1, keepdim=True).exp(), theirs, rtol=1e-3, atol=1e-6)


def test_true_ratios_have_no_loss_and_lead_back_exactly():
    torch.manual_seed(0)
    p, x0 = torch.rand(6, dtype=torch.float64).softmax(0), torch.tensor([0, 2, 5])
    sigma, less = torch.tensor([1.7] * 3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    onehot = torch.eye(6, dtype=torch.float64)[x0]

    def at(noise: torch.Tensor) -> torch.Tensor:
        """(3, 6) the distribution of what x_0 has become."""
        return torch.exp(-noise) * onehot - torch.expm1(-noise) * p

    x_t = torch.tensor([0, 1, 3])
    now = at(sigma[:1])
    logs = now.log() - now.gather(1, x_t[:, None]).log()
    torch.testing.assert_close(score_entropy(logs, x0, x_t, sigma, p), torch.zeros(3, dtype=torch.float64))
    assert (score_entropy(logs + 0.1 * (logs != 0), x0, x_t, sigma, p) > 1e-4).all()
    step = torch.exp(-less) * torch.eye(6, dtype=torch.float64) - torch.expm1(-less) * p  # row: from, column: to
    earlier = at(sigma[:1] - less) * step[:, x_t].T
    got = back(logs, x_t, less, p)
    torch.testing.assert_close(got / got.sum(1, keepdim=True), earlier / earlier.sum(1, keepdim=True))


def test_what_fades_is_drawn_from_the_distribution():
    torch.manual_seed(0)
    p, n = torch.tensor([0.5, 0.0, 0.3, 0.2]), 40_000
    x_t = fade(torch.ones(n, dtype=torch.int64), torch.full((n,), 0.7), p)
    kept = torch.exp(torch.tensor(-0.7))
    expected = kept * torch.eye(4)[1] + (1 - kept) * p
    torch.testing.assert_close(torch.bincount(x_t, minlength=4) / n, expected, atol=0.01, rtol=0)


def test_the_noise_is_that_of_the_arrays(arrays):
    t = arrays["noise.t"].double()
    sigma = geometric(t, 1e-3, 8.0)
    torch.testing.assert_close(sigma, arrays["noise.geometric.total"].double(), rtol=1e-4, atol=1e-7)
    rate = sigma * torch.log(torch.tensor(8e3, dtype=torch.float64))
    torch.testing.assert_close(rate, arrays["noise.geometric.rate"].double(), rtol=1e-4, atol=1e-6)
