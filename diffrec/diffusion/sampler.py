"""The reverse loop, for any denoiser and any process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Num

from diffrec.diffusion.noise import RequestNoise
from diffrec.nn.precision import full_precision
from diffrec.typing import Float, Int, Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class ReverseSteps(Protocol):
    """The way back from step T-1 to x_0, good for one walk. timesteps: the visited t, noisy first."""

    @property
    def timesteps(self) -> Sequence[float]: ...

    def enter(self, x: Tensor) -> Tensor:
        """The state of the walk at its start, from x_{T-1}."""
        ...

    def model_input(self, state: Tensor, place: int) -> Tensor:
        """x_t at that place, which the network sees."""
        ...

    def step(self, output: Tensor, state: Tensor, place: int, draw: Callable[[], Tensor] | None) -> Tensor:
        """The state one place on; draw: noise for one step, None for a walk without noise."""
        ...


class UnscaledSteps:
    """What `ReverseSteps` share whose state is x_t itself, both at the start and for the network."""

    def enter(self, x: Tensor) -> Tensor:
        return x

    def model_input(self, state: Tensor, place: int) -> Tensor:
        return state


@dataclass(frozen=True)
class Corrupted:
    """A clean sample and what step t made of it. x0, x_t: (batch, dim); t: (batch,)."""

    x0: Float[Tensor, "batch dim"]
    t: Int[Tensor, " batch"]
    x_t: Float[Tensor, "batch dim"]


@runtime_checkable
class Process(Protocol):
    """How x_0 is corrupted, where generation starts, and how a step goes back.

    `corrupt` gives whatever the objective of the process reads: a `Corrupted`, or more.
    """

    @property
    def num_train_timesteps(self) -> int: ...

    def corrupt(self, x0: Tensor, t: Num[Tensor, " batch"]) -> Any: ...

    def prior(self, shape: tuple[int, ...], noise: RequestNoise) -> Tensor: ...

    def num_steps(self, num_inference_steps: int | None) -> int: ...

    def reverse_steps(self, num_inference_steps: int | None = None) -> ReverseSteps: ...


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
    process: Process,
    x: Tensor,
    *,
    num_inference_steps: int | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Run the reverse loop from `x` (batch, ...) at step T-1 and return x_0.

    denoiser: (x_t, t (1,)) -> output; num_inference_steps: None visits all T steps. With the default
    DDIM scheduler each step is the posterior mean, plus posterior noise where `noise` (size -> (batch,
    size) standard normal numbers) is given: ancestral sampling (Ho et al. 2020, eq. 11), which is DDIM
    with eta = 1.
    """
    steps = process.reverse_steps(num_inference_steps)
    # coordinates keep a projection of the noise, and an x_0 that is worked out from eps or v holds all of it
    exact = noise is None or getattr(process, "prediction_type", "sample") == "sample"
    with full_precision(x.device.type):  # coordinates add up to vectors and need all their digits
        compact = _compact(denoiser, x, noisy=noise is not None) if exact else None
        if compact is not None:
            return compact.expand(_walk(compact, steps, compact.start, _draw(noise, compact, x)))
    return _walk(denoiser, steps, x, _draw(noise, None, x))


def _walk(network: Denoise, steps: ReverseSteps, state: Tensor, draw: Callable[[], Tensor] | None) -> Tensor:
    state = steps.enter(state)
    for place, t in enumerate(steps.timesteps):
        output = network(steps.model_input(state, place), torch.tensor([t], device=state.device))
        state = steps.step(output, state, place, draw)
    return state


def _compact(denoiser: object, x: Tensor, noisy: bool) -> Compact | None:
    return denoiser.compact(x, noisy) if isinstance(denoiser, Compactable) else None


def _draw(noise: Callable[[int], Tensor] | None, compact: Compact | None, x: Tensor) -> Callable[[], Tensor] | None:
    """Noise for one step, on what is stepped: the vectors (batch, ...) or their coordinates; None without noise."""
    if noise is None:
        return None
    if compact is not None:
        return lambda: compact.noise(noise)
    return lambda: noise(x.shape[1:].numel()).to(x.dtype).view_as(x)


@runtime_checkable
class TakesCondition(Protocol):
    """A denoiser that works out what the condition adds once for a request, with its guidance, instead of every step.

    null: (1, dim), None for no guidance.
    """

    def given(self, condition: Tensor, null: Tensor | None, guidance_scale: float) -> Denoise: ...


@runtime_checkable
class DrawsNoise(Protocol):
    """A denoiser that draws noise of its own, as DiffuRec's does; `drawing(normal)` is the same with given noise.

    normal: (length, size) -> (batch, length, size) standard normal numbers, such as those of the requests.
    """

    def drawing(self, normal: Callable[[int, int], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]: ...


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

    def __call__(self, x: Float[Tensor, "batch dim"], t: Num[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        t = t if len(t) == 1 else t.repeat(2)
        with_history, without = self.denoiser(torch.cat([x, x]), t, self.conditions).chunk(2)
        return without + self.guidance_scale * (with_history - without)
