"""One run of a suite or of a tuning: build, fit, and what is needed to go on where a killed process stopped."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pytorch_lightning import Callback

from diffrec.bench import unfinished
from diffrec.bench.provenance import PeakMemory
from diffrec.data.sources import load_dataset
from diffrec.training.build import Run, build
from diffrec.training.checkpoint_io import load_weights, read_checkpoint
from diffrec.training.config import compose
from diffrec.training.fit import FitResult, fit, monitored

Progress = Callable[[str], Callback]


@dataclass(frozen=True)
class Fitted:
    """A model in evaluation mode with its best weights; `result.seconds` are those of all parts of the run."""

    run: Run
    result: FitResult
    memory: PeakMemory


@contextmanager
def training(
    configs: Sequence[str], words: Sequence[str], family: Path, seed: int, progress: Progress | None = None
) -> Generator[Fitted, None, None]:
    """Train in a new folder of `family`; the run is finished where the block ends without an error.

    A run of the same configuration, code, packages, device and data that was interrupted after an epoch is taken up
    again; the result is then that of an uninterrupted run. What `decoding` changes has no part in training: a
    configuration with it takes the weights of such a run that is finished, where there is one.
    """
    torch.manual_seed(seed)
    config = compose(configs, words)
    again = config.pop("decoding", None) is not None
    mine, dataset = unfinished.origin(config), _dataset_of(config)
    if again and (there := unfinished.finished(family, mine, lambda: load_dataset(dataset).sha256)) is not None:
        yield _as_it_was(configs, words, *there)
        return
    with unfinished.run_folder(family, mine, lambda: load_dataset(dataset).sha256) as folder:
        run = build(configs, words, folder)
        unfinished.begin(folder, mine, run.data.dataset.sha256)
        watch = unfinished.Stopwatch()
        shown = [] if progress is None else [progress(monitored(run))]
        run.trainer.callbacks += [watch, *shown]  # pyright: ignore
        device = run.trainer.strategy.root_device
        memory = PeakMemory(device)
        fitted = fit(run, unfinished.last_checkpoint(folder))
        run.model.to(device).eval()
        yield Fitted(run, replace(fitted, seconds=watch.earlier + fitted.seconds), memory)
        unfinished.finish(folder, replace(fitted, seconds=watch.earlier + fitted.seconds))


def _as_it_was(configs: Sequence[str], words: Sequence[str], folder: Path, fitted: FitResult) -> Fitted:
    """A finished run, with its weights."""
    run = build(configs, words, folder)
    device = run.trainer.strategy.root_device
    memory = PeakMemory(device)
    assert fitted.checkpoint is not None
    load_weights(run.model, read_checkpoint(fitted.checkpoint), fitted.checkpoint)
    run.model.to(device).eval()
    return Fitted(run, fitted, memory)


def _dataset_of(config: dict[str, object]) -> str:
    data = config["data"]
    assert isinstance(data, dict)
    return data["dataset"]
