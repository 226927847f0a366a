"""DreamRec with 20 steps of DDIM over Beauty's catalogue: users a second, lists of ten included.

python benchmarks/speed/dreamrec_latency.py --output benchmarks/speed/dreamrec_latency.json

The network is not trained, for what it costs does not depend on its weights; width, window, steps and guidance are
those of the recipe. The plain loop is the usual one: the network twice at each of the T steps, noise drawn after
each, all scores, top k. `plain_20_seconds` is the same loop over the 20 steps without noise, whose lists are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.schedules import trailing_grid
from diffrec.models.dreamrec import DreamRec
from diffrec.typing import Tensor

ITEMS, BATCH, STEPS, K = 12_101, 512, 20, 10


def requests(model: DreamRec) -> Tensor:
    """Histories of 5 to 10 random items, right-padded: most in Beauty fill the window or nearly so."""
    assert model.max_history_length is not None
    generator = torch.Generator().manual_seed(0)
    slots = torch.arange(model.max_history_length)
    lengths = torch.randint(5, model.max_history_length + 1, (BATCH, 1), generator=generator)
    items = torch.randint(1, model.num_items + 1, (BATCH, len(slots)), generator=generator)
    return torch.where(slots < lengths, items, 0)


@torch.inference_mode()
def plain_lists(model: DreamRec, history: Tensor, x: Tensor, visited: list[int], eta: float) -> Tensor:
    """Lists of ten by the formulas of DDIM, from x (batch, dim); eta 1 is DDPM, with noise after each step."""
    assert isinstance(model.process, GaussianProcess)
    assert model.conditioner is not None
    assert model.conditioner.null is not None
    alpha_bar = [float(a) for a in model.process.alphas_cumprod]
    condition = model.conditioner(history, model.space.encode)
    null = model.conditioner.null.expand_as(condition)
    for place, step in enumerate(visited):
        t = torch.full((len(x),), step)
        known, unknown = model.denoiser(x, t, condition), model.denoiser(x, t, null)
        x0 = unknown + model.guidance_scale * (known - unknown)
        here, before = alpha_bar[step], alpha_bar[visited[place + 1]] if place + 1 < len(visited) else 1.0
        deviation = eta * np.sqrt((1 - before) / (1 - here) * (1 - here / before))
        noise = (x - np.sqrt(here) * x0) / np.sqrt(1 - here)
        x = np.sqrt(before) * x0 + np.sqrt(max(0.0, 1 - before - deviation**2)) * noise
        if deviation > 0:
            x = x + deviation * torch.randn_like(x)
    scores = model.space.score(x)
    scores[torch.arange(len(history))[:, None].expand_as(history)[history > 0], history[history > 0] - 1] = -torch.inf
    return torch.topk(scores, K).indices + 1


def repeated(measure: Callable[[], object], times: int) -> float:
    """Seconds: the least of several, which is what the machine can do when nothing disturbs it."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        measure()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def compare() -> dict[str, float]:
    """Ours, the plain loop over 20 steps, and the plain loop over all T."""
    torch.manual_seed(0)
    model = DreamRec(ITEMS, num_inference_steps=STEPS).eval()
    assert isinstance(model.process, GaussianProcess)
    model.eta, model.stochastic = 0.0, False
    history, total = requests(model), model.process.num_train_timesteps
    x = model.process.prior(model.space.shape, RequestNoise.from_history(history))
    visited = trailing_grid(total, STEPS)[0].tolist()[::-1]
    ours = model.recommend(history, K).items
    plain = plain_lists(model, history, x, visited, 0.0)
    everything = list(reversed(range(total)))
    few = repeated(lambda: model.recommend(history, K), 60)
    plain_few = repeated(lambda: plain_lists(model, history, x, visited, 0.0), 15)
    plain_all = repeated(lambda: plain_lists(model, history, x, everything, 1.0), 2)
    return {
        "items": ITEMS,
        "batch": BATCH,
        "steps": STEPS,
        "train_timesteps": total,
        "seconds": few,
        "users_per_second": BATCH / few,
        "plain_20_seconds": plain_few,
        "plain_20_users_per_second": BATCH / plain_few,
        "plain_all_seconds": plain_all,
        "plain_all_users_per_second": BATCH / plain_all,
        "times_faster_than_plain_20": plain_few / few,
        "times_faster_than_plain_all": plain_all / few,
        "equal_places_with_plain_20": float((ours == plain).float().mean()),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    result = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "load_before": before,
        "results": compare(),
    }
    print(json.dumps(result, indent=2))
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
