"""Batches for training and evaluation, cut from flat arrays; no loop over users, no padding beyond a batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from diffrec.data.batch import Batch
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.data.ragged import Ragged
from diffrec.data.sources import load_dataset
from diffrec.data.splits import Cases, Split
from diffrec.errors import UsageError, check_sizes

Examples = Literal["history", "next", "prefix", "prefix-or-none", "last", "pairs", "once"]
_ONE_TARGET = ("prefix", "prefix-or-none", "last")


def distinct_pairs(sequences: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """(row, item) of every interaction, each (pairs,) int64, ordered by row and item; repeats count once."""
    span = int(sequences.values.max(initial=0)) + 1
    rows, items = np.divmod(np.unique(sequences.row_of_entry * span + sequences.values), span)
    return rows, items


def fewest_items(examples: Examples) -> int:
    """How many items a sequence needs to be learnt from."""
    return {"once": 0, "history": 1, "pairs": 1, "prefix-or-none": 1}.get(examples, 2)


class TrainingBatches(TorchDataset[Batch]):
    """Training examples of one kind, read a batch at a time: `batches[indices] -> Batch`.

    history: the whole sequence, no target (the model denoises the history itself);
    next: every position of the last `max_history_length` is an example, target aligned with history;
    prefix: one example for every prefix of at least one item; prefix-or-none: for the empty one too, so that every
    item is a target; last: only the longest prefix;
    pairs: one example for every different item of a row: no history, the item as target;
    once: closed forms, which read the sequences themselves: a single empty batch.
    target: (batch, length) for next, (batch, 0) for history, (1, 0) for once, else (batch, 1).
    The row is the `key` of every example. times: those of `sequences`, for batches that hold the times of their
    histories.
    """

    def __init__(
        self, sequences: Ragged, examples: Examples, max_history_length: int | None, times: Ragged | None = None
    ) -> None:
        self.sequences, self.examples, self.max_history_length = sequences, examples, max_history_length
        self.times = times
        lengths = sequences.lengths
        if examples == "pairs":
            self.rows, self.items = distinct_pairs(sequences)
            self.stops = np.zeros_like(self.rows)
        elif examples in ("prefix", "prefix-or-none"):
            keep = sequences.position_of_entry >= (examples == "prefix")
            self.rows, self.stops = sequences.row_of_entry[keep], sequences.position_of_entry[keep]
        elif examples == "history":
            self.rows = np.flatnonzero(lengths > 0)
            self.stops = lengths[self.rows]
        else:
            self.rows = np.flatnonzero(lengths > 1)
            self.stops = lengths[self.rows] - 1
        limit = len(sequences.values) if max_history_length is None else max_history_length
        self.history_lengths = np.minimum(self.stops, limit)

    def __len__(self) -> int:
        return 1 if self.examples == "once" else len(self.rows)

    def __getitem__(self, indices: np.ndarray) -> Batch:
        if self.examples == "once":
            return Batch(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64))
        if self.examples == "pairs":
            rows, items = (torch.from_numpy(part[indices]) for part in (self.rows, self.items))
            return Batch(items.new_zeros(len(items), 0), items[:, None], key=rows)
        rows, stops, lengths = self.rows[indices], self.stops[indices], self.history_lengths[indices]
        everything = np.arange(len(rows))
        history = self.sequences.slices(stops - lengths, stops, rows).padded(everything)
        if self.examples == "history":
            target = np.zeros((len(rows), 0), dtype=np.int64)
        elif self.examples == "next":
            target = self.sequences.slices(stops - lengths + 1, stops + 1, rows).padded(everything)
        else:
            target = self.sequences.slices(stops, stops + 1, rows).padded(everything)
        times = None if self.times is None else self.times.slices(stops - lengths, stops, rows).padded(everything)
        return Batch(
            torch.from_numpy(history),
            torch.from_numpy(target),
            key=torch.from_numpy(rows),
            times=None if times is None else torch.from_numpy(times),
        )


class EpochSampler(Sampler[np.ndarray]):
    """Index arrays of one epoch, a pure function of `(seed, epoch)`; `go_on` leaves out what a resumed run has had.

    With `lengths` given, batches hold examples of similar length (sorted inside blocks of 50 shuffled
    batches), so that almost nothing is computed on padding, and about the same number of `even`: "positions", so
    that a mean over the positions of a batch weighs every position alike, `batch_size` being the mean number of
    examples then; or "examples", where the mean is one over examples. The order of the batches stays random.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        lengths: np.ndarray | None = None,
        even: Literal["positions", "examples"] = "positions",
    ) -> None:
        self.size, self.batch_size, self.seed, self.lengths, self.epoch = size, batch_size, seed, lengths, 0
        self.even, self.begun = even, (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def go_on(self, epoch: int, batch: int) -> None:
        """This epoch begins with this batch of it, others with their first."""
        self.epoch, self.begun = epoch, (epoch, batch)

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        epoch, batch = self.begun
        yield from islice(self._batches(), batch if self.epoch == epoch else 0, None)

    def _batches(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.size)
        if self.lengths is None:
            yield from np.split(order, np.arange(self.batch_size, self.size, self.batch_size))
            return
        size = 50 * self.batch_size
        blocks = np.split(order, np.arange(size, self.size, size))
        weights = self.lengths if self.even == "positions" else np.ones_like(self.lengths)
        batches = [
            batch
            for block in blocks
            for batch in _even_batches(block, self.lengths[block], weights[block], self.batch_size)
        ]
        yield from (batches[number] for number in rng.permutation(len(batches)))


def _even_batches(examples: np.ndarray, lengths: np.ndarray, weights: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Examples sorted by length, cut where their weights fill another batch; no batch is empty."""
    by_length = np.argsort(lengths, kind="stable")
    filled = np.cumsum(weights[by_length])
    count = -(-len(examples) // batch_size)
    number = np.arange(1, count)
    cuts = np.searchsorted(filled, filled[-1] * number / count, side="right")
    cuts = np.maximum.accumulate(np.maximum(cuts - number, 0)) + number  # each batch has a first example
    return np.split(examples[by_length], np.minimum(cuts, len(examples) - (count - number)))


class EvaluationBatches(TorchDataset[Batch]):
    """Evaluation cases, longest history first; `batches[b] -> Batch` with `key` and all that is excluded as `seen`."""

    def __init__(self, cases: Cases, batch_size: int, max_history_length: int | None) -> None:
        self.cases, self.batch_size, self.max_history_length = cases, batch_size, max_history_length
        self.order = np.argsort(-cases.history.lengths, kind="stable")

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def rows(self, batch: int) -> np.ndarray:
        """The case numbers of one batch."""
        return self.order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __getitem__(self, batch: int) -> Batch:
        if batch >= len(self):
            raise IndexError(batch)
        rows, times = self.rows(batch), self.cases.times
        return Batch(
            torch.from_numpy(self.cases.history.padded(rows, self.max_history_length)),
            torch.from_numpy(self.cases.target.padded(rows)),
            torch.from_numpy(self._excluded(rows)),
            torch.from_numpy(self.cases.key[rows]),
            None if times is None else torch.from_numpy(times.padded(rows, self.max_history_length)),
        )

    def _excluded(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), excluded) int64: what each case has seen, and behind it what is available to none."""
        unavailable = np.tile(self.cases.unavailable.astype(np.int64), (len(rows), 1))
        return np.concatenate([self.cases.seen.padded(rows), unavailable], axis=1)


class InteractionDataModule(pl.LightningDataModule):
    """A named dataset under one protocol.

    dataset: a name of `diffrec data list`; protocol: an id of `diffrec.data.protocol`;
    examples: in place of the kind of training example that the model asks for; of those with one target for a history
    any does for any other.
    """

    def __init__(
        self,
        dataset: str,
        protocol: str = "loo-full-masked@1",
        batch_size: int = 256,
        eval_batch_size: int = 512,
        examples: Examples | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.protocol = get_protocol(protocol)
        check_sizes(batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.dataset_name = dataset
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.examples: Examples | None = examples
        self.examples_of_model: Examples = "next"
        self.similar_lengths = False
        self.max_history_length: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, protocol: str, batch_size: int = 256, seed: int = 0) -> InteractionDataModule:
        """The same for a dataset in memory, whatever its name."""
        module = cls(dataset.name, protocol, batch_size, seed=seed)
        module.__dict__["dataset"] = dataset
        return module

    @cached_property
    def dataset(self) -> Dataset:
        """Loaded at first use."""
        return load_dataset(self.dataset_name)

    @cached_property
    def split(self) -> Split:
        """Training sequences and cases."""
        return self.protocol.apply(self.dataset)

    @property
    def num_items(self) -> int:
        return self.dataset.num_items

    def setup(self, stage: str) -> None:
        """Ask the model for its kind of example, how it wants them batched, and its window."""
        model = cast(Any, self.trainer).lightning_module
        self.examples_of_model, self.similar_lengths = model.examples, model.similar_lengths
        self.max_history_length = model.max_history_length
        allowed = [model.examples, *model.other_examples]
        if any(kind in _ONE_TARGET for kind in allowed):
            allowed += [kind for kind in _ONE_TARGET if kind not in allowed]
        if self.examples is not None and self.examples not in allowed:
            name = type(model).__name__
            raise UsageError(f"{name} cannot learn from examples {self.examples!r}; it can from {', '.join(allowed)}")

    def train_dataloader(self) -> DataLoader[Batch]:
        kind = self.examples or self.examples_of_model
        batches = TrainingBatches(self.split.train, kind, self.max_history_length, self.split.times)
        if not len(batches):
            raise UsageError(f"{self.dataset_name} has no training sequence long enough for an example")
        lengths = batches.history_lengths if kind == "next" or self.similar_lengths else None
        even = "examples" if kind in _ONE_TARGET else "positions"
        sampler = EpochSampler(len(batches), self.batch_size, self.seed, lengths, even)
        sampler.go_on(*self._place)
        return DataLoader(batches, sampler=sampler, batch_size=None, pin_memory=self._on_cuda)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self._cases(self.split.valid), batch_size=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self._cases(self.split.test), batch_size=None)

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.test_dataloader()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=device.type == "cuda")  # out of pinned memory: a step need not wait

    @property
    def _place(self) -> tuple[int, int]:
        """Epochs that are done, and batches of the one after them: where a resumed run goes on."""
        if self.trainer is None:
            return 0, 0
        loop = cast(Any, self.trainer.fit_loop)
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        return epochs.processed, batches.processed if epochs.started > epochs.processed else 0

    @property
    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _cases(self, cases: Cases) -> EvaluationBatches:
        return EvaluationBatches(cases, self.eval_batch_size, self.max_history_length)
