"""Schedules against the tables of the official codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.diffusion import schedules
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.objectives import SNRWeightedError
from diffrec.diffusion.sampler import sample
from diffrec.errors import UsageError


def released(golden, name):
    steps, scale, low, high, fixed = golden("diffrec")[f"sched.{name}.params"].tolist()
    steps, first = int(steps), 1e-5 if fixed else None
    match name:
        case "other.linear" | "other.linear_fixed":
            betas = schedules.linear(steps, scale * low, scale * high)
        case "other.cosine":
            betas = schedules.cosine(steps, low=0.0, high=0.999)
        case "other.binomial":
            betas = schedules.binomial(steps)
        case _:
            return schedules.linear_variance(steps, scale, low, high, first)
    if first:
        betas[0] = first
    return betas


NAMES = [
    *(f"{model}.{data}" for model in ("DiffRec", "L-DiffRec") for data in
      ("amazon-book_clean", "yelp_clean", "ml-1m_clean", "amazon-book_noisy", "yelp_noisy", "ml-1m_noisy")),
    *(f"{model}.{data}" for model in ("T-DiffRec", "LT-DiffRec") for data in ("amazon-book_clean", "yelp_clean")),
    "other.linear", "other.cosine", "other.linear_fixed", "other.binomial",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_tables_of_diffrec(golden, name):
    prefix = f"sched.{name}."
    arrays = {k.removeprefix(prefix): v for k, v in golden("diffrec").items() if k.startswith(prefix)}
    betas = released(golden, name)
    process = GaussianProcess(betas)
    np.testing.assert_allclose(betas, arrays["betas"], rtol=1e-10, atol=1e-15)
    alpha_bar = process.alphas_cumprod
    torch.testing.assert_close(alpha_bar, arrays["alphas_cumprod"], rtol=1e-12, atol=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    beta = torch.from_numpy(betas)
    coef1 = beta * before.sqrt() / (1 - alpha_bar)
    torch.testing.assert_close(coef1, arrays["posterior_mean_coef1"], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        (1 - before) * (1 - beta).sqrt() / (1 - alpha_bar), arrays["posterior_mean_coef2"], rtol=1e-6, atol=1e-9
    )
    variance = beta * (1 - before) / (1 - alpha_bar)
    torch.testing.assert_close(variance, arrays["posterior_variance"], rtol=1e-6, atol=1e-12)
    clipped = torch.cat([variance[1:2], variance[1:]]).log()
    torch.testing.assert_close(clipped, arrays["posterior_log_variance"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(SNRWeightedError(process).weight, arrays["snr_weight_x0"], rtol=1e-6, atol=0)
    epsilon = SNRWeightedError(GaussianProcess(betas, "epsilon"))
    torch.testing.assert_close(epsilon.weight, arrays["weight_eps"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "betas", "tolerance"),
    [
        ("linear500", schedules.linear(500), 1e-6),
        ("cosine2000", schedules.cosine(2000), 1e-3),
        ("exp500", schedules.exponential(500), 6e-5),
        ("sqrt100", schedules.sqrt(100), 1e-7),
    ],
)
def test_tables_of_dreamrec(golden, name, betas, tolerance):
    """The official tables are float32 and carry its rounding: these are the bounds stated with them."""
    arrays = golden("dreamrec")
    np.testing.assert_allclose(betas, arrays[f"sched.{name}.betas"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(np.cumprod(1 - betas), arrays[f"sched.{name}.alphas_cumprod"], rtol=0, atol=3e-4)


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        ("linear", schedules.linear(32, 1e-4 * 1000 / 32, 0.02 * 1000 / 32)),
        ("cosine", schedules.cosine(32, low=0.0, high=0.999)),
        ("sqrt", schedules.betas_of("sqrt", 32)),
        ("trunc_cos", schedules.betas_of("truncated_cosine", 32)),
        ("pw_lin", schedules.betas_of("piecewise_linear", 32)),
    ],
)
def test_other_tables_of_diffurec(golden, name, betas):
    arrays = golden("diffurec")
    np.testing.assert_allclose(betas, arrays[f"sched.{name}32.betas"], rtol=1e-12, atol=0)
    np.testing.assert_allclose(np.cumprod(1 - betas), arrays[f"sched.{name}32.alphas_cumprod"], rtol=1e-12, atol=0)
    GaussianProcess(betas)


def test_a_piecewise_schedule_needs_room():
    assert schedules.piecewise_linear(21).max() < 1
    with pytest.raises(UsageError, match="more than 20 timesteps, got 20"):
        schedules.betas_of("piecewise_linear", 20)


def test_published_oracle_values():
    assert np.cumprod(1 - schedules.linear(500))[-1] == pytest.approx(6.3527e-03, rel=1e-4)
    assert np.cumprod(1 - schedules.exponential(500))[-1] == pytest.approx(6.3462e-03, rel=1e-4)
    assert np.cumprod(1 - schedules.cosine(2000))[-1] == pytest.approx(6.06e-11, rel=1e-2)


@pytest.mark.parametrize(("total", "few"), [(40, 6), (500, 7), (5, 5), (2000, 20), (3, 1)])
def test_respaced_process_keeps_alpha_bar_on_the_grid(total, few):
    betas = schedules.linear(total)
    grid = schedules.trailing_timesteps(total, few)
    assert grid[-1] == total - 1
    assert len(set(grid.tolist())) == few
    np.testing.assert_allclose(np.cumprod(1 - schedules.respaced(betas, grid)), np.cumprod(1 - betas)[grid], rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
def test_scale_zero_is_no_noise(steps):
    process = GaussianProcess(schedules.linear_variance(steps, 0.0, 0.1, 0.5, first_beta=1e-5))
    x0, truth = torch.rand(steps, 50), torch.rand(2, 50)
    noised = process.corrupt(x0, torch.arange(steps), torch.randn(steps, 50))
    torch.testing.assert_close(noised.x_t, x0, rtol=0, atol=2e-6)
    torch.testing.assert_close(sample(lambda x, t: truth, process, torch.zeros(2, 50)), truth)


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine, schedules.exponential])
def test_nothing_of_the_signal_is_left_after_rescaling(schedule):
    betas = schedule(50)
    rescaled = schedules.rescaled_to_zero_snr(betas)
    before, after = (np.sqrt(np.cumprod(1 - b)) for b in (betas, rescaled))
    assert after[0] == pytest.approx(before[0])
    assert after[-1] == pytest.approx(2**-12)
    # between the ends the curve is the same but for a shift and a scale
    np.testing.assert_allclose(np.diff(after[:-1]) / np.diff(before[:-1]), before[0] / (before[0] - before[-1]))
    GaussianProcess(rescaled)


def test_one_step_cannot_be_rescaled():
    np.testing.assert_allclose(schedules.rescaled_to_zero_snr(schedules.linear(1)), schedules.linear(1))


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_the_weight_of_the_last_step_scales_its_loss_alone(prediction_type):
    process = GaussianProcess(schedules.linear(5), prediction_type)
    noised = process.corrupt(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5))
    output = torch.zeros(5, 3)
    usual, more = (SNRWeightedError(process, weight)(output, noised) for weight in (1.0, 40.0))
    torch.testing.assert_close(more, usual * torch.tensor([40.0, 1, 1, 1, 1]))


def test_the_variance_of_a_step_is_capped():
    """Without a cap the last would be 1, which no process takes."""
    betas = schedules.linear_variance(4, 1.0, 0.1, 1.0)
    assert betas[-1] == 0.999
    assert (betas[:-1] < 0.999).all()
