"""Training from the first step to the best checkpoint."""

from __future__ import annotations

import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from diffrec.files import write_file
from diffrec.paths import naming
from diffrec.training.build import Run
from diffrec.training.checkpoint_io import load_weights, read_checkpoint
from diffrec.training.learnt_from import refuse_other_data
from diffrec.training.memory import keep_freed_memory
from diffrec.training.resume import checkpoint_to_go_on_from

_TRAINING_STREAM = 1 << 20  # training draws apart from the initial weights, whatever was drawn since the build

_EXPECTED = (
    "`LightningModule.configure_optimizers` returned `None`, this fit will run with no optimizer",  # closed forms
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "You're resuming from a checkpoint that ended before the epoch ended",  # the sampler goes on where it was
)


@dataclass(frozen=True)
class FitResult:
    """What training came to.

    metric, best: the metric that chooses the checkpoint and its best value on validation (None: nothing
    was validated); epoch: the epoch of that value, counted from 1; epochs: how many were run in all,
    those before a resume included; seconds: the time of this call; checkpoint: the best weights, which
    the model now has (None after a `fast_dev_run`, which writes nothing); steps: of the optimiser, in this call.
    """

    metric: str
    best: float | None
    epoch: int
    epochs: int
    seconds: float
    checkpoint: Path | None
    steps: int


def fit(run: Run, resume: Path | None = None) -> FitResult:
    """Train `run.model`, from the checkpoint `resume` if given, and put the best weights back into it.

    Writes config.yaml, checkpoints/best.ckpt, checkpoints/last.ckpt and the logs below `run.run_dir`.
    From last.ckpt, which is written at the end of an epoch (`resume.LastCheckpoint`), and from what a ModelCheckpoint
    writes between two batches, training goes on bit for bit as if it had never stopped; what was done since is done
    again, and best.ckpt is no such place. What is logged of an epoch is the mean over the batches since.
    Raises UsageError where `resume` is of another experiment, DiffrecError at a non-finite loss, gradient
    or weight; Ctrl-C comes through as KeyboardInterrupt.
    """
    steps_before = 0 if resume is None else _steps_before(run, resume)
    if not _trial(run):
        _write_config(run)
    seed_everything(cast(int, run.config["seed_everything"]) ^ _TRAINING_STREAM, workers=True)
    keep_freed_memory()
    started = time.perf_counter()
    _train(run, resume)
    seconds = time.perf_counter() - started
    epochs, steps = run.trainer.current_epoch, run.trainer.global_step - steps_before
    callback = run.trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path:
        return FitResult(monitored(run), _last_value(run), epochs, epochs, seconds, _save_as_best(run), steps)
    path = Path(callback.best_model_path)
    checkpoint = read_checkpoint(path)
    load_weights(run.model, checkpoint, path)
    best = None if callback.best_model_score is None else float(callback.best_model_score)
    return FitResult(monitored(run), best, checkpoint["epoch"] + 1, epochs, seconds, path, steps)


def monitored(run: Run) -> str:
    """The metric that chooses the checkpoint; the headline of the protocol where no callback chooses."""
    return getattr(run.trainer.checkpoint_callback, "monitor", None) or f"valid/{run.data.protocol.headline}"


def _steps_before(run: Run, resume: Path) -> int:
    """Of the optimiser, in a checkpoint that `run` may go on from; errors as `fit`."""
    kept = checkpoint_to_go_on_from(run.config, resume)
    refuse_other_data(kept, run.data, resume, resuming=True)
    return kept["global_step"]


def _train(run: Run, resume: Path | None) -> None:
    try:
        with naming(run.run_dir), warnings.catch_warnings():
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message, module="pytorch_lightning")
            run.trainer.fit(run.model, datamodule=run.data, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from here on, and exits with 1
        raise KeyboardInterrupt from None


def _trial(run: Run) -> bool:
    """Whether this is a `fast_dev_run`."""
    return bool(cast(Any, run.trainer).fast_dev_run)


def _write_config(run: Run) -> None:
    write_file(run.run_dir / "config.yaml", yaml.safe_dump(run.config, sort_keys=False).encode())


def _last_value(run: Run) -> float | None:
    value = run.trainer.callback_metrics.get(monitored(run))
    return None if value is None else float(value)


def _save_as_best(run: Run) -> Path | None:
    """Closed forms take no optimiser step, and Lightning writes no checkpoint without one."""
    if _trial(run):
        return None
    path = run.run_dir / "checkpoints" / "best.ckpt"
    run.trainer.save_checkpoint(path, weights_only=False)
    return path
