"""What a long training run shows: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, cast, runtime_checkable

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EXPECTED = (
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*num_workers.*",
    ".*LeafSpec.* is deprecated.*",
)


@runtime_checkable
class Output(Protocol):
    """What is written to: stderr, a file, a buffer."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


def hush_lightning() -> None:
    """Keep Lightning's advertisements and the warnings that are true of every run here off the screen."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message)


@contextmanager
def memory_told_to(stream: Output) -> Iterator[None]:
    """Write to `stream` how much memory is asked for, a line before each large table (`nn.memory`)."""
    log, handler = logging.getLogger("diffrec.nn.memory"), logging.StreamHandler(stream)
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def progress_for(stream: Output, monitor: str) -> Callback:
    """The callback that suits `stream`: a bar with time left on a terminal, else a line an evaluation."""
    return EpochBar(stream, monitor) if stream.isatty() else EpochLines(stream, monitor)


class EpochLines(Callback):
    """Writes epoch, loss, monitored metric, and an upper bound of the time that is left."""

    def __init__(self, stream: Output, monitor: str) -> None:
        self.stream, self.monitor = stream, monitor
        self.started, self.first_epoch = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % (trainer.check_val_every_n_epoch or 1):
            return
        seconds = time.monotonic() - self.started
        left = seconds / (epoch - self.first_epoch) * ((trainer.max_epochs or 0) - epoch)
        ahead = f", at most {left:.0f} s left" if left > 0 else ""
        self.stream.write(f"epoch {epoch}: {values(trainer, self.monitor)}, {seconds:.0f} s{ahead}\n")
        self.stream.flush()


class EpochBar(Callback):
    """One bar over all batches of all epochs, with loss, monitored metric and time left (at most)."""

    def __init__(self, stream: Output, monitor: str) -> None:
        self.monitor = monitor
        columns = (TextColumn("{task.description}"), BarColumn(None), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(file=cast(TextIO, stream)), transient=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = int(trainer.num_training_batches)
        total = batches * trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self.task = self.bar.add_task("epoch 1", total=total, completed=batches * trainer.current_epoch)
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.bar.advance(self.task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        text = f"epoch {trainer.current_epoch + 1}: {values(trainer, self.monitor)}"
        self.bar.update(self.task, description=text)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.bar.stop()


def values(trainer: Trainer, monitor: str) -> str:
    """Loss and monitored metric of the epoch that ends, as far as there are any."""
    names = {"train/loss": "loss", monitor: monitor}
    metrics = trainer.callback_metrics
    return ", ".join(f"{word} {metrics[name]:.4g}" for name, word in names.items() if name in metrics)
