"""Peak memory of DiffRec on 200,000 users x 200,000 items with 20 million interactions, hidden width 200.

python benchmarks/speed/memory.py --output benchmarks/speed/memory.json

The data are generated: long-tailed items, log-normal lengths. Dataset, split, training and evaluation are those of any
run, in this one process; its peak is the kernel's own count (VmHWM, Linux), imports included, and is given for each
part by a reset in between. A training step and a batch of evaluation take the same memory whenever they come, so
the peak needs no whole epoch: `--training-steps` and `--evaluation-batches` say how many are run, and evaluation
takes the longest histories first. Users a second follow from the same steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pytorch_lightning import Trainer

from diffrec.bench.evaluate import evaluate
from diffrec.data.datamodule import EvaluationBatches, InteractionDataModule
from diffrec.data.dataset import Dataset, DatasetInfo, Interactions
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.models.diffrec import DiffRec
from diffrec.training.memory import keep_freed_memory

PROTOCOL, HIDDEN, K = "temporal-811@1", 200, 20


def long_tailed(users: int, items: int, interactions: int, seed: int = 0) -> Dataset:
    """Log-normal lengths; item j is drawn with weight (j + 50)^-0.8, and only the first visit of a user counts.

    A tenth more is drawn than asked for, because repeats are lost; what is left is counted in the record.
    """
    rng = np.random.default_rng(seed)
    weight = rng.lognormal(sigma=1.0, size=users)
    lengths = np.maximum(10, (1.1 * interactions * weight / weight.sum()).astype(np.int64))
    popularity = np.cumsum((np.arange(items) + 50.0) ** -0.8)
    parts, kept = [], []
    for first in range(0, users, 4096):
        some = lengths[first : first + 4096]
        row = np.repeat(np.arange(len(some)), some)
        item = np.searchsorted(popularity, rng.random(len(row)) * popularity[-1])
        visits = np.sort(np.unique(row * items + item, return_index=True)[1])
        parts.append((item[visits] + 1).astype(np.int32))
        kept.append(np.bincount(row[visits], minlength=len(some)))
    rows = Ragged.from_lengths(np.concatenate(parts), np.concatenate(kept))
    vocabulary = Vocabulary(tuple(map(str, range(1, items + 1))))
    whole = Interactions(rows, np.arange(users).astype(str))
    return Dataset("long-tailed", vocabulary, {"all": whole}, DatasetInfo("Long-tailed draws", "", "generated"))


def mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


class Peaks:
    """The peak of each part, which ends where the next begins."""

    def __init__(self) -> None:
        self.mib: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def part(self, name: str) -> None:
        """Everything since the last call was `name`."""
        self.mib[name], self.seconds[name] = mib("VmHWM"), time.perf_counter() - self._start
        print(f"{name}: {self.mib[name]:,.0f} MiB, {self.seconds[name]:.1f} s", flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self._start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--batch-size", type=int, default=400)
    parser.add_argument("--eval-batch-size", type=int, default=512)
    parser.add_argument("--training-steps", type=int, default=3)
    parser.add_argument("--evaluation-batches", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load, peaks = os.getloadavg()[0], Peaks()
    peaks.part("imports")

    dataset = long_tailed(options.users, options.items, options.interactions)
    data = InteractionDataModule.of(dataset, PROTOCOL, options.batch_size)
    data.eval_batch_size = options.eval_batch_size
    cases = data.split.test
    peaks.part("data")

    torch.manual_seed(0)
    model = DiffRec(dataset.num_items, dims=[HIDDEN])
    keep_freed_memory()  # as `fit` does
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, limit_train_batches=options.training_steps, limit_val_batches=0,
            enable_checkpointing=False, logger=False, default_root_dir=folder, deterministic=True,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, data)
        peaks.part("training")
        path = Path(folder) / "last.ckpt"
        trainer.save_checkpoint(path)
        checkpoint_mib = path.stat().st_size / 2**20
    peaks.part("checkpoint")

    longest = EvaluationBatches(cases, options.eval_batch_size, None).order
    asked = longest[: options.evaluation_batches * options.eval_batch_size]
    result = evaluate(model.eval(), cases.take(asked), (K,), batch_size=options.eval_batch_size)
    peaks.part("evaluation")

    peak = max(peaks.mib.values())
    print(f"peak: {peak:,.0f} MiB")
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "interactions": dataset.num_interactions,
        "interactions_of_most_met_item": int(np.bincount(dataset.parts["all"].items.values).max()),
        "hidden": HIDDEN,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_mib": peak,
        "peak_mib_of_part": peaks.mib,
        "seconds_of_part": peaks.seconds,
        "checkpoint_mib": checkpoint_mib,
        "training_users_per_second": options.training_steps * options.batch_size / peaks.seconds["training"],
        "evaluation_users_per_second": result.num_users / result.seconds,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
