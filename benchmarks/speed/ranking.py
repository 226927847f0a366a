"""Full ranking from scores in hand: seconds, memory, and the ratio to a plain loop over users in the same run.

python benchmarks/speed/ranking.py --output ranking.json

The catalogue and the users are those of Amazon Beauty (22,363 x 12,101), the scores are random and made a
batch at a time; making them is not counted. `continuous` has no ties, `tied` has 50 values for all items,
as counts would. Memory is the highest growth of the resident set from before the first batch, one batch of
scores included (Linux).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from diffrec.lists import top_k
from diffrec.metrics.ranking import RankingMetrics
from diffrec.typing import Tensor

CUTOFFS = (5, 10, 20, 50)
MakeScores = Callable[[int, int, torch.Generator], Tensor]
SCORES: dict[str, MakeScores] = {
    "continuous": lambda rows, items, generator: torch.randn(rows, items, generator=generator),
    "tied": lambda rows, items, generator: torch.randint(0, 50, (rows, items), generator=generator).float(),
}


def batches(make: MakeScores, users: int, items: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(scores, one target, 1 to 16 seen items) of one batch after the other, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, users, size):
        rows = min(size, users - start)
        scores = make(rows, items, generator)
        numbers = torch.randint(1, items + 1, (rows, 17), generator=generator)
        lengths = torch.randint(1, 17, (rows, 1), generator=generator)
        seen = numbers[:, 1:] * (torch.arange(16) < lengths)
        target = numbers[:, :1]
        yield scores, target, seen * (seen != target)


def resident_mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def ours(make: MakeScores, users: int, items: int, size: int) -> dict[str, float]:
    """Seconds of all metrics and of the lists of ten, NDCG@10."""
    metrics = RankingMetrics(items, CUTOFFS)
    seconds = {"metrics": 0.0, "lists": 0.0}
    for scores, target, seen in batches(make, users, items, size):
        start = time.perf_counter()
        metrics.update(scores, target, seen)
        middle = time.perf_counter()
        top_k(scores, seen, 10)
        seconds["metrics"] += middle - start
        seconds["lists"] += time.perf_counter() - middle
    return {
        "metrics_seconds": seconds["metrics"],
        "lists_seconds": seconds["lists"],
        "seconds": sum(seconds.values()),
        "ndcg@10": float(metrics.compute()["ndcg@10"]),
    }


def plain_loop(make: MakeScores, users: int, items: int, size: int) -> tuple[float, float]:
    """Seconds and NDCG@10 of argsort user by user, for the first batches up to `users`."""
    gain = seconds = 0.0
    for batch in batches(make, users, items, size):
        scores, target, seen = (x.numpy() for x in batch)
        start = time.perf_counter()
        for row in range(len(scores)):
            hidden = scores[row].copy()
            hidden[seen[row][seen[row] > 0] - 1] = -np.inf
            order = np.argsort(-hidden)
            rank = int(np.flatnonzero(order == target[row, 0] - 1)[0]) + 1
            gain += 1 / np.log2(rank + 1) if rank <= 10 else 0.0
            order[:10] + 1
        seconds += time.perf_counter() - start
    return seconds, float(gain / users)


def measure(make: MakeScores, users: int, items: int, size: int, loop_users: int) -> dict[str, float]:
    """Both, after a first batch that is not counted; the loop on fewer users, extrapolated."""
    ours(make, size, items, size)
    result = ours(make, users, items, size)
    loop_seconds, loop_ndcg = plain_loop(make, loop_users, items, size)
    same_users = ours(make, loop_users, items, size)["ndcg@10"]
    return {
        **result,
        "loop_users": loop_users,
        "loop_seconds_extrapolated": loop_seconds * users / loop_users,
        "times_faster": loop_seconds * users / loop_users / result["seconds"],
        "ndcg_difference": abs(loop_ndcg - same_users),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--loop-users", type=int, default=2_048, help="users of the plain loop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = (options.users, options.items, options.batch_size, options.loop_users)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident_mib("VmRSS")
    results = {name: measure(make, *sizes) for name, make in SCORES.items()}
    extra_mib = resident_mib("VmHWM") - before
    for name, values in results.items():
        print(
            f"{name:>10}: {options.users:,} users x {options.items:,} items, metrics {values['metrics_seconds']:.2f} s "
            f"+ lists of ten {values['lists_seconds']:.2f} s = {values['seconds']:.2f} s, "
            f"{values['times_faster']:.0f} times a plain loop "
            f"({values['loop_seconds_extrapolated']:.1f} s, from {options.loop_users:,} users)"
        )
    print(f"highest memory: {extra_mib:.0f} MiB more than before, a batch of scores included")
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    record = {
        **settings,
        "extra_mib": extra_mib,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "results": results,
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
