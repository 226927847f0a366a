"""The Gaussian process, the MLP, the reverse loop and the loss of DiffRec against its official code."""

from __future__ import annotations

import pytest
import torch

from diffrec.diffusion import timesteps
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.objectives import MeanSquaredError, SNRWeightedError
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.schedules import linear_variance
from diffrec.diffusion.timesteps import LossAwareTimesteps
from diffrec.nn.time_embedding import cosine_sine
from diffrec.nn.vector_mlp import VectorMLP

NETWORKS = {"two": ((16, 8), 10, False), "one": ((16,), 10, False), "odd": ((16,), 7, False), "norm": ((16,), 10, True)}


def replay(rows):
    """Noise that gives the stored rows one after another."""
    left = iter(rows)
    return lambda size: next(left)


def network(arrays, name):
    dims, time, normalise = NETWORKS[name]
    model = VectorMLP(37, dims, time, normalise=normalise).eval()
    state = {k.removeprefix(f"net.{name}."): v for k, v in arrays.items() if k.startswith(f"net.{name}.")}
    parameters = {k.replace("layer.", "layers."): v for k, v in state.items() if k.startswith(("layer.", "time."))}
    model.load_state_dict(parameters)
    return model


def process_of(arrays, config, prediction_type="sample"):
    steps, scale, low, high, fixed = arrays[f"q.{config}.params"].tolist()
    return GaussianProcess(linear_variance(int(steps), scale, low, high, 1e-5 if fixed else None), prediction_type)


