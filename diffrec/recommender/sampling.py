"""How a model generates its lists, and what of that may change after training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from diffrec.errors import UsageError


class SamplingSettings:
    """The part of `Recommender` that is about steps, guidance, schedulers and noise."""

    sampling_settings: ClassVar[tuple[str, ...]] = ()  # attributes that may change after training; an entry keeps them

    @property
    def denoiser_calls(self) -> int:
        """Network evaluations per request; 1 for anything that does not iterate."""
        return 1

    @property
    def num_steps(self) -> int | None:
        """How many steps a request takes as `num_inference_steps` is set, None where there are none to choose."""
        return None

    @property
    def all_steps(self) -> int | None:
        """How many steps are all of them, where `num_inference_steps` may ask for all; else as many as `num_steps`."""
        return self.num_steps

    @property
    def uses_noise(self) -> bool:
        """Whether lists depend on `noise`, so that several draws of it differ."""
        return False

    def set_sampling(
        self,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        eta: float | None = None,
        num_samples: int | None = None,
    ) -> None:
        """Change how lists are generated from now on; what is None stays.

        scheduler: the name of one of diffusers that fits the process, with its default settings; "DDPMScheduler" is
        "DDIMScheduler" with eta 1. eta: of DDIM, from 0 (no noise on the way, diffusers' default) to 1 (the noise of
        DDPM). num_samples: how many are generated for a request, whose scores are averaged. UsageError for what this
        model has not or cannot take, NotFoundError for an unknown scheduler; nothing is changed then.
        """
        asked = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "scheduler": scheduler,
            "eta": eta,
            "num_samples": num_samples,
        }
        changed = self._allowed(asked)
        before = {name: getattr(self, name) for name in changed}
        try:
            for name, value in changed.items():
                setattr(self, name, value)
            _ = self.denoiser_calls  # looks at all of them
        except Exception:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    @property
    def settings_that_may_change(self) -> tuple[str, ...]:
        """Those of `set_sampling` that this model has."""
        those = ("num_inference_steps", "guidance_scale", "num_samples")
        return tuple(name for name in self.sampling_settings if name in those)

    def _allowed(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes that are to change, with their new values; UsageError for what this model has not."""
        asked = {name: value for name, value in asked.items() if value is not None}
        if absent := [name for name in asked if name not in self.settings_that_may_change]:
            there = ", ".join(self.settings_that_may_change) or "none"
            raise UsageError(f"{type(self).__name__} has no {absent[0]}, so leave it out; it has: {there}")
        return self._changed_by(asked)

    def _changed_by(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes that these settings of `set_sampling` change, with their new values."""
        return asked

    @contextmanager
    def sampling(self, **settings: Any) -> Iterator[None]:
        """`set_sampling` for the time of a block; settings: its arguments."""
        with restored(self, self._allowed(settings)):
            self.set_sampling(**settings)
            yield


@contextmanager
def restored(model: object, names: Iterable[str]) -> Iterator[None]:
    """These attributes have the same values after a block as before it."""
    before = {name: getattr(model, name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
