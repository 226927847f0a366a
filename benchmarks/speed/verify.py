"""Time of level 1 of `diffrec verify` on a bundle as large as Amazon Beauty: 22,363 users, 12,101 items, 3 draws.

OMP_NUM_THREADS=1 python benchmarks/speed/verify.py --output verify.json

The data are generated and the scores random, so that no list is like another. Timed is what `diffrec verify` does
with a bundle: read and hash its files, check lists and ranks, recompute every number. Not timed, but measured
beside it: loading the dataset (here: generating it) and `import`, which any command that reads it pays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow
import torch

from diffrec.bench.bundle import LISTS, RANKS, RECORD, lists_to_parquet, read_bundle, write_bundle
from diffrec.bench.provenance import config_sha256, split_counts
from diffrec.bench.ranks import to_parquet
from diffrec.bench.rerun import scored
from diffrec.bench.result import Bounds, Result, Selection, ranks_path, write_result
from diffrec.bench.verify import findings, numbers, places
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.data.synthetic import synthetic
from diffrec.recommender import Recommender
from diffrec.training.config import compose

PROTOCOL = "loo-full-masked@1"


class Noise(Recommender):
    """Another random score at every call."""

    def score(self, history, *, noise=None):
        return torch.rand(len(history), self.num_items)


def made_up(dataset: Dataset, draws: int) -> tuple[Result, dict[str, bytes]]:
    """A record that says it is DiffRec's, with the ranks and lists of random scores."""
    protocol = get_protocol(PROTOCOL)
    split = protocol.apply(dataset)
    config = compose(["model/diffrec"], ["--data.dataset=synthetic", f"--data.protocol={PROTOCOL}", "--data.seed=0"])
    nothing = {f"{name}@{k}": 0.0 for k in protocol.cutoffs for name in ("recall", "ndcg")}
    result = Result(
        suite="speed", suite_version=1, dataset="synthetic", dataset_sha256=dataset.sha256,
        split_counts=split_counts(dataset, split), protocol=protocol.id, headline=protocol.headline, model="noise",
        role="model", control_of=None, seed=0, config=config, config_sha256=config_sha256(config), code_version="0",
        packages={}, selection=Selection("ndcg@10", 0.0, 1, None, None), metrics=nothing, draw_metrics=(nothing,),
        bounds=Bounds(0.0, 0.0), ranks_sha256=None, weights_sha256=None, deviations=(), tuning_trials=0, reported=(),
        validation=nothing, beyond_accuracy={}, parameters=0, denoiser_calls=1, epochs=1, train_seconds=0.0,
        evaluate_seconds=0.0, ms_per_user={}, peak_memory_mib=0.0, device="cpu", processor="", threads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    ranks, lists = scored(result, Noise(dataset.num_items).eval(), split.test, draws)
    found = [places(draw, split.test.target) for draw in lists.draws]
    again = numbers(ranks, lists, found, split, protocol, dataset.num_items)
    parts = {**vars(again), "validation": dict.fromkeys(again.metrics, 0.0)}
    with TemporaryDirectory() as folder:
        path = write_result(Result(**{**vars(result), **parts}), to_parquet(ranks), Path(folder))
        contents = {RECORD: path.read_bytes(), RANKS: ranks_path(path).read_bytes(), LISTS: lists_to_parquet(lists)}
    return result, contents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    start = time.perf_counter()
    dataset = synthetic(options.users, options.items, mean_length=8.9)
    dataset_seconds = time.perf_counter() - start
    seconds = []
    with TemporaryDirectory() as folder:
        _, contents = made_up(dataset, options.draws)
        write_bundle(Path(folder) / "bundle", contents, "run")
        for _ in range(options.repeats):
            start = time.perf_counter()
            bundle = read_bundle(Path(folder) / "bundle")
            read_seconds = time.perf_counter() - start
            found = findings(bundle, dataset)
            seconds.append(time.perf_counter() - start)
            assert not found, found
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "seconds": statistics.median(seconds),
        "slowest_seconds": max(seconds),
        "of_which_reading": read_seconds,
        "dataset_seconds_not_counted": dataset_seconds,
        "bundle_mib": sum(map(len, contents.values())) / 2**20,
        "interactions": dataset.num_interactions,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
        "machine": platform.machine(),
    }
    print(f"level 1 of {options.users:,} users in {options.draws} draws: {record['seconds']:.2f} s (median)")
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
