"""A diffusion model put together from parts: what is diffused, how it is corrupted, and a network that denoises it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import Denoise, DrawsNoise, Guided, Process, TakesCondition, sample
from diffrec.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, Scheduler, renoises, takes_noise, with_settings
from diffrec.diffusion.timesteps import TimestepSampler
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.recommender.base import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor

_DDPM = "DDPMScheduler"  # that of diffusers draws noise for the batch; its steps are those of DDIM with eta 1


@runtime_checkable
class Space(Protocol):
    """What is diffused: items to x_0 (batch, *shape), and a generated x_0 to scores."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def encode(self, items: Tensor, /) -> Tensor: ...

    def score(self, x0: Tensor) -> Scores: ...


@runtime_checkable
class HistoryConditioner(Protocol):
    """What the denoiser is told of the history; `null` (1, dim) stands for an unknown one, None: nothing does."""

    @property
    def null(self) -> Tensor | None: ...

    def __call__(self, history: History, embed: Callable[[Tensor], Tensor]) -> Tensor: ...

    def dropped(self, history: History, embed: Callable[[Tensor], Tensor]) -> Tensor: ...


def _noisy(stochastic: bool, eta: float | None, scheduler: Scheduler | None) -> bool:
    return stochastic and (scheduler is None or takes_noise(scheduler, eta))


