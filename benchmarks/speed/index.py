"""Lists through an approximate index against exact ones: requests per second and recall, in the same run.

python benchmarks/speed/index.py --output index.json

Two catalogues. `entry` is a trained model of the zoo on Amazon Beauty, asked for histories drawn from its items by
rank. `million` is SASRec's network without training over 1,000,000 vectors around 2,000 centres, and only the search is
what it would be: with other vectors recall is another. Each index visits 8, 32 and 128 lists.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import diffrec
from diffrec.inference.index import ItemIndex
from diffrec.models.sasrec import SASRec
from diffrec.recommender import Recommender
from diffrec.typing import Tensor

VISITED = (8, 32, 128)


def million(items: int, centres: int) -> Recommender:
    """A network that was not trained, over vectors in clusters."""
    torch.manual_seed(0)
    model = SASRec(items, embedding_size=64, max_history_length=20).eval()
    centre = torch.randn(centres, 64)
    with torch.no_grad():
        model.items.table.weight[1:] = centre[torch.arange(items) % centres] + 0.5 * torch.randn(items, 64)
    return model


def histories(items: int, requests: int) -> Tensor:
    """(requests, 10) items, low numbers more often."""
    drawn = np.random.default_rng(0).random((requests, 10)) ** 2
    return torch.from_numpy((drawn * items).astype(np.int64) + 1)


def per_second(ask: Callable[[Tensor], object], asked: Tensor, batch_size: int) -> float:
    """Requests a second, after a first batch that is not counted."""
    ask(asked[:batch_size])
    start = time.perf_counter()
    for batch in asked.split(batch_size):
        ask(batch)
    return len(asked) / (time.perf_counter() - start)


def measure(model: Recommender, requests: int, batch_size: int) -> dict[str, object]:
    """Exact lists, then those of an index with each number of lists visited."""
    asked, rows = histories(model.num_items, requests), []
    exact = per_second(model.recommend, asked, batch_size)
    for visited in VISITED:
        start = time.perf_counter()
        index = ItemIndex(model, visited=visited)
        made = time.perf_counter() - start
        found = per_second(index.recommend, asked, batch_size)
        rows.append(
            {"kind": index.kind, "visited": visited, "seconds_to_make": made, "requests_per_second": found,
             "times_faster": found / exact, "recall@10": index.recall(asked[:batch_size])}
        )  # fmt: skip
    return {"items": model.num_items, "exact_requests_per_second": exact, "index": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entry", default="sasrec.s3rec_beauty")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=1_024)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {"entry": diffrec.load(options.entry), "million": million(options.items, 2_000)}
    results = {name: measure(model, options.requests, options.batch_size) for name, model in models.items()}
    for name, result in results.items():
        print(f"{name}: {result['items']:,} items, exact {result['exact_requests_per_second']:,.0f} requests/s")
        for row in result["index"]:  # pyright: ignore[reportGeneralTypeIssues]
            print(
                f"  {row['kind']}, {row['visited']:>3} lists: {row['requests_per_second']:,.0f} requests/s, "
                f"{row['times_faster']:.1f} times, recall@10 {row['recall@10']:.3f}, "
                f"made in {row['seconds_to_make']:.1f} s"
            )
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    record = {**settings, "torch": torch.__version__, "machine": platform.machine(), "results": results}
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
