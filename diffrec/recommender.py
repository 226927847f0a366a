"""The contract that diffusion models and baselines share: `score(history)`, `recommend(history, k)`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.data.datamodule import Examples
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import Denoise, DrawsNoise, Guided, Process, TakesCondition, sample
from diffrec.diffusion.schedulers import FLOW_SCHEDULERS, SCHEDULERS, Scheduler, with_settings
from diffrec.diffusion.timesteps import TimestepSampler
from diffrec.errors import DiffrecError, UsageError, check_numbers, check_sizes, choose, is_whole
from diffrec.lists import Recommendations, last_items, right_padded, top_k
from diffrec.metrics.functional import all_finite
from diffrec.metrics.ranking import RankingMetrics
from diffrec.nn.fitted_shape import FittedShape
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Int, Scores, Tensor

_DDPM = "DDPMScheduler"  # that of diffusers draws noise for the batch; its steps are those of DDIM with eta 1
_SCORES_AT_ONCE = 1 << 26  # scores held by one chunk of `recommend`: 256 MiB of float32


def _remember_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Keep the arguments of the outermost constructor in `init_args`."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def remembering(self: Recommender, *args: object, **kwargs: object) -> None:
        if "init_args" not in self.__dict__:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.__dict__["init_args"] = {k: v for k, v in bound.arguments.items() if k != "self"}
        init(self, *args, **kwargs)

    return remembering


class Recommender(pl.LightningModule):
    """A model that ranks all items for a history, for users seen in training or not.

    num_items: N, so that item numbers are 1..N; max_history_length: how many of the last items the
    model reads (None: all); examples: the kind of training example it learns from (`TrainingBatches`).

    A subclass gives `score`, `training_loss` and Lightning's `configure_optimizers`. Its constructor arguments
    are kept in `init_args`, which is how a checkpoint is rebuilt.
    """

    examples: ClassVar[Examples] = "next"
    sampling_settings: ClassVar[tuple[str, ...]] = ()  # attributes that may change after training; an entry keeps them
    similar_lengths: ClassVar[bool] = False  # whether batches hold histories of similar length; "next" always do
    reads_times: ClassVar[bool] = False  # whether `score` takes `times`, (batch, length) seconds aligned with history
    taught: Callable[[Batch], Tensor] | None = None  # what training minimises instead of its own loss
    predicted_items: int = 10  # length of the lists of `Trainer.predict`
    rows_at_least: ClassVar[int] = 16  # smaller matrix products round differently: lists would depend on the batch
    init_args: Mapping[str, object]

    def __init__(self, num_items: int, max_history_length: int | None = None) -> None:
        super().__init__()
        check_sizes(num_items=num_items)
        if max_history_length is not None:
            check_sizes(max_history_length=max_history_length)
        self.num_items, self.max_history_length = num_items, max_history_length
        self.vocabulary: Vocabulary | None = None
        self.validation_metrics = RankingMetrics(num_items, cutoffs=(10, 20))

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _remember_arguments(cls.__init__)

    def remade(self, **changes: object) -> Recommender:
        """A model with the same constructor arguments but for `changes`, with weights of its own, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            return type(self)(**{**dict[str, Any](self.init_args), **changes})

    # what a model gives

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """(batch, N) scores; column j is item number j + 1. `noise` is for models that sample."""
        raise NotImplementedError

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch."""
        raise NotImplementedError

    def prepare(self, sequences: Ragged) -> None:
        """What is worked out from all training sequences before learning: a graph, frequencies. Nothing by default.

        It runs before the optimiser is made. What it keeps belongs into buffers or parameters, those whose shape
        the data decides into modules that are `FittedShape`.
        """

    @property
    def denoiser_calls(self) -> int:
        """Network evaluations per request; 1 for anything that does not iterate."""
        return 1

    @property
    def num_steps(self) -> int | None:
        """How many steps a request takes as `num_inference_steps` is set, None where there are none to choose."""
        return None

    @property
    def cannot_start_from_another(self) -> str:
        """Why weights learnt on other data mean nothing to this model, "" where they do."""
        return ""

    @property
    def uses_noise(self) -> bool:
        """Whether lists depend on `noise`, so that several draws of it differ."""
        return False

    # what everybody gets

    def recommend(
        self,
        history: History | Sequence[str | int] | Sequence[Sequence[str | int]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Int[Tensor, "rows excluded"] | None = None,
        noise: RequestNoise | None = None,
        seed: int = 0,
        times: History | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Recommendations:
        """The k best items for each history, or all there are where the model has fewer.

        history: (batch, length) item numbers, oldest first, 0 for padding on either side; or the titles
        or ids of one user, or of several, for a model with a vocabulary. exclude_seen leaves out the history, exclude
        further items; a list that ends early for it is filled up with 0. Lists depend on the history, `seed` and
        nothing else unless `noise` is given. times: (batch, length) the second of every item, for models that read
        them; without, all is taken to be at once.
        num_inference_steps, guidance_scale: for this call, as `set_sampling` would set them.
        """
        with self._sampling(num_inference_steps, guidance_scale):
            numbers = history if isinstance(history, Tensor) else self._numbers(history)
            return self._recommend(numbers, k, exclude_seen, exclude, noise, seed, times)

    def _recommend(
        self,
        history: History,
        k: int,
        exclude_seen: bool,
        exclude: Int[Tensor, "rows excluded"] | None,
        noise: RequestNoise | None,
        seed: int,
        times: History | None,
    ) -> Recommendations:
        check_sizes(k=k)
        k = min(k, self.num_items)
        history = self._checked_items(history)
        times = None if times is None else right_padded(history, times.to(self.device))
        history = right_padded(history)
        excluded = [history] if exclude_seen else [history[:, :0]]
        if exclude is not None:
            excluded.append(self._checked_items(exclude))
        noise = noise or RequestNoise.from_history(history, seed)
        if not len(noise.state) == len(excluded[-1]) == len(history):
            given = f"{len(excluded[-1])} rows of exclude and {len(noise.state)} of noise"
            raise UsageError(f"one row for each history: got {len(history)} histories, {given}")
        rows = max(1, _SCORES_AT_ONCE // self.num_items)
        hidden = torch.cat(excluded, dim=1).split(rows)
        asked = zip(history.split(rows), noise.split(rows), strict=True)
        seconds = [None] * len(hidden) if times is None else times.split(rows)
        with _evaluating(self), torch.inference_mode():
            scores = (self.checked_scores(h, n, t) for (h, n), t in zip(asked, seconds, strict=True))
            chunks = [top_k(part, out, k) for part, out in zip(scores, hidden, strict=True)]
        return Recommendations(torch.cat([c.items for c in chunks]), torch.cat([c.scores for c in chunks]))

    def _checked_items(self, items: Int[Tensor, "batch slots"]) -> Int[Tensor, "batch slots"]:
        """The same on the model's device; UsageError for what is no table of item numbers."""
        if items.ndim != 2 or items.dtype.is_floating_point:
            seen = f"{tuple(items.shape)} of {str(items.dtype).removeprefix('torch.')}"
            raise UsageError(f"item numbers are a (batch, length) tensor of whole numbers, got {seen}")
        wrong = items[(items < 0) | (items > self.num_items)]
        if len(wrong):
            raise UsageError(f"item numbers must lie in 1..{self.num_items}, 0 for padding, got {int(wrong[0])}")
        return items.to(self.device)

    def checked_scores(self, history: History, noise: RequestNoise | None, times: History | None = None) -> Scores:
        """`score` on the window the model reads, with `times` for models that read them; non-finite scores are an
        error."""
        if history.shape[1] == 0:
            history, times = nn.functional.pad(history, (0, 1)), None
        if self.max_history_length is not None:
            times = None if times is None else last_items(history, self.max_history_length, times)
            history = last_items(history, self.max_history_length)
        rows = self._repeated(len(history))
        read = {"times": times[rows]} if self.reads_times and times is not None else {}
        scores = self.score(history[rows], noise=None if noise is None else noise.take(rows), **read)[: len(history)]
        if not all_finite(scores):
            raise DiffrecError(f"{type(self).__name__} gave non-finite scores: the checkpoint is broken")
        return scores

    def _repeated(self, count: int) -> Int[Tensor, " rows"]:
        """0..count-1, from the start again where a batch is smaller than `rows_at_least`."""
        return torch.arange(max(count, self.rows_at_least) if count else 0, device=self.device) % max(count, 1)

    def _numbers(self, queries: Sequence[str | int] | Sequence[Sequence[str | int]]) -> History:
        """(users, longest) item numbers of titles or ids, of one user or of several."""
        if self.vocabulary is None:
            raise UsageError("this model has no vocabulary; pass a (batch, length) tensor of item numbers")
        if isinstance(queries, str):
            raise UsageError(f"a history is a list of titles or ids, got the text {queries!r}; write [{queries!r}]")
        if not isinstance(queries, Sequence):
            what = "a list of titles or ids, or a (batch, length) tensor of item numbers"
            raise UsageError(f"a history is {what}, got {type(queries).__name__}")
        several = bool(queries) and isinstance(queries[0], Sequence) and not isinstance(queries[0], str)
        rows = queries if several else [queries]
        if not all(isinstance(row, Sequence) and not isinstance(row, str) for row in rows):
            raise UsageError(
                "histories are lists of titles or ids, one list a user; got a title or an id beside a list"
            )
        if wrong := [q for row in rows for q in row if not (isinstance(q, str) or is_whole(q))]:  # pyright: ignore[reportGeneralTypeIssues]
            raise UsageError(f"a title or an id is text or a whole number, got {wrong[0]!r}")
        numbers = [torch.tensor([self.vocabulary.number(str(q)) for q in row], dtype=torch.int64) for row in rows]  # pyright: ignore[reportGeneralTypeIssues]
        return nn.utils.rnn.pad_sequence(numbers, batch_first=True)

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"] | None:
        """A vector for every item 1..N whose directions can be compared, None for a model that has none."""
        return None

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
        asked = {name: value for name, value in asked.items() if value is not None}
        if absent := [name for name in asked if name not in self.settings_that_may_change]:
            there = ", ".join(self.settings_that_may_change) or "none"
            raise UsageError(f"{type(self).__name__} has no {absent[0]}, so leave it out; it has: {there}")
        changed = self._changed_by(asked)
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
        return tuple(name for name in self.sampling_settings if name in ("num_inference_steps", "num_samples"))

    def _changed_by(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The attributes that these settings of `set_sampling` change, with their new values."""
        return asked

    @contextmanager
    def _sampling(self, num_inference_steps: int | None, guidance_scale: float | None) -> Iterator[None]:
        """`set_sampling` for the time of a block."""
        asked = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        before = {name: getattr(self, name, None) for name, value in asked.items() if value is not None}
        self.set_sampling(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    # Lightning

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.to(self.trainer.strategy.root_device)  # Lightning moves a model after this; to prepare is work too
            self.prepare(self.trainer.datamodule.split.train)  # pyright: ignore[reportAttributeAccessIssue]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch) if self.taught is None else self.taught(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch.history))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Recommendations:
        k, noise = self.predicted_items, self._noise(batch)
        return self.recommend(batch.history, k, exclude_seen=False, exclude=batch.seen, noise=noise, times=batch.times)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("valid")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _noise(self, batch: Batch) -> RequestNoise | None:
        """That of the benchmark: from the user's key and the seed of the run."""
        seed = getattr(getattr(self.trainer, "datamodule", None), "seed", 0)
        return None if batch.key is None else RequestNoise.from_keys(batch.key, seed)

    def _update_metrics(self, batch: Batch) -> None:
        scores = self.checked_scores(batch.history, self._noise(batch), batch.times)
        self.validation_metrics.update(scores, batch.target, batch.seen)

    def _log_metrics(self, stage: str) -> None:
        monitored = getattr(self.trainer.checkpoint_callback, "monitor", None)
        for name, value in self.validation_metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=f"{stage}/{name}" == monitored)
        self.validation_metrics.reset()


