"""Negatives of their own for every position: seconds of loss and slopes, beside looking every vector up, in one run.

OMP_NUM_THREADS=1 python benchmarks/speed/sampled_losses.py --output sampled_losses.json

Sampled softmax over random states and tables, forward and backward, the least of some rounds of each side taken in
turn. Both sides draw the same items; the largest difference of the slopes of the table is compared with its largest
slope.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch

from diffrec.nn import sampled_losses
from diffrec.typing import Tensor

SIZES = {"ml-100k": 1_682, "diffurec_ml1m": 3_416, "s3rec_beauty": 12_101, "s3rec_sports": 18_357}


def seconds_and_slope(
    states: Tensor, table: Tensor, target: Tensor, count: int, looked_up: bool
) -> tuple[float, Tensor]:
    """Of one pass forward and back; `looked_up` never takes logits from those of all items."""
    kept, sampled_losses._ALL_FOR_ONE_DRAWN = sampled_losses._ALL_FOR_ONE_DRAWN, 0 if looked_up else 1 << 40
    torch.manual_seed(0)
    states, table = states.detach().requires_grad_(), table.detach().requires_grad_()
    start = time.perf_counter()
    loss = sampled_losses.sampled_softmax(*sampled_losses.uniform_negatives(states, table, target, count))
    (slope,) = torch.autograd.grad(loss, table)
    sampled_losses._ALL_FOR_ONE_DRAWN = kept
    return time.perf_counter() - start, slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=4096, help="of one batch")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--negatives", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(options.positions, options.dim, generator=generator)
    rows = []
    for name, items in SIZES.items():
        table = torch.randn(items, options.dim, generator=generator)
        target = torch.randint(items, (options.positions,), generator=generator)
        for count in options.negatives:
            sides: dict[bool, list[tuple[float, Tensor]]] = {True: [], False: []}
            for _ in range(options.rounds):
                for looked_up, taken in sides.items():
                    taken.append(seconds_and_slope(states, table, target, count, looked_up))
            plain, ours = (min(seconds for seconds, _ in sides[looked_up]) for looked_up in (True, False))
            slopes = sides[True][0][1], sides[False][0][1]
            error = ((slopes[0] - slopes[1]).abs().max() / slopes[0].abs().max()).item()
            default = items <= sampled_losses._ALL_FOR_ONE_DRAWN * count
            print(f"{name}, {items:,} items, {count} negatives: {ours:.3f} s, {plain / ours:.1f} times as fast")
            row = {"dataset": name, "items": items, "negatives": count, "from_all_by_default": default}
            rows.append(
                {**row, "seconds": ours, "looked_up_seconds": plain, "times_faster": plain / ours, "error": error}
            )
    record = {
        **{name: value for name, value in vars(options).items() if name not in ("output", "negatives")},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "rows": rows,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
