"""`diffrec recommend` for a file of users, and its cold start: users a second, seconds from the shell to the list.

python benchmarks/speed/recommend.py --output benchmarks/speed/recommend.json

The file has 20,000 histories of MovieLens 1M (users drawn with repeats), the model is DiffRec at the sizes and the 40
steps of the recipe diffrec-ml1m-clean with initial weights, which cost what trained ones cost; reading the Parquet
file, ranking and writing are counted, loading the model is not. The cold start is a whole process for one history
with an entry of the zoo. `load` is the load average before and after: other work on the machine makes both slower, and
`users_per_cpu_second` is what the process itself used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from diffrec.data.dataset import Dataset
from diffrec.data.sources import load_dataset
from diffrec.inference.batch import recommend_file
from diffrec.models.diffrec import DiffRec
from diffrec.training.config import compose

RECIPE, DATASET, ENTRY = "diffrec-ml1m-clean", "diffrec_ml1m_clean", "sasrec.ml-100k"


def users_of(dataset: Dataset, count: int, path: Path) -> float:
    """Write the histories of `count` users and return their mean length."""
    rows = np.random.default_rng(0).integers(0, dataset.num_users, count)
    history = dataset.parts["train"].items.take(rows)
    ids = np.asarray(dataset.vocabulary.item_ids, dtype=object)[history.values - 1]
    lists = pa.ListArray.from_arrays(pa.array(history.offsets.astype(np.int32)), pa.array(ids))
    pq.write_table(pa.table({"user_id": [f"u{number}" for number in range(count)], "items": lists}), path)
    return float(history.lengths.mean())


def many(users: int, repeats: int, folder: Path) -> dict[str, float]:
    """The fastest of several passes over the file."""
    dataset = load_dataset(DATASET)
    config = compose([RECIPE])["model"]
    assert isinstance(config, dict)
    model = DiffRec(dataset.num_items, **config["init_args"]).eval()
    model.vocabulary = dataset.vocabulary
    mean_length = users_of(dataset, users, folder / "users.parquet")
    seconds, cpu = [], []
    for _ in range(repeats):
        before = time.process_time()
        seconds.append(recommend_file(model, folder / "users.parquet", folder / "lists.parquet").seconds)
        cpu.append(time.process_time() - before)
    return {
        "users": users,
        "items": dataset.num_items,
        "mean_history": mean_length,
        "denoiser_calls": model.denoiser_calls,
        "seconds": min(seconds),
        "users_per_second": users / min(seconds),
        "users_per_cpu_second": users / min(cpu),
    }


def cold_start(repeats: int) -> dict[str, float]:
    """Seconds of one `diffrec recommend`, the least of several, and the processor time it used."""
    words = [sys.executable, "-m", "diffrec.cli.main", "recommend", ENTRY, "--history", "50,172", "--offline"]
    seconds, cpu = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), os.times()
        subprocess.run(words, check=True, capture_output=True)
        after = os.times()
        seconds.append(time.perf_counter() - start)
        cpu.append(sum(after[2:4]) - sum(before[2:4]))
    return {"cold_start_seconds": min(seconds), "cold_start_cpu_seconds": min(cpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        values = {**cold_start(options.repeats), **many(options.users, options.repeats, Path(folder))}
    print(
        f"{values['users']:,} users at {values['denoiser_calls']} steps: {values['users_per_second']:,.0f} users/s "
        f"({values['users_per_cpu_second']:,.0f} a second of processor time); "
        f"cold start {values['cold_start_seconds']:.1f} s ({values['cold_start_cpu_seconds']:.1f} s of processor time)"
    )
    record = {
        "threads": options.threads, "torch": torch.__version__, "machine": platform.machine(),
        "load": [before, os.getloadavg()[0]], "results": values,
    }  # fmt: skip
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
