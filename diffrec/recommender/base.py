"""The contract that diffusion models and baselines share: `score(history)`, `recommend(history, k)`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.data.datamodule import Examples
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split, TrainingPart
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, UsageError, check_sizes
from diffrec.lists import Recommendations, last_items, right_padded, top_k
from diffrec.metrics.functional import all_finite
from diffrec.metrics.ranking import RankingMetrics
from diffrec.nn.artefacts import Readable
from diffrec.nn.precision import full_precision
from diffrec.recommender.histories import checked_items, numbers_of
from diffrec.recommender.sampling import SamplingSettings
from diffrec.typing import Float, History, Int, Scores, Tensor

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


class Recommender(SamplingSettings, pl.LightningModule):
    """A model that ranks all items for a history, for users seen in training or not.

    num_items: N, so that item numbers are 1..N; max_history_length: how many of the last items the
    model reads (None: all); examples: the kind of training example it learns from (`TrainingBatches`);
    other_examples: those that `--data.examples` may ask for besides.

    A subclass gives `score`, `training_loss` and Lightning's `configure_optimizers`. Its constructor arguments
    are kept in `init_args`, which is how a checkpoint is rebuilt.
    """

    examples: ClassVar[Examples] = "next"
    other_examples: ClassVar[tuple[Examples, ...]] = ()
    similar_lengths: ClassVar[bool] = False  # whether batches hold histories of similar length; "next" always do
    reads: ClassVar[tuple[tuple[str, Readable], ...]] = ()  # arguments that name what it learns from, and its kind
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
        self.trained_on: TrainingPart | None = None  # of an entry of the zoo that says so
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

    def query(self, history: History, *, noise: RequestNoise | None = None) -> Float[Tensor, "batch wide"]:
        """What `keys` are multiplied with for the scores, where they are such products: `score` is
        `query(history) @ keys.T`. UsageError where they are not, as here."""
        raise UsageError(f"{type(self).__name__} does not compare one vector of a history with one of each item")

    @property
    def keys(self) -> Float[Tensor, "items wide"]:
        """(N, wide) vectors of the items 1..N for `query`. UsageError as there."""
        raise UsageError(f"{type(self).__name__} does not compare one vector of a history with one of each item")

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch, whose `target` has the shape that `examples` makes (`TrainingBatches`)."""
        raise NotImplementedError

    def prepare(self, sequences: Ragged) -> None:
        """What is worked out from all training sequences before learning: a graph, frequencies. Nothing by default.

        It runs before the optimiser is made. What it keeps belongs into buffers or parameters, those whose shape
        the data decides into modules that are `FittedShape`.
        """

    def prepare_on(self, split: Split) -> None:
        """`prepare` with the training sequences; what reads more of a split than those takes it here."""
        self.prepare(split.train)

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"] | None:
        """A vector for every item 1..N whose directions can be compared, None for a model that has none."""
        return None

    @property
    def cannot_start_from_another(self) -> str:
        """Why weights learnt on other data mean nothing to this model, "" where they do."""
        return ""

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
        Raises UsageError for what is no history and for settings that the model has not, NotFoundError for an unknown
        title or id, DiffrecError where scores are not finite.
        """
        with self.sampling(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale):
            numbers = history if isinstance(history, Tensor) else numbers_of(history, self.vocabulary)
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
        history = checked_items(history, self.num_items).to(self.device)
        if times is not None and times.shape != history.shape:
            seen = f"{tuple(times.shape)} for a history of {tuple(history.shape)}"
            raise UsageError(f"times hold one second for each item of the history, got {seen}")
        times = None if times is None else right_padded(history, times.to(self.device))
        history = right_padded(history)
        excluded = [history] if exclude_seen else [history[:, :0]]
        if exclude is not None:
            excluded.append(checked_items(exclude, self.num_items).to(self.device))
        noise = noise or RequestNoise.from_history(history, seed)
        if not len(noise.state) == len(excluded[-1]) == len(history):
            given = f"{len(excluded[-1])} rows of exclude and {len(noise.state)} of noise"
            raise UsageError(f"one row for each history: got {len(history)} histories, {given}")
        rows = max(1, _SCORES_AT_ONCE // self.num_items)
        hidden = torch.cat(excluded, dim=1).split(rows)
        asked = zip(history.split(rows), noise.split(rows), strict=True)
        seconds = [None] * len(hidden) if times is None else times.split(rows)
        with evaluating(self), torch.inference_mode():
            scores = (self.checked_scores(h, n, t) for (h, n), t in zip(asked, seconds, strict=True))
            chunks = [top_k(part, out, k) for part, out in zip(scores, hidden, strict=True)]
        return Recommendations(torch.cat([c.items for c in chunks]), torch.cat([c.scores for c in chunks]))

    def checked_scores(self, history: History, noise: RequestNoise | None, times: History | None = None) -> Scores:
        """`score` on the window the model reads, with `times` for models that read them; non-finite scores are an
        error."""
        return self._asked(self.score, history, noise, times)

    def checked_query(self, history: History, noise: RequestNoise | None) -> Float[Tensor, "batch wide"]:
        """`query` in the same way."""
        return self._asked(self.query, history, noise, None)

    def _asked(
        self, question: Callable[..., Tensor], history: History, noise: RequestNoise | None, times: History | None
    ) -> Tensor:
        """The rows of an answer for the window the model reads, without autocast."""
        if history.shape[1] == 0:
            history, times = nn.functional.pad(history, (0, 1)), None
        if self.max_history_length is not None:
            times = None if times is None else last_items(history, self.max_history_length, times)
            history = last_items(history, self.max_history_length)
        rows = self._repeated(len(history))
        read = {"times": times[rows]} if self.reads_times and times is not None else {}
        # under bf16 autocast scores would have 8 bits, and validation, which picks the checkpoint, would rank groups of
        # ties; a checkpoint is asked in the precision of its weights later, so that is what has to be measured
        with full_precision(self.device.type):
            answer = question(history[rows], noise=None if noise is None else noise.take(rows), **read)[: len(history)]
        if not all_finite(answer):
            calls = f" after {self.denoiser_calls} steps, or its sampler is not for so many" * (self.denoiser_calls > 1)
            raise DiffrecError(f"{type(self).__name__} gave non-finite scores: the checkpoint is broken{calls}")
        return answer

    def _repeated(self, count: int) -> Int[Tensor, " rows"]:
        """0..count-1, from the start again where a batch is smaller than `rows_at_least`."""
        return torch.arange(max(count, self.rows_at_least) if count else 0, device=self.device) % max(count, 1)

    # Lightning

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.to(self.trainer.strategy.root_device)  # Lightning moves a model after this; to prepare is work too
            self.prepare_on(self.trainer.datamodule.split)  # pyright: ignore[reportAttributeAccessIssue]

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


def count_parameters(model: Recommender) -> int:
    """Numbers that were learnt: trainable ones, or the stored ones of a closed form."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad) or sum(
        t.numel() for t in model.state_dict().values()
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]  # none, where requests are answered
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
