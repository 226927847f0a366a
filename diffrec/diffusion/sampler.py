"""The reverse loop, for any denoiser and any diffusers scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.schedulers import Scheduler
from diffrec.errors import UsageError
from diffrec.typing import Float, Int, Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Compact(Protocol):
    """A denoiser on coordinates instead of vectors, see `Compactable`."""

    @property
    def start(self) -> Float[Tensor, "batch coordinates"]: ...

    def __call__(
        self, coordinates: Float[Tensor, "batch coordinates"], t: Int[Tensor, 1]
    ) -> Float[Tensor, "batch coordinates"]: ...

    def noise(self, normal: Callable[[int], Tensor]) -> Float[Tensor, "batch coordinates"]: ...

    def expand(self, coordinates: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch dim"]: ...


@runtime_checkable
class Compactable(Protocol):
    """A denoiser whose reverse loop runs in its hidden width.

    Every step of every scheduler here is linear in (x_t, output), so a denoiser with linear first and
    last layers never needs the vectors themselves between the first and the last step: `compact(x)`
    gives the same network on coordinates of x_t, and the scheduler steps the coordinates. `noisy` tells
    whether `noise` will be asked for.
    """

    def compact(self, x: Float[Tensor, "batch dim"], noisy: bool) -> Compact | None: ...


def sample(
    denoiser: Denoise,
    process: GaussianProcess,
    x: Float[Tensor, "batch dim"],
    *,
    num_inference_steps: int | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Float[Tensor, "batch dim"]:
    """Run the reverse loop from `x` at step T-1 and return x_0.

    denoiser: (x_t, t (1,)) -> output; num_inference_steps: None visits all T steps. With the default
    DDIM scheduler each step is the posterior mean, plus posterior noise where `noise` (size -> (batch,
    size) standard normal numbers) is given: ancestral sampling (Ho et al. 2020, eq. 11), which is DDIM
    with eta = 1.
    """
    steps = process.reverse_steps(num_inference_steps)
    compact = _compact(denoiser, x, noisy=noise is not None)
    network, state = (denoiser, x) if compact is None else (compact, compact.start)
    scheduler = steps.scheduler
    state = state * scheduler.init_noise_sigma
    extra = _step_arguments(scheduler)

    def draw(state: Tensor) -> Tensor:
        if noise is None:
            return state.new_zeros(())
        return noise(state.shape[1]).to(state.dtype) if compact is None else compact.noise(noise)

    for t, index in zip(steps.timesteps, steps.indices, strict=True):
        output = network(scheduler.scale_model_input(state, index), torch.tensor([t], device=x.device))
        if "variance_noise" in extra:
            extra["variance_noise"] = draw(state) if t > steps.timesteps[-1] else state.new_zeros(())
        state = scheduler.step(output, index, state, **extra, return_dict=False)[0]
    return state if compact is None else compact.expand(state)


def _compact(denoiser: object, x: Tensor, noisy: bool) -> Compact | None:
    return denoiser.compact(x, noisy) if isinstance(denoiser, Compactable) else None


def _step_arguments(scheduler: Scheduler) -> dict[str, object]:
    """What `step` of this scheduler wants beside output, index and sample."""
    parameters = inspect.signature(scheduler.step).parameters
    if "variance_noise" in parameters and "eta" in parameters:
        return {"eta": 1.0, "variance_noise": None}
    if "generator" in parameters and type(scheduler).__name__.endswith(("DDPMScheduler", "AncestralDiscreteScheduler")):
        raise UsageError(
            f"{type(scheduler).__name__} draws noise that depends on the batch; the default DDIMScheduler "
            f"takes the same steps with noise that belongs to the request"
        )
    return {}


class Guided:
    """Classifier-free guidance in one batched call: f(null) + g (f(condition) - f(null)).

    g is diffusers' guidance_scale: 1 is no guidance; the w of Ho and Salimans (2022) is g - 1.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
        condition: Float[Tensor, "batch dim"],
        null: Float[Tensor, "1 dim"],
        guidance_scale: float,
    ) -> None:
        self.denoiser, self.guidance_scale = denoiser, guidance_scale
        self.conditions = torch.cat([condition, null.expand_as(condition)])

    def __call__(self, x: Float[Tensor, "batch dim"], t: Int[Tensor, 1]) -> Float[Tensor, "batch dim"]:
        with_history, without = self.denoiser(torch.cat([x, x]), t, self.conditions).chunk(2)
        return without + self.guidance_scale * (with_history - without)
