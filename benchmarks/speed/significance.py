"""Tests of a whole table: seconds, memory, and the ratio to a plain loop over rows and resamples in the same run.

OMP_NUM_THREADS=1 python benchmarks/speed/significance.py --output significance.json

One row against ten on the users of Amazon Beauty, all with made-up NDCG@10: most users are 0 in every row, and
a row finds much of what the others find. Both sides do the same work from the same draws, bootstrap
intervals and Wilcoxon tests of all ten, and the ends of their intervals are compared. Memory is the highest
growth of the resident set during our side (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import scipy
from scipy.stats import wilcoxon

from diffrec.bench.significance import compare


def made_up(rows: int, users: int) -> dict[str, np.ndarray]:
    """NDCG@10 of one true item each; most of what a row finds, every row finds at the same place."""
    rng = np.random.default_rng(0)
    gain = 1 / np.log2(np.arange(2, 12))
    easy, place = rng.random(users) < 0.05, rng.integers(0, 10, users)
    own = [(rng.random(users) < 0.02, rng.integers(0, 10, users)) for _ in range(rows)]
    return {
        f"row {number}": np.where(easy, gain[place], np.where(hit, gain[at], 0)) for number, (hit, at) in enumerate(own)
    }


def resident_mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def ours(values: dict[str, np.ndarray], resamples: int) -> tuple[float, float, np.ndarray]:
    """Seconds, MiB and the (rows, 2) ends of the intervals."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, start = resident_mib("VmRSS"), time.perf_counter()
    comparisons = compare(values, next(iter(values)), resamples=resamples)
    seconds = time.perf_counter() - start
    return seconds, resident_mib("VmHWM") - before, np.array([(c.low, c.high) for c in comparisons])


def plain_loop(values: dict[str, np.ndarray], resamples: int) -> tuple[float, np.ndarray]:
    """Seconds and the ends of the intervals of a loop over rows, and in it over resamples."""
    start = time.perf_counter()
    reference, *others = values.values()
    ends = []
    for other in others:
        differences = reference - other
        rng, users = np.random.default_rng(0), len(differences)
        means = [differences[rng.integers(0, users, users)].mean() for _ in range(resamples)]
        ends.append(np.quantile(means, [0.025, 0.975]))
        wilcoxon(differences, correction=True, method="asymptotic")
    return time.perf_counter() - start, np.array(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=22_363)
    parser.add_argument("--rows", type=int, default=10, help="rows that the reference is compared with")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    values = made_up(options.rows + 1, options.users)
    compare(values, "row 0", resamples=10)  # loads scipy.stats, which is not counted
    seconds, extra_mib, ends = ours(values, options.resamples)
    loop_seconds, loop_ends = plain_loop(values, options.resamples)
    print(
        f"{options.users:,} users, one row against {options.rows}, {options.resamples:,} resamples: {seconds:.2f} s, "
        f"{loop_seconds / seconds:.1f} times a plain loop ({loop_seconds:.1f} s), {extra_mib:.0f} MiB more than before"
    )
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "seconds": seconds,
        "loop_seconds": loop_seconds,
        "times_faster": loop_seconds / seconds,
        "extra_mib": extra_mib,
        "largest_difference_of_ends": float(np.abs(ends - loop_ends).max()),
        "users_at_0_in_all_rows": float(np.mean(np.stack([*values.values()]).max(0) == 0)),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