class EpochRates(pl.LightningModule):
    """A learning rate that the number of the epoch decides: a model gives `rate`."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, the first being 0."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        """Worked out anew in every epoch, so that a resumed run has the same."""
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.current_epoch)


LrSchedule = Literal["constant", "cosine"]


class StepRates(pl.LightningModule):
    """A learning rate that rises to `lr` over `warmup_steps` and stays there, or falls from the first step on to 0.

    lr_schedule "cosine": half a wave, which ends at the last step of `trainer.max_epochs`.
    """

    lr: float
    warmup_steps: int = 0
    lr_schedule: str = "constant"

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Worked out anew in every step, so that a resumed run has the same."""
        step = self.trainer.global_step
        share = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.lr_schedule == "cosine":
            share *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.trainer.estimated_stepping_batches))
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * share


class ClosedFormRecommender(FittedShape, Recommender):
    """A baseline that is computed from the training sequences in one go, without gradients.

    A subclass gives `solve(sequences)`, which fills its buffers; under Lightning it runs before the
    first validation of a one-epoch fit. Buffers may change shape: loading takes the shapes of the file.

    asked_with: constructor arguments that only `score` reads, so that a solved model may be asked with others.
    """

    asked_with: ClassVar[tuple[str, ...]] = ()

    examples = "once"
    rows_at_least = 1  # rows are added up one by one

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)
        self.automatic_optimization = False

    def solve(self, sequences: Ragged) -> None:
        """Compute the model from training sequences."""
        raise NotImplementedError

    def prepare(self, sequences: Ragged) -> None:
        self.solve(sequences)

    @property
    def cannot_start_from_another(self) -> str:
        return "it is solved in one go, not trained"

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


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
        noisy = changed.get("stochastic", self.stochastic) and changed.get("eta", self.eta) != 0
        if changed.get("num_samples", 1) != 1 and not (noisy or self.start == "noise"):
            name = type(self).__name__
            raise UsageError(f"{name} draws no noise as it is set, so samples are all the same; leave num_samples out")
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
        return self.stochastic and self.eta != 0

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
        noise = noise or RequestNoise.from_history(history)
        denoise = self.denoiser_for(history, noise)
        scores = self._scores_of_a_walk(history, denoise, noise)
        for _ in range(self.num_samples - 1):
            scores = scores + self._scores_of_a_walk(history, denoise, noise)
        return scores / self.num_samples if self.num_samples > 1 else scores

    def _scores_of_a_walk(self, history: History, denoise: Denoise, noise: RequestNoise) -> Scores:
        x = self.space.encode(history) if self.start == "history" else self.process.prior(self.space.shape, noise)
        draw = noise.normal if self.noisy_steps else None
        x0 = sample(denoise, self.process, x, num_inference_steps=self.num_inference_steps, noise=draw)
        return self.space.score(x0)

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


def count_parameters(model: Recommender) -> int:
    """Numbers that were learnt: trainable ones, or the stored ones of a closed form."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad) or sum(
        t.numel() for t in model.state_dict().values()
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]  # none, where requests are answered
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
