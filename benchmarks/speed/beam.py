"""Users a second of the models over semantic IDs: beams that write items, beside masked codes read in fewer passes.

DIFFREC_DATA=FOLDER python benchmarks/speed/beam.py --output benchmarks/speed/beam.json

The models of the recipes for Amazon Beauty (12,101 items), as many parameters each but RPG, with random weights: how
long a search takes depends on codes and sizes, not on what was learnt. Codes of the four levels are made of the
training sequences; those of RPG, 32 an item, are drawn, for it scores all items whatever they are. Timed are lists of
ten (`recommend`) for test users spread evenly over all, in one batch; the ways take turns, and the fastest of the
repeats counts: other processes only ever add time. Seconds of the processor cores are counted beside those of the
clock: they tell the ways apart where the machine is busy.

`prefixes` is TIGER whose search asks a dictionary for the codes that may follow the prefix of each beam, as a function
of allowed tokens does in libraries for language models; network, beams and lists are the same, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffrec.data.datamodule import EvaluationBatches, InteractionDataModule
from diffrec.models import tiger
from diffrec.models.maskgr import MaskGR
from diffrec.nn.item_codes import ItemCodes, Trie, beam_search
from diffrec.recommender import Recommender
from diffrec.tokenizers.tokenize import Tokenizer, tokenize
from diffrec.training.build import build
from diffrec.typing import History, Tensor

DATASET, K, RPG_LEVELS = "s3rec_beauty", 10, 32
CODES = Tokenizer(vectors="collaborative", levels=4, resolve="sinkhorn")


def models(folder: Path) -> tuple[dict[str, Recommender], InteractionDataModule]:
    """Those of the recipes in evaluation mode, with codes and random weights; the data of the first."""
    os.environ["DIFFREC_CACHE"] = str(folder / "cache")
    path, _ = tokenize(DATASET, CODES)
    made, data = {}, None
    for name in ("tiger", "tiger-decoder", "maskgr", "rpg"):
        words = [f"--model.codes={path}", "--trainer.precision=32-true", "--trainer.accelerator=cpu"]
        run = build([f"{name}-beauty"], words, folder / name)
        data = data or run.data
        if name == "rpg":
            drawn = np.random.default_rng(0).integers(256, size=(run.data.num_items, RPG_LEVELS))
            run.model.item_codes.fill(torch.from_numpy(drawn))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        else:
            run.model.prepare(run.data.split.train)
        made[name] = run.model.eval()
    assert data is not None
    return made, data


class Prefixes:
    """`beam_search`, with a dictionary from prefixes to the codes that may follow, and a loop over beams."""

    def __init__(self, codes: ItemCodes) -> None:
        self.size, self.following = codes.size, defaultdict(set)
        for row in codes.codes.tolist():
            for level, code in enumerate(row):
                self.following[tuple(row[:level])].add(code)

    def __call__(
        self, trie: Trie, num_beams: int, batch: int, step: Callable[[int, Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        leaves = {tuple(c.tolist()): n for n, c in enumerate(self._tuples(trie))}
        beams, scores = [[()] for _ in range(batch)], torch.zeros(batch, 1)
        codes = parents = torch.zeros(batch, 1, dtype=torch.int64)
        for level in range(len(trie.widths)):
            log_p = step(level, codes, parents)
            allowed = torch.full_like(log_p, -torch.inf)
            for row, prefixes in enumerate(beams):
                for beam, prefix in enumerate(prefixes):
                    allowed[row, beam, list(self.following[prefix])] = 0
            found = (log_p + allowed + scores[..., None]).flatten(1)
            scores, best = found.topk(min(num_beams, found.shape[1]), dim=1)
            parents, codes = best // self.size, best % self.size
            beams = [
                [(*beams[row][p], c) for p, c in zip(parents[row].tolist(), codes[row].tolist(), strict=True)]
                for row in range(batch)
            ]
        return torch.tensor([[leaves.get(beam, 0) for beam in row] for row in beams]), scores

    def _tuples(self, trie: Trie) -> Tensor:
        """(tuples, levels), in the order of the leaves."""
        prefixes = sorted(prefix for prefix in self.following if len(prefix) == len(trie.widths) - 1)
        return torch.tensor([(*prefix, code) for prefix in prefixes for code in sorted(self.following[prefix])])


def ways(made: dict[str, Recommender]) -> dict[str, Callable[[History], Any]]:
    """A function from histories to lists for each line of the table."""

    def lists(model: Recommender, **settings: object) -> Callable[[History], Any]:
        def run(history: History) -> Any:
            for name, value in settings.items():
                setattr(model, name, value)
            return model.recommend(history, K, exclude_seen=False)

        return run

    def with_prefixes(history: History) -> Any:
        tiger.beam_search = prefixes
        try:
            return made["tiger"].recommend(history, K, exclude_seen=False)
        finally:
            tiger.beam_search = beam_search

    prefixes = Prefixes(made["tiger"].item_codes)  # pyright: ignore[reportArgumentType]
    masked = {f"maskgr, {n} steps": lists(made["maskgr"], num_inference_steps=n, exact=False) for n in (4, 2, 1)}
    return {
        "tiger": lists(made["tiger"]),
        "tiger, prefixes": with_prefixes,
        "tiger-decoder": lists(made["tiger-decoder"]),
        **masked,
        "maskgr, every item from 1 step": lists(made["maskgr"], num_inference_steps=1, exact=True),
        "rpg, every item": lists(made["rpg"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Users a second of the models over semantic IDs.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--users", type=int, default=64, help="of one batch")
    parser.add_argument("--repeats", type=int, default=4, help="of each way; the fastest counts")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        made, data = models(Path(folder))
    assert isinstance(made["maskgr"], MaskGR)
    cases = data.split.test
    spread = cases.take(np.linspace(0, len(cases) - 1, options.users).astype(np.int64))
    history = EvaluationBatches(spread, options.users, None)[0].history
    asked, seconds, worked = ways(made), defaultdict(list), defaultdict(list)
    for _ in range(options.repeats + 1):
        for name, call in asked.items():
            start, cores = time.perf_counter(), time.process_time()
            call(history)
            seconds[name].append(time.perf_counter() - start)
            worked[name].append(time.process_time() - cores)
    same = torch.equal(asked["tiger"](history).items, asked["tiger, prefixes"](history).items)
    speeds = {name: options.users / min(times[1:]) for name, times in seconds.items()}
    effort = {name: 1000 * min(times[1:]) / options.users for name, times in worked.items()}
    for name, speed in speeds.items():
        print(f"{name:32s} {speed:8.1f} users/s {effort[name]:8.1f} core ms a user")
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "items": data.num_items,
        "beams": made["tiger"].num_beams,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in made.items()},
        "users_per_second": speeds,
        "core_milliseconds_per_user": effort,
        "prefixes_take_times_the_work_of_the_trie": effort["tiger, prefixes"] / effort["tiger"],
        "prefixes_give_the_same_lists": same,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
