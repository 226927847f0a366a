"""Schedulers of diffusers as plain data: those that may be kept with a model, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)

from diffrec.errors import UsageError, choose
from diffrec.typing import Tensor

_OF_THE_PROCESS = ("num_train_timesteps", "trained_betas", "prediction_type", "timestep_spacing")


@runtime_checkable
class Scheduler(Protocol):
    """What the reverse loop uses of a diffusers scheduler; their common base class declares none of it."""

    timesteps: Tensor

    @property
    def config(self) -> Mapping[str, Any]: ...

    def from_config(self, *args: Any, **kwargs: Any) -> Any: ...

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None: ...

    def step(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class GaussianScheduler(Scheduler, Protocol):
    """One of a Gaussian process, which may step its states at a scale of their own."""

    def scale_model_input(self, *args: Any, **kwargs: Any) -> Tensor: ...


SCHEDULERS: dict[str, Any] = {
    scheduler.__name__: scheduler
    for scheduler in (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        LCMScheduler,
        LMSDiscreteScheduler,
        UniPCMultistepScheduler,
    )
}

FLOW_SCHEDULERS: dict[str, Any] = {
    scheduler.__name__: scheduler
    for scheduler in (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler)
}
_REFUSED = ("stochastic_sampling", "use_dynamic_shifting", "invert_sigmas")  # noise of the batch; grids of pictures


def check_scheduler(scheduler: Scheduler, allowed: Mapping[str, Any] = SCHEDULERS) -> None:
    """UsageError for a scheduler whose noise would depend on the batch, or that is not one of `allowed`."""
    name, config = type(scheduler).__name__, scheduler.config if hasattr(scheduler, "config") else {}
    if not isinstance(scheduler, tuple(allowed.values())) or "sde" in str(config.get("algorithm_type")):
        raise UsageError(
            f"{name} cannot be used: steps must be deterministic, or take noise that belongs to the request, as the "
            f"default {next(iter(allowed))} does; there are: {', '.join(allowed)} (no 'sde' algorithm)"
        )
    if refused := [setting for setting in _REFUSED if config.get(setting)]:
        raise UsageError(f"{name} cannot be used with {refused[0]}")


def renoises(scheduler: object) -> bool:
    """Whether it means the steps of a consistency model, which are `trajectory.RenoisedSteps`: those of diffusers draw
    noise for the batch, and keep a share of x_t that belongs to the networks of pictures."""
    return isinstance(scheduler, LCMScheduler | FlowMatchLCMScheduler)


def takes_noise(scheduler: object, eta: float | None) -> bool:
    """Whether noise joins at its steps: at those of a consistency model, and of DDIM with an eta above 0."""
    return renoises(scheduler) or (isinstance(scheduler, DDIMScheduler) and bool(eta))


def scheduler_class(name: str) -> Any:
    """The class with this name; NotFoundError, with the near match, for one that is in neither list."""
    both = {**SCHEDULERS, **FLOW_SCHEDULERS}
    return both[choose("scheduler", name, both)]


def settings(scheduler: Scheduler) -> dict[str, Any]:
    """The arguments of a scheduler that differ from the defaults of its class, without those of the process."""
    defaults = _own_arguments(type(scheduler))
    return {k: v for k, v in scheduler.config.items() if k in defaults and v != defaults[k]}


def with_settings(name: str, arguments: Mapping[str, Any], template: Scheduler) -> Scheduler:
    """The scheduler with that name and these `settings`, on the process of `template`.

    What its class does not know stays as `template` has it, for a further `from_config` to find; the flow schedulers
    have no such kin, and diffusers warns of what they do not know. Raises NotFoundError for another name or setting.
    """
    cls = scheduler_class(name)
    own = _own_arguments(cls)
    for argument in arguments:
        choose(f"setting of {name}", argument, own)
    known = inspect.signature(cls.__init__).parameters if name in FLOW_SCHEDULERS else template.config
    others = {k: v for k, v in template.config.items() if k in known and k not in own and not k.startswith("_")}
    return cls.from_config({**others, **arguments})


def _own_arguments(cls: type) -> dict[str, Any]:
    """The arguments of a class of schedulers that do not belong to the process, with their defaults."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name not in ("self", *_OF_THE_PROCESS)}
