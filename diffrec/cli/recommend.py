"""`diffrec recommend MODEL`: the best items for a history that need not be of a known user."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.data.vocabulary import Vocabulary
    from diffrec.recommender import Recommender

HELP = "recommend items for a history given by titles or ids"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, the history and how to sample."""
    parser.add_argument("model", metavar="MODEL", help="a name of 'diffrec zoo list', or the folder of an entry")
    parser.add_argument(
        "--history", required=True, metavar="ITEMS",
        help="titles or ids, oldest first, with commas between them; 'id:7' is always an id",
    )  # fmt: skip
    parser.add_argument("-k", type=int, default=10, help="how many items (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default 0)")
    parser.add_argument("--num-inference-steps", type=int, metavar="N", help="steps of a diffusion model")
    parser.add_argument("--guidance-scale", type=float, metavar="W", help="pull towards the history; 1 is none")
    parser.add_argument("--include-seen", action="store_true", help="items of the history may come again")
    parser.add_argument("--offline", action="store_true", help="take the model from this machine or not at all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the history as it was understood, then the list."""
    import torch

    from diffrec.data.vocabulary import Vocabulary
    from diffrec.zoo import load

    model = load(args.model, offline=args.offline)
    for setting in ("num_inference_steps", "guidance_scale"):
        _set(model, setting, getattr(args, setting))
    vocabulary = model.vocabulary or Vocabulary(tuple(str(number) for number in range(1, model.num_items + 1)))
    history = vocabulary.parse_history(args.history)
    best = model.recommend(torch.tensor([history]), args.k, exclude_seen=not args.include_seen, seed=args.seed)
    listed = [(int(item), float(score)) for item, score in zip(best.items[0], best.scores[0], strict=True) if item]
    (_print_json if args.json else _print_table)(args, vocabulary, history, listed)
    if vocabulary.missing_titles:
        sys.stderr.write(f"{vocabulary.missing_titles}\n")
    return 0


def _set(model: Recommender, setting: str, value: int | float | None) -> None:
    """Change a setting of the sampler; UsageError for a model that has no such setting."""
    from diffrec.errors import UsageError

    if value is None:
        return
    if setting not in model.init_args:
        raise UsageError(f"{type(model).__name__} has no {setting}; leave --{setting.replace('_', '-')} out")
    setattr(model, setting, value)


def _item(vocabulary: Vocabulary, number: int) -> dict[str, object]:
    return {
        "id": vocabulary.item_ids[number - 1],
        "title": vocabulary.titles[number - 1] if vocabulary.titles else None,
    }


def _print_json(
    args: argparse.Namespace, vocabulary: Vocabulary, history: list[int], listed: list[tuple[int, float]]
) -> None:
    import json

    answer = {
        "model": args.model,
        "seed": args.seed,
        "history": [_item(vocabulary, number) for number in history],
        "recommendations": [
            {"rank": rank, **_item(vocabulary, number), "score": score}
            for rank, (number, score) in enumerate(listed, start=1)
        ],
    }
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


def _print_table(
    args: argparse.Namespace, vocabulary: Vocabulary, history: list[int], listed: list[tuple[int, float]]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from diffrec.cli.printable import printable

    console = Console()
    console.print(Text("history: " + printable(" | ".join(vocabulary.label(number) for number in history))))
    table = Table(title=Text(f"{printable(args.model)}: {len(listed)} items"), title_justify="left", box=None)
    table.add_column("rank", justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("id", justify="right", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for rank, (number, score) in enumerate(listed, start=1):
        item_id = vocabulary.item_ids[number - 1]
        table.add_row(str(rank), Text(printable(vocabulary.label(number))), Text(printable(item_id)), f"{score:.4f}")
    console.print(table)
