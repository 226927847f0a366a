"""The Gaussian process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, and its reverse steps.

Reverse steps are those of a diffusers scheduler; the tables are ours and in float64, because at the
noise scales of DiffRec (1 - alpha_bar down to 5e-8) float32 tables lose up to a fifth of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import nn

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import ReverseSteps
from diffrec.diffusion.schedulers import GaussianScheduler, Scheduler, check_scheduler, renoises
from diffrec.diffusion.schedules import Betas, Grid, respaced, steps_of, trailing_grid
from diffrec.diffusion.trajectory import RenoisedSteps, Trajectory
from diffrec.errors import UsageError, choose
from diffrec.typing import Float, Int, Tensor

PredictionType = Literal["sample", "epsilon", "v_prediction"]
VarianceType = Literal["fixed_small", "fixed_large"]


@dataclass(frozen=True)
class NoisedSample:
    """A clean sample and what step t made of it. x0, noise, x_t: (batch, dim); t: (batch,)."""

    x0: Float[Tensor, "batch dim"]
    noise: Float[Tensor, "batch dim"]
    t: Int[Tensor, " batch"]
    x_t: Float[Tensor, "batch dim"]


@dataclass(frozen=True)
class SchedulerSteps:
    """A fresh diffusers scheduler on the visited steps: the `ReverseSteps` of a Gaussian process.

    timesteps: what the network is told, noisy first; indices: what the scheduler is told at the same place;
    eta: of DDIM; noise_scales: by which its noise is larger than that of the posterior, by index.
    """

    scheduler: GaussianScheduler
    timesteps: list[int]
    indices: Tensor
    eta: float
    noise_scales: list[float]

    def enter(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """x_{T-1} as this scheduler scales it: Euler, Heun and LMS step x / sqrt(alpha_bar)."""
        return x / self.scheduler.scale_model_input(x.new_ones(()), self.indices[0])

    def model_input(self, state: Float[Tensor, "batch dim"], place: int) -> Float[Tensor, "batch dim"]:
        """x_t from what the scheduler steps."""
        return self.scheduler.scale_model_input(state, self.indices[place])

    def step(
        self,
        output: Float[Tensor, "batch dim"],
        state: Float[Tensor, "batch dim"],
        place: int,
        draw: Callable[[], Tensor] | None,
    ) -> Float[Tensor, "batch dim"]:
        """One step back. With eta = 1 DDIM gives the posterior mean, plus what `draw` gives but for the last step."""
        extra: dict[str, Any] = {}
        if isinstance(self.scheduler, DDIMScheduler):
            extra = {"eta": self.eta, "variance_noise": state.new_zeros(())}
            if draw is not None and self.eta > 0 and place < len(self.timesteps) - 1:
                extra["variance_noise"] = draw() * self.noise_scales[int(self.indices[place])]
        index: Any = self.indices[place]  # some stubs want an int, all take the tensor
        return self.scheduler.step(output, index, state, **extra, return_dict=False)[0]


class GaussianProcess(nn.Module):
    """Corruption, training target and reverse steps of one schedule.

    betas: (T,) float64; prediction_type: what the network outputs, in diffusers' words; eta: 1 makes the steps of
    DDIM those of DDPM, 0 takes all noise out of them; variance_type: of that noise, that of the posterior
    ("fixed_small") or beta_t; grid: which steps are visited, given T and their number.
    `scheduler` is a template; another one of `schedulers.SCHEDULERS`, made from its config, may replace it.
    """

    alphas_cumprod: Tensor
    signal: Tensor
    sigma: Tensor

    def __init__(
        self,
        betas: Betas,
        prediction_type: PredictionType = "sample",
        *,
        eta: float = 1.0,
        variance_type: VarianceType = "fixed_small",
        grid: Callable[[int, int], Grid] = trailing_grid,
    ) -> None:
        super().__init__()
        choose("prediction type", prediction_type, get_args(PredictionType))
        choose("variance type", variance_type, get_args(VarianceType))
        if not ((betas > 0) & (betas < 1)).all():
            raise UsageError(f"betas must lie strictly between 0 and 1, got {betas.min():.3g}..{betas.max():.3g}")
        self.betas, self.prediction_type = betas, prediction_type
        self.eta, self.variance_type, self.grid = eta, variance_type, grid
        alpha_bar = np.cumprod(1 - betas)
        tables = {"alphas_cumprod": alpha_bar, "signal": alpha_bar**0.5, "sigma": (1 - alpha_bar) ** 0.5}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=len(betas),
            trained_betas=betas.tolist(),
            prediction_type=prediction_type,
            clip_sample=False,
            set_alpha_to_one=True,
            timestep_spacing="trailing",
        )

    @property
    def scheduler(self) -> Scheduler:
        """Whose steps the reverse loop takes."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(scheduler)
        self._scheduler = scheduler

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.betas)

    def corrupt(
        self, x0: Float[Tensor, "batch dim"], t: Int[Tensor, " batch"], noise: Float[Tensor, "batch dim"] | None = None
    ) -> NoisedSample:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps; eps is drawn where it is not given."""
        noise = torch.randn_like(x0) if noise is None else noise
        signal, sigma = self.signal[t].to(x0.dtype)[:, None], self.sigma[t].to(x0.dtype)[:, None]
        return NoisedSample(x0, noise, t, torch.addcmul(signal * x0, sigma, noise))

    def target(self, noised: NoisedSample) -> Float[Tensor, "batch dim"]:
        """What the network should output for `noised`."""
        if self.prediction_type == "sample":
            return noised.x0
        if self.prediction_type == "epsilon":
            return noised.noise
        signal, sigma = self._coefficients(noised)
        return signal * noised.noise - sigma * noised.x0

    def predicted_x0(self, output: Float[Tensor, "batch dim"], noised: NoisedSample) -> Float[Tensor, "batch dim"]:
        """The estimate of x_0 that an output stands for."""
        if self.prediction_type == "sample":
            return output
        signal, sigma = self._coefficients(noised)
        if self.prediction_type == "epsilon":
            return (noised.x_t - sigma * output) / signal
        return signal * noised.x_t - sigma * output

    def _coefficients(self, noised: NoisedSample) -> tuple[Tensor, Tensor]:
        dtype = noised.x_t.dtype
        return self.signal[noised.t].to(dtype)[:, None], self.sigma[noised.t].to(dtype)[:, None]

    def num_steps(self, num_inference_steps: int | None) -> int:
        """How many steps are visited, see `steps_of`."""
        return steps_of(num_inference_steps, self.num_train_timesteps)

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Float[Tensor, "batch dim"]:
        """A sample of N(0, I) for each request, of the given shape."""
        return noise.normal(math.prod(shape)).unflatten(1, shape)

    def trajectory(self, num_inference_steps: int | None = None) -> Trajectory:
        """The places of the grid of that many steps."""
        steps = self.grid(self.num_train_timesteps, self.num_steps(num_inference_steps))
        visited, told = (torch.from_numpy(each[::-1].copy()) for each in steps)
        return Trajectory(told, self.signal.cpu()[visited], self.sigma.cpu()[visited], self.prediction_type)

    def reverse_steps(self, num_inference_steps: int | None = None) -> ReverseSteps:
        """A fresh scheduler for one call (schedulers keep state), on the grid of that many steps.

        The grid becomes a process of its own (`schedules.respaced`), so steps are exact on every grid.
        """
        if renoises(self.scheduler):
            return RenoisedSteps(self.trajectory(num_inference_steps))
        visited, told = self.grid(self.num_train_timesteps, self.num_steps(num_inference_steps))
        num_steps = len(visited)
        betas = respaced(self.betas, visited)
        # trained_betas and the spacing are ours whatever the template says, and nothing is clipped: diffusers'
        # defaults are for pictures in [-1, 1]; everything else is the template's
        config = {**self.scheduler.config, "prediction_type": self.prediction_type}
        scheduler = self.scheduler.from_config(
            config,
            **{name: False for name in ("clip_sample", "thresholding") if name in config},
            num_train_timesteps=num_steps,
            trained_betas=betas.tolist(),
            timestep_spacing="trailing",
        )
        use_float64_tables(scheduler, betas)
        scheduler.set_timesteps(num_steps)
        # Heun visits a step twice, Euler counts in floats
        timesteps = told[scheduler.timesteps.round().long().numpy()].tolist()
        scales = noise_scales(betas) if self.variance_type == "fixed_large" else np.ones(num_steps)
        return SchedulerSteps(scheduler, timesteps, scheduler.timesteps, self.eta, scales.tolist())


def noise_scales(betas: Betas) -> Betas:
    """sqrt(beta_t / posterior variance) = sqrt((1 - alpha_bar_t) / (1 - alpha_bar_{t-1})), 1 at t = 0."""
    sigma = np.sqrt(1 - np.cumprod(1 - betas))
    return np.concatenate([[1.0], sigma[1:] / sigma[:-1]])


def use_float64_tables(scheduler: Scheduler, betas: Betas) -> None:
    """Replace the float32 tables of a scheduler by the same in float64."""
    alpha_bar = torch.from_numpy(np.cumprod(1 - betas))
    tables = {
        "betas": torch.from_numpy(betas),
        "alphas": torch.from_numpy(1 - betas),
        "alphas_cumprod": alpha_bar,
        "alpha_t": alpha_bar.sqrt(),
        "sigma_t": (1 - alpha_bar).sqrt(),
        "lambda_t": alpha_bar.sqrt().log() - (1 - alpha_bar).sqrt().log(),
    }
    for name, table in tables.items():
        if hasattr(scheduler, name):
            setattr(scheduler, name, table)
