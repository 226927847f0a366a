"""DiffRec's users a second by steps and catalogue size; what one more step costs does not grow with the catalogue.

python benchmarks/speed/catalogue.py --output benchmarks/speed/catalogue.json

Hidden width 200, random weights, histories of 100 items, one batch. Timed are whole lists of ten (`recommend`: vectors
scattered, reverse loop, seen items hidden, top k) and scores alone (`score`). The catalogue is met once at the
start of the reverse loop and once at its end; between them stands a loop in the hidden width. The three numbers of
steps take turns, and the fastest of the repeats counts: other processes only ever add time. An extra step is timed
on coordinates, by `sample` without its last product, and also follows from the scores of 40 steps less those of 1.
`plain` is the same network at every step on whole vectors (the loop that the hidden width replaces).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from diffrec.diffusion.sampler import sample
from diffrec.models.diffrec import DiffRec
from diffrec.typing import Tensor

HIDDEN, STEPS, LENGTH, K = 200, (1, 5, 40), 100, 10


def fastest(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each call, the fastest of `repeats` turns, after a first turn that is not counted."""
    seconds = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, found in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return [min(found[1:]) for found in seconds]


class WithoutCatalogue:
    """A network on coordinates that neither starts from vectors nor ends in them: what is left is the steps."""

    def __init__(self, compact: object) -> None:
        self._compact = compact

    def compact(self, x: Tensor, noisy: bool) -> WithoutCatalogue:
        return self

    def __getattr__(self, name: str) -> object:
        return getattr(self._compact, name)

    def __call__(self, coordinates: Tensor, t: Tensor) -> Tensor:
        return self._compact(coordinates, t)  # pyright: ignore[reportCallIssue]

    def expand(self, coordinates: Tensor) -> Tensor:
        return coordinates


def measure(items: int, users: int, repeats: int) -> dict[str, object]:
    """All numbers of one size of catalogue."""
    torch.manual_seed(0)
    model = DiffRec(items, dims=[HIDDEN], num_train_timesteps=max(STEPS)).eval()
    history = torch.randint(1, items + 1, (users, LENGTH))

    def at(steps: int, call: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            model.num_inference_steps = steps
            with torch.inference_mode():
                return call()

        return run

    lists = fastest([at(steps, lambda: model.recommend(history, K)) for steps in STEPS], repeats)
    scores = fastest([at(steps, lambda: model.score(history)) for steps in STEPS], repeats)
    x = model.space.encode(history)
    steps_only = WithoutCatalogue(model.denoiser.compact(x, noisy=False))
    loop = [lambda steps=steps: sample(steps_only, model.process, x, num_inference_steps=steps) for steps in STEPS]
    in_loop = fastest(loop, 5 * repeats)
    plain = fastest([at(1, lambda: model.denoiser(x, torch.zeros(1, dtype=torch.int64)))], 2)[0]
    return {
        "items": items,
        "lists_users_per_second": {str(s): users / t for s, t in zip(STEPS, lists, strict=True)},
        "scores_users_per_second": {str(s): users / t for s, t in zip(STEPS, scores, strict=True)},
        "seconds_per_extra_step": (in_loop[-1] - in_loop[0]) / (STEPS[-1] - STEPS[0]),
        "seconds_per_extra_step_from_scores": (scores[-1] - scores[0]) / (STEPS[-1] - STEPS[0]),
        "seconds_per_step_on_whole_vectors": plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[3_000, 30_000, 200_000])
    parser.add_argument("--users", type=int, default=128, help="of one batch")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    results = [measure(items, options.users, options.repeats) for items in options.items]
    print(f"{'items':>8} | users/s, lists of {K}: {STEPS} steps | ms an extra step | ms a step on whole vectors")
    for row in results:
        speeds = " ".join(f"{value:8,.0f}" for value in row["lists_users_per_second"].values())
        each = 1000 * row["seconds_per_extra_step"], 1000 * row["seconds_per_step_on_whole_vectors"]
        print(f"{row['items']:>8,} | {speeds} | {each[0]:.3f} | {each[1]:.1f}")
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "hidden": HIDDEN,
        "history_length": LENGTH,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "torch": torch.__version__,
        "machine": platform.machine(),
        "results": results,
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
