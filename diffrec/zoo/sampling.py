"""How a diffusion model samples: the `sampling` of config.json, which may change after a model was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffrec.diffusion.schedulers import Scheduler, scheduler_class, settings, with_settings
from diffrec.errors import IntegrityError, UsageError, check_sizes
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.strict_json import record
from diffrec.zoo.arguments import check_largest, checked_arguments, plain

_NONE = type(None)
_KINDS = {
    "num_inference_steps": (int, _NONE), "guidance_scale": float, "stochastic": bool, "scheduler": (dict, _NONE),
    "eta": float, "num_samples": int, "num_draws": int,
    "num_beams": int,
}  # fmt: skip
_DIFFUSION = {name: kind for name, kind in _KINDS.items() if name not in ("num_draws", "num_beams")}
_USUAL = {"eta": 1.0, "num_samples": 1}  # not written where it is so: older entries know nothing of it
_SCHEDULER = {"class": str, "settings": dict}


def sampling_of(model: Recommender) -> dict[str, Any] | None:
    """The settings of the sampler as JSON keeps them, None for a model that is no diffusion model.

    Raises NotFoundError for a scheduler that cannot be kept, TypeError for a value that cannot.
    """
    if not isinstance(model, DiffusionRecommender):
        return {name: plain(getattr(model, name)) for name in model.sampling_settings} or None
    later = {"eta": _USUAL["eta"] if model.eta is None else float(model.eta), "num_samples": model.num_samples}
    return {
        "num_inference_steps": plain(model.num_inference_steps),
        "guidance_scale": plain(float(model.guidance_scale)),
        "stochastic": plain(model.stochastic),
        "scheduler": None if model.scheduler is None else _kept(model.scheduler),
        **{name: plain(value) for name, value in later.items() if value != _USUAL[name]},
    }


def _kept(scheduler: Scheduler) -> dict[str, Any]:
    name = type(scheduler).__name__
    if scheduler_class(name) is not type(scheduler):
        raise TypeError(f"the scheduler {name} is not that of diffusers")
    return {"class": name, "settings": plain(settings(scheduler))}


def set_sampling(model: Recommender, sampling: Mapping[str, Any] | None, where: str) -> None:
    """Let `model` sample as `sampling_of` told; IntegrityError for what it would not have told."""
    if not isinstance(model, DiffusionRecommender):
        _set_plain(model, sampling, where)
        return
    fields = record({**_USUAL, **sampling} if isinstance(sampling, dict) else sampling, where, _DIFFUSION)
    check_largest(fields, where)
    try:
        _set_scheduler(model, fields["scheduler"], where)
        check_sizes(num_samples=fields["num_samples"])
        for name in ("num_inference_steps", "guidance_scale", "stochastic", "num_samples"):
            setattr(model, name, fields[name])
        if model.eta is not None or fields["eta"] != _USUAL["eta"]:
            model.eta = fields["eta"]
        model.process.reverse_steps(model.num_inference_steps)
    except IntegrityError:
        raise
    except Exception as error:  # whatever a scheduler makes of settings from a file, the file is at fault
        raise IntegrityError(f"{where} cannot be used: {error}") from error


def _set_plain(model: Recommender, sampling: Mapping[str, Any] | None, where: str) -> None:
    """The settings of a model that samples in a way of its own, if it does."""
    if not model.sampling_settings:
        if sampling is not None:
            raise IntegrityError(f"{where} must be null, for {type(model).__name__} is no diffusion model")
        return
    fields = record(sampling, where, {name: _KINDS[name] for name in model.sampling_settings})
    check_largest(fields, where)
    for name, value in fields.items():
        setattr(model, name, value)
    try:
        check_sizes(least=0, **{name: value for name, value in fields.items() if isinstance(value, int)})
        _ = model.denoiser_calls
    except UsageError as error:
        raise IntegrityError(f"{where} cannot be used: {error}") from error


def _set_scheduler(model: DiffusionRecommender, kept: object, where: str) -> None:
    if model.scheduler is None or kept is None:
        if (model.scheduler is None) != (kept is None):
            needed = "null" if model.scheduler is None else "an object"
            raise IntegrityError(f"{where}: scheduler must be {needed} for {type(model).__name__}")
        return
    scheduler = record(kept, f"{where}: scheduler", _SCHEDULER)
    cls = scheduler_class(scheduler["class"])
    arguments = checked_arguments(cls.__init__, scheduler["settings"], f"{where}: {cls.__name__}")
    model.scheduler = with_settings(cls.__name__, arguments, model.scheduler)
