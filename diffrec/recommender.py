"""The contract that diffusion models and baselines share: `score(history)`, `recommend(history, k)`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytorch_lightning as pl
import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.data.datamodule import Examples
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, UsageError
from diffrec.metrics.functional import hide
from diffrec.metrics.ranking import RankingMetrics
from diffrec.typing import Float, History, Int, Scores, Tensor

_SCORES_AT_ONCE = 1 << 26  # scores held by one chunk of `recommend`: 256 MiB of float32


@dataclass(frozen=True)
class Recommendations:
    """Ranked lists. items: (batch, k) item numbers, best first, 0 where the candidates ran out;
    scores: (batch, k), -inf there."""

    items: Int[Tensor, "batch k"]
    scores: Float[Tensor, "batch k"]


class Recommender(pl.LightningModule):
    """A model that ranks all items for a history, for users seen in training or not.

    num_items: N, so that item numbers are 1..N; max_history_length: how many of the last items the
    model reads (None: all); examples: the kind of training example it learns from (`TrainingBatches`).

    A subclass gives `score` and `training_loss`. Its constructor arguments are kept in `init_args`,
    which is how a checkpoint is rebuilt.
    """

    examples: ClassVar[Examples] = "next"
    init_args: Mapping[str, object]

    def __init__(self, num_items: int, max_history_length: int | None = None) -> None:
        super().__init__()
        if num_items < 1:
            raise UsageError(f"num_items must be at least 1, got {num_items}")
        self.num_items, self.max_history_length = num_items, max_history_length
        self.vocabulary: Vocabulary | None = None
        self.validation_metrics = RankingMetrics(num_items, cutoffs=(10, 20))

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _remember_arguments(cls.__init__)

    # what a model gives

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """(batch, N) scores; column j is item number j + 1. `noise` is for models that sample."""
        raise NotImplementedError

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch."""
        raise NotImplementedError

    @property
    def denoiser_calls(self) -> int:
        """Network evaluations per request; 1 for anything that does not iterate."""
        return 1

    # what everybody gets

    def recommend(
        self,
        history: History | Sequence[str | int],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        exclude: Int[Tensor, "batch excluded"] | None = None,
        noise: RequestNoise | None = None,
        seed: int = 0,
    ) -> Recommendations:
        """The k best items for each history.

        history: (batch, length) item numbers, oldest first, 0 behind the end; or the titles or ids of
        one user, for a model with a vocabulary. exclude_seen leaves out the history, exclude further
        items. Lists depend on the history, `seed` and nothing else unless `noise` is given.
        """
        if not isinstance(history, Tensor):
            history = self._numbers(history)
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        history = history.to(self.device)
        if history.numel() and not (0 <= int(history.min()) and int(history.max()) <= self.num_items):
            raise UsageError(f"item numbers must lie in 1..{self.num_items}, got {int(history.max())}")
        noise = noise or RequestNoise.from_history(history, seed)
        parts = [exclude.to(self.device)] if exclude is not None else []
        hidden = torch.cat([history, *parts], dim=1) if exclude_seen else torch.cat([history[:, :0], *parts], dim=1)
        rows = max(1, _SCORES_AT_ONCE // self.num_items)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            chunks = [
                top_k(self.checked_scores(h, n), hid, k)
                for h, hid, n in zip(history.split(rows), hidden.split(rows), noise.split(rows), strict=True)
            ]
        self.train(was_training)
        return Recommendations(torch.cat([c.items for c in chunks]), torch.cat([c.scores for c in chunks]))

    def checked_scores(self, history: History, noise: RequestNoise | None) -> Scores:
        """`score` on the window the model reads; non-finite scores are an error."""
        if self.max_history_length is not None:
            history = last_items(history, self.max_history_length)
        scores = self.score(history, noise=noise)
        if not torch.isfinite(scores).all():
            raise DiffrecError(f"{type(self).__name__} gave non-finite scores: the checkpoint is broken")
        return scores

    def _numbers(self, queries: Sequence[str | int]) -> History:
        if self.vocabulary is None:
            raise UsageError("this model has no vocabulary; pass a (batch, length) tensor of item numbers")
        numbers = [q if isinstance(q, int) else self.vocabulary.number(q) for q in queries]
        return torch.tensor([numbers], dtype=torch.int64)

    # Lightning

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch.history))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._update_metrics(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Recommendations:
        return self.recommend(batch.history, exclude_seen=False, exclude=batch.seen, noise=self._noise(batch))

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("valid")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _noise(self, batch: Batch) -> RequestNoise | None:
        return None if batch.key is None else RequestNoise.from_keys(batch.key)

    def _update_metrics(self, batch: Batch) -> None:
        scores = self.checked_scores(batch.history, self._noise(batch))
        self.validation_metrics.update(scores, batch.target, batch.seen)

    def _log_metrics(self, stage: str) -> None:
        values = self.validation_metrics.compute()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=stage == "valid")
        self.validation_metrics.reset()


class ClosedFormRecommender(Recommender):
    """A baseline that is computed from the training sequences in one go, without gradients.

    A subclass gives `solve(sequences)`, which fills its buffers; under Lightning it runs before the
    first validation of a one-epoch fit. Buffers may change shape: loading takes the shapes of the file.
    """

    examples = "once"

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)
        self.automatic_optimization = False

    def solve(self, sequences: Ragged) -> None:
        """Compute the model from training sequences."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        self.solve(self.trainer.datamodule.split.train)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for name, buffer in self._buffers.items():
            if buffer is not None and prefix + name in state_dict:
                self._buffers[name] = torch.empty_like(state_dict[prefix + name], device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def top_k(scores: Scores, excluded: Int[Tensor, "batch excluded"], k: int) -> Recommendations:
    """The k best item numbers per row, leaving out `excluded` (0 is ignored); ties by item number."""
    k_there = min(k, scores.shape[1])
    masked = hide(scores, excluded)
    best, columns = torch.topk(masked, k_there, dim=1)
    order = torch.argsort(columns, dim=1, stable=True)
    order = order.gather(1, torch.argsort(best.gather(1, order), dim=1, descending=True, stable=True))
    best, items = best.gather(1, order), columns.gather(1, order) + 1
    items = items.masked_fill(torch.isneginf(best), 0)
    return Recommendations(nn.functional.pad(items, (0, k - k_there)), nn.functional.pad(best, (0, k - k_there), value=-torch.inf))


def last_items(history: History, length: int) -> History:
    """The last `length` items of every right-padded row, still right-padded."""
    if history.shape[1] <= length:
        return history
    sizes = (history > 0).sum(1, keepdim=True)
    index = (sizes - length).clamp(min=0) + torch.arange(length, device=history.device)
    return history.gather(1, index)


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