@pytest.mark.parametrize("config", ["A", "B"])
def test_corruption(golden, config):
    a = golden("diffrec")
    noised = process_of(a, config).corrupt(a["x0"], a[f"q.{config}.t"], a[f"q.{config}.noise"])
    torch.testing.assert_close(noised.x_t, a[f"q.{config}.xt"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(golden, name):
    a = golden("diffrec")
    x, t = a[f"net.{name}.in_x"], a[f"net.{name}.in_t"]
    torch.testing.assert_close(cosine_sine(t, NETWORKS[name][1]), a[f"net.{name}.time_embedding"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(a, name)(x, t), a[f"net.{name}.out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize(("config", "name"), [("A", "two"), ("A", "one"), ("B", "two"), ("B", "one")])
def test_reverse_loop_without_noise(golden, config, name, compact):
    a = golden("diffrec")
    model = network(a, name)
    x = sample(model if compact else lambda x, t: model(x, t), process_of(a, config), a["x0"])
    torch.testing.assert_close(x, a[f"rev.{config}.{name}.det"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize(("config", "steps"), [("A", 5), ("B", 40)])
def test_reverse_loop_from_corrupted_start(golden, config, steps, compact):
    a = golden("diffrec")
    process, model = process_of(a, config), network(a, "two")
    start = process.corrupt(a["x0"], torch.full((6,), steps - 1), a[f"rev.{config}.start_noise"]).x_t
    x = sample(model if compact else lambda x, t: model(x, t), process, start)
    torch.testing.assert_close(x, a[f"rev.{config}.two.from{steps}"], rtol=1e-5, atol=1e-5)


def test_reverse_loop_with_posterior_noise(golden):
    a = golden("diffrec")
    model = network(a, "two")
    x = sample(lambda x, t: model(x, t), process_of(a, "A"), a["x0"], noise=replay(a["rev.A.step_noise"]))
    torch.testing.assert_close(x, a["rev.A.two.stoch"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compact", [True, False])
def test_reverse_loop_of_an_epsilon_network(golden, compact):
    """x0_hat is (x_t - sigma output) / signal: at these scales the same to float32 rounding."""
    a = golden("diffrec")
    model = network(a, "two")
    x = sample(model if compact else lambda x, t: model(x, t), process_of(a, "A", "epsilon"), a["x0"])
    torch.testing.assert_close(x, a["rev.A.two.eps_det"], rtol=1e-5, atol=1e-5)


def test_single_reverse_steps(golden):
    a = golden("diffrec")
    process, model = process_of(a, "A"), network(a, "two")
    x0_hat = model(a["x0"], a["rev.A.one_step.t"])
    torch.testing.assert_close(x0_hat, a["rev.A.one_step.x0_hat"], rtol=1e-5, atol=1e-5)
    steps = process.reverse_steps()
    zero = torch.zeros(())
    for row, t in enumerate(a["rev.A.one_step.t"].tolist()):
        step = steps.scheduler.step(x0_hat[row], t, a["x0"][row], eta=1.0, variance_noise=zero, return_dict=False)[0]
        torch.testing.assert_close(step, a["rev.A.one_step.mean"][row], rtol=1e-5, atol=1e-5)
        variance = steps.scheduler._get_variance(max(t, 1), max(t, 1) - 1)
        assert variance.log().item() == pytest.approx(a["rev.A.one_step.log_variance"][row].item(), rel=1e-6)


@pytest.mark.parametrize("config", ["A", "B"])
@pytest.mark.parametrize(
    ("kind", "objective", "prediction"),
    [
        ("reweight", SNRWeightedError, "sample"),
        ("plain", MeanSquaredError, "sample"),
        ("eps_reweight", SNRWeightedError, "epsilon"),
    ],
)
def test_loss(golden, config, kind, objective, prediction):
    a = golden("diffrec")
    process = process_of(a, config, prediction)
    noised = process.corrupt(a["x0"], a[f"loss.{config}.t"], a[f"loss.{config}.noise"])
    loss = objective(process)(network(a, "two")(noised.x_t, noised.t), noised)
    torch.testing.assert_close(loss.double(), a[f"loss.{config}.{kind}"].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("config", ["A", "B"])
def test_gradient_of_the_loss(golden, config):
    a = golden("diffrec")
    process, model = process_of(a, config), network(a, "two")
    noised = process.corrupt(a["x0"], a[f"loss.{config}.t"], a[f"loss.{config}.noise"])
    SNRWeightedError(process)(model(noised.x_t, noised.t), noised).mean().backward()
    expected = a[f"loss.{config}.grad_time_bias"]
    torch.testing.assert_close(model.time.bias.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("config", ["A", "B"])
def test_loss_aware_timesteps(golden, config):
    a = golden("diffrec")
    process = process_of(a, config)
    sampler = LossAwareTimesteps(process.num_train_timesteps)
    sampler.losses.copy_(a[f"imp.{config}.history"])
    sampler.filled.fill_(10)
    p = sampler.probabilities()
    torch.testing.assert_close(p, a[f"imp.{config}.probs"], rtol=1e-12, atol=0)
    t = a[f"imp.{config}.t"]
    noised = process.corrupt(a["x0"], t, a[f"loss.{config}.noise"])
    loss = SNRWeightedError(process)(network(a, "two")(noised.x_t, t), noised).detach()
    weighted = loss.double() / (p[t] * process.num_train_timesteps)
    torch.testing.assert_close(weighted, a[f"imp.{config}.loss"], rtol=1e-5, atol=0)
    sampler.update(t, loss)
    torch.testing.assert_close(sampler.losses, a[f"imp.{config}.history_after"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("config", ["A", "B"])
def test_loss_aware_timesteps_while_filling(golden, config):
    a = golden("diffrec")
    process = process_of(a, config)
    sampler = LossAwareTimesteps(process.num_train_timesteps)
    sampler.losses.copy_(a[f"imp.{config}.history"])
    sampler.filled.fill_(10)
    sampler.filled[-1] = 3
    sampler.losses[-1, 3:] = 0
    assert torch.equal(sampler.probabilities(), torch.full_like(sampler.losses[:, 0], 1 / process.num_train_timesteps))
    t = a[f"imp.{config}.t"]
    noised = process.corrupt(a["x0"], t, a[f"loss.{config}.noise"])
    sampler.update(t, SNRWeightedError(process)(network(a, "two")(noised.x_t, t), noised).detach())
    assert torch.equal(sampler.filled, a[f"imp.{config}.warm_count_after"])
    after = a[f"imp.{config}.warm_history_after"].clone()
    after[-1, sampler.filled[-1] :] = 0
    torch.testing.assert_close(sampler.losses, after, rtol=1e-5, atol=0)


def test_loss_aware_weights_undo_the_skew():
    sampler = LossAwareTimesteps(4)
    sampler.losses.copy_(torch.arange(1.0, 5.0)[:, None].expand(4, 10))
    sampler.filled.fill_(10)
    draw = sampler.draw(100_000, torch.device("cpu"), torch.Generator().manual_seed(0))
    share = torch.bincount(draw.t, minlength=4) / 100_000
    torch.testing.assert_close(share.double(), sampler.probabilities(), atol=0.01, rtol=0)
    assert draw.weight.mean().item() == pytest.approx(1, abs=0.02)


def test_the_way_of_drawing_steps_on_cuda_has_the_same_probabilities():
    """For steps that were never drawn, too: their rows are not one draw that all share."""
    p = torch.tensor([0.5, 0.0, 0.125, 0.375], dtype=torch.float64)
    t = timesteps._drawn_one_by_one(p, 40_000, torch.Generator().manual_seed(0))
    shares = t.bincount(minlength=4).double() / len(t)
    assert shares[1] == 0
    torch.testing.assert_close(shares, p, rtol=0, atol=0.01)
