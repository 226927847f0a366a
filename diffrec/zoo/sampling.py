"""How a diffusion model samples: the `sampling` of config.json, which may change after a model was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffrec.diffusion.schedulers import scheduler_class, settings, with_settings
from diffrec.errors import IntegrityError
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.strict_json import record
from diffrec.zoo.arguments import checked_arguments, plain

_NONE = type(None)
_KINDS = {"num_inference_steps": (int, _NONE), "guidance_scale": float, "stochastic": bool, "scheduler": dict}
_SCHEDULER = {"class": str, "settings": dict}


def sampling_of(model: Recommender) -> dict[str, Any] | None:
    """The settings of the sampler as JSON keeps them, None for a model that is no diffusion model.

    Raises NotFoundError for a scheduler that cannot be kept, TypeError for a value that cannot.
    """
    if not isinstance(model, DiffusionRecommender):
        return None
    name = type(model.scheduler).__name__
    if scheduler_class(name) is not type(model.scheduler):
        raise TypeError(f"the scheduler {name} is not that of diffusers")
    return {
        "num_inference_steps": plain(model.num_inference_steps),
        "guidance_scale": plain(float(model.guidance_scale)),
        "stochastic": plain(model.stochastic),
        "scheduler": {"class": name, "settings": plain(settings(model.scheduler))},
    }


def set_sampling(model: Recommender, sampling: Mapping[str, Any] | None, where: str) -> None:
    """Let `model` sample as `sampling_of` told; IntegrityError for what it would not have told."""
    if not isinstance(model, DiffusionRecommender):
        if sampling is not None:
            raise IntegrityError(f"{where} must be null, for {type(model).__name__} is no diffusion model")
        return
    fields = record(sampling, where, _KINDS)
    scheduler = record(fields["scheduler"], f"{where}: scheduler", _SCHEDULER)
    try:
        cls = scheduler_class(scheduler["class"])
        arguments = checked_arguments(cls.__init__, scheduler["settings"], f"{where}: {cls.__name__}")
        model.scheduler = with_settings(cls.__name__, arguments, model.scheduler)
        for name in ("num_inference_steps", "guidance_scale", "stochastic"):
            setattr(model, name, fields[name])
        model.process.reverse_steps(model.num_inference_steps)
    except IntegrityError:
        raise
    except Exception as error:  # whatever a scheduler makes of settings from a file, the file is at fault
        raise IntegrityError(f"{where} cannot be used: {error}") from error