class DiffusionRecommender(Recommender):
    """A recommender put together from parts; a paper's file names them.

    space: what is diffused; process: how it is corrupted and how a step goes back; denoiser: the
    network; timesteps: which t training sees; objective: the per-example loss; conditioner: what the
    denoiser knows of the history (None: nothing, the history is what is diffused).

    start: "history" denoises the encoded history itself, "noise" generates the target from the prior;
    detach_target: what is encoded as x_0 gets no gradient, so that a learned space cannot lower the
    loss by shrinking.
    stochastic: posterior noise in the reverse loop. num_inference_steps (None: all T), guidance_scale (1: none),
    num_samples (how many are generated for a request, whose scores are averaged), `scheduler` and `eta` may be
    changed at any time.
    """

    def __init__(
        self,
        num_items: int,
        max_history_length: int | None,
        *,
        space: Space,
        process: Process,
        denoiser: nn.Module,
        timesteps: TimestepSampler,
        objective: nn.Module,
        start: Literal["history", "noise"],
        conditioner: HistoryConditioner | None = None,
        detach_target: bool = False,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        num_samples: int = 1,
        stochastic: bool = True,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length)
        check_sizes(num_samples=num_samples)
        check_numbers(guidance_scale=guidance_scale)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        process.num_steps(num_inference_steps)
        self.space, self.process, self.denoiser, self.conditioner = space, process, denoiser, conditioner
        self.timesteps, self.objective, self.start = timesteps, objective, start
        self.detach_target = detach_target
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.num_samples, self.stochastic = num_samples, stochastic
        self.lr, self.weight_decay = lr, weight_decay

    @property
    def scheduler(self) -> Scheduler | None:
        """The diffusers scheduler whose steps the reverse loop takes; assign another to use its steps.

        None for a process that has steps of its own, such as a bridge; UsageError when one is assigned there.
        """
        return self.process.scheduler if isinstance(self.process, GaussianProcess | RectifiedFlow) else None

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        if not isinstance(self.process, GaussianProcess | RectifiedFlow):
            raise UsageError(f"{type(self).__name__} has steps of its own and takes no scheduler")
        self.process.scheduler = scheduler

    @property
    def eta(self) -> float | None:
        """Of the steps of DDIM: 1 are those of DDPM, 0 takes the noise out; None for a process that is not Gaussian."""
        return self.process.eta if isinstance(self.process, GaussianProcess) else None

    @eta.setter
    def eta(self, eta: float) -> None:
        if not isinstance(self.process, GaussianProcess):
            raise UsageError(f"{type(self).__name__} has steps of its own and takes no eta")
        check_numbers(eta=eta)
        if not 0 <= eta <= 1:
            raise UsageError(f"eta must lie from 0 to 1, got {eta}")
        self.process.eta = eta

    @property
    def settings_that_may_change(self) -> tuple[str, ...]:
        """Steps; guidance where the denoiser can do without the history; a scheduler where the process steps by one,
        with eta where it is Gaussian; samples where noise tells them apart."""
        gaussian = self.eta is not None
        there = {
            "guidance_scale": self.takes_guidance,
            "scheduler": gaussian or (isinstance(self.process, RectifiedFlow) and not self.process.fixed_start),
            "eta": gaussian,
            "num_samples": gaussian or self.uses_noise,
        }
        return ("num_inference_steps", *(name for name, has in there.items() if has))

    def _changed_by(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        changed = dict(asked)
        if "scheduler" in asked:
            changed |= self._scheduler_called(str(asked["scheduler"]), asked.get("eta"))
        if "eta" in changed:
            steps = type(changed.get("scheduler", self.scheduler)).__name__
            if steps != "DDIMScheduler":
                raise UsageError(f"eta belongs to DDIMScheduler, got it with {steps}; leave it out or ask for that one")
            changed["stochastic"] = True  # as in diffusers, where eta alone says how much noise there is
        if renoises(changed.get("scheduler")):
            changed["stochastic"] = True  # as diffusers has it
        noisy = _noisy(*(changed.get(name, getattr(self, name)) for name in ("stochastic", "eta", "scheduler")))
        if changed.get("num_samples", 1) != 1 and not (noisy or self.start == "noise"):
            name = type(self).__name__
            raise UsageError(
                f"{name} draws no noise as it is set, so samples are the same; DDPMScheduler or eta has noise"
            )
        return changed

    def _scheduler_called(self, name: str, eta: float | None) -> dict[str, Any]:
        """The scheduler of that name, and of DDIM the eta that is asked for or usual."""
        assert self.scheduler is not None
        choose("scheduler", name, [*SCHEDULERS, *FLOW_SCHEDULERS, _DDPM])
        usual = {"DDIMScheduler": 0.0, _DDPM: 1.0}.get(name)  # as diffusers has it
        if name == _DDPM and eta is not None and eta != usual:
            raise UsageError(f"{_DDPM} is DDIMScheduler with eta 1, got eta {eta!r}; leave one of the two out")
        found = {"scheduler": with_settings("DDIMScheduler" if name == _DDPM else name, {}, self.scheduler)}
        return found if usual is None or self.eta is None else {**found, "eta": usual if eta is None else eta}

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"] | None:
        """The table of a space of item embeddings, as it is used."""
        return self.space.vectors if isinstance(self.space, EmbeddingSpace) else None

    @property
    def takes_guidance(self) -> bool:
        """Whether the denoiser knows what to do without the history, so that guidance_scale has a meaning."""
        return self.conditioner is not None and self.conditioner.null is not None

    @property
    def num_steps(self) -> int:
        return self.process.num_steps(self.num_inference_steps)

    @property
    def all_steps(self) -> int:
        return self.process.num_steps(None)

    @property
    def denoiser_calls(self) -> int:
        check_numbers(guidance_scale=self.guidance_scale)
        check_sizes(num_samples=self.num_samples)
        steps = len(self.process.reverse_steps(self.num_inference_steps).timesteps)
        return steps * (2 if self.takes_guidance and self.guidance_scale != 1 else 1) * self.num_samples

    @property
    def uses_noise(self) -> bool:
        return self.start == "noise" or self.noisy_steps

    @property
    def noisy_steps(self) -> bool:
        """Whether noise joins on the way to x_0."""
        return _noisy(self.stochastic, self.eta, self.scheduler)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Encode, corrupt, denoise, compare; one draw of t and noise per example."""
        x0 = self.space.encode(batch.history if self.start == "history" else batch.target[:, 0])
        if self.detach_target:
            x0 = x0.detach()
        draw = self.timesteps.draw(len(x0), x0.device)
        noised = self.process.corrupt(x0, draw.t)
        if self.conditioner is None:
            output = self.denoiser(noised.x_t, draw.t)
        else:
            output = self.denoiser(noised.x_t, draw.t, self.conditioner.dropped(batch.history, self.space.encode))
        loss = self.objective(output, noised)
        self.timesteps.update(draw.t, loss.detach())
        return (loss * draw.weight).mean()

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Run the reverse loop and compare what comes out with every item; the mean over `num_samples` walks."""
        return self._mean_of_walks(self.space.score, history, noise)

    def query(self, history: History, *, noise: RequestNoise | None = None) -> Float[Tensor, "batch wide"]:
        """What comes out of the reverse loop, the mean over `num_samples` walks, as the items are compared with it."""
        if not isinstance(self.space, EmbeddingSpace):
            return super().query(history, noise=noise)
        return self._mean_of_walks(self.space.query, history, noise)

    @property
    def keys(self) -> Float[Tensor, "items wide"]:
        return self.space.keys if isinstance(self.space, EmbeddingSpace) else super().keys

    def _mean_of_walks(
        self, read: Callable[[Tensor], Tensor], history: History, noise: RequestNoise | None
    ) -> Float[Tensor, "batch wide"]:
        """The mean of what is read of each x0."""
        noise = noise or RequestNoise.from_history(history)
        denoise = self.denoiser_for(history, noise)
        total = read(self._walked(history, denoise, noise))
        for _ in range(self.num_samples - 1):
            total = total + read(self._walked(history, denoise, noise))
        return total / self.num_samples if self.num_samples > 1 else total

    def _walked(self, history: History, denoise: Denoise, noise: RequestNoise) -> Tensor:
        """The x0 at the end of one walk."""
        x = self.space.encode(history) if self.start == "history" else self.process.prior(self.space.shape, noise)
        draw = noise.normal if self.noisy_steps else None
        return sample(denoise, self.process, x, num_inference_steps=self.num_inference_steps, noise=draw)

    def denoiser_for(self, history: History, noise: RequestNoise) -> Denoise:
        """The denoiser for one request: the history is encoded here, once, not in every step."""
        if self.conditioner is None:
            return self.denoiser
        denoiser = self.denoiser.drawing(noise.slots) if isinstance(self.denoiser, DrawsNoise) else self.denoiser
        condition, null = self.conditioner(history, self.space.encode), self.conditioner.null
        null = None if self.guidance_scale == 1 else null
        if isinstance(denoiser, TakesCondition):
            return denoiser.given(condition, null, self.guidance_scale)
        if null is None:
            return lambda x, t: denoiser(x, t, condition)
        return Guided(denoiser, condition, null, self.guidance_scale)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
