"""Schedulers as plain data, and back."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.schedulers import SCHEDULERS, scheduler_class, settings, with_settings
from diffrec.diffusion.schedules import linear
from diffrec.errors import NotFoundError


def process_with(scheduler=None):
    process = GaussianProcess(linear(20, 1e-3, 0.2))
    process.scheduler = scheduler or process.scheduler
    return process


def result(process):
    torch.manual_seed(0)
    network, start = torch.nn.Linear(6, 6), torch.randn(4, 6)
    with torch.no_grad():
        return sample(lambda x, t: network(x), process, start, num_inference_steps=7)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_takes_the_same_steps_again(name):
    process = process_with(SCHEDULERS[name].from_config(process_with().scheduler.config))
    stored = json.loads(json.dumps(settings(process.scheduler), allow_nan=False))
    again = with_settings(name, stored, process_with().scheduler)
    assert type(again) is SCHEDULERS[name]
    assert settings(again) == settings(process.scheduler)
    assert torch.equal(result(process_with(again)), result(process))


def test_only_what_differs_from_the_defaults_is_told():
    assert settings(process_with().scheduler) == {"clip_sample": False}
    assert settings(DDIMScheduler()) == {}
    assert settings(DPMSolverMultistepScheduler(num_train_timesteps=7, solver_order=3)) == {"solver_order": 3}


def test_values_that_are_defaults_are_not_taken_from_the_template():
    assert with_settings("DDIMScheduler", {}, process_with().scheduler).config["clip_sample"] is True


def test_a_further_change_of_scheduler_does_not_clip():
    solver = with_settings("DPMSolverMultistepScheduler", {"solver_order": 3}, process_with().scheduler)
    assert DDIMScheduler.from_config(solver.config).config["clip_sample"] is False


def test_the_process_is_not_a_setting():
    with pytest.raises(NotFoundError, match="no setting of DDIMScheduler 'trained_betas'"):
        with_settings("DDIMScheduler", {"trained_betas": [0.1]}, process_with().scheduler)
    with pytest.raises(NotFoundError, match="did you mean 'clip_sample'"):
        with_settings("DDIMScheduler", {"clip_samples": True}, process_with().scheduler)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMSchedular", "os.system", "SchedulerMixin", "__class__", ""])
def test_other_names_are_refused(name):
    with pytest.raises(NotFoundError, match=r"there are: DDIMScheduler, DPMSolverMultistepScheduler"):
        scheduler_class(name)


@pytest.mark.parametrize("name", sorted({*SCHEDULERS} - {"LCMScheduler"}))
def test_every_step_of_every_grid_is_visited_once_and_in_order(name):
    """Heun visits all but the first twice. Solvers of diffusers that lay their own grid over ours would not pass."""
    process = process_with(scheduler_class(name)())
    for num_steps in range(1, 21):
        told = process.grid(process.num_train_timesteps, num_steps)[1]
        visited = list(dict.fromkeys(process.reverse_steps(num_steps).timesteps))
        assert visited == told[::-1].tolist()
        got = sample(lambda x, t: 0.5 * x, process, torch.ones(2, 3), num_inference_steps=num_steps)
        assert torch.isfinite(got).all()
