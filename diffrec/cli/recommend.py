"""`diffrec recommend MODEL`: the best items for a history that need not be of a known user, or for a file of users."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrec.cli.device import chosen_device
from diffrec.cli.sampling import add_sampling_arguments, loaded
from diffrec.errors import UsageError, check_sizes

if TYPE_CHECKING:
    from diffrec.data.vocabulary import Vocabulary
    from diffrec.inference.explain import Explanation
    from diffrec.recommender import Recommender

HELP = "recommend items for a history given by titles or ids, or for a file of users"
_ONLY_HISTORY = ("explain", "json")
_ONLY_FILE = ("output", "skip_unknown", "index", "index_visited")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, the history or the file, and how to sample."""
    parser.add_argument("model", metavar="MODEL", help="a name of 'diffrec zoo list', or the folder of an entry")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--history", metavar="ITEMS",
        help="titles or ids, oldest first, with commas between them; 'id:7' is always an id",
    )  # fmt: skip
    who.add_argument(
        "--input", type=Path, metavar="PARQUET",
        help="many users: columns user_id and items or titles (lists), or item_id or title and timestamp (a row each)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="PARQUET", help="with --input: user_id, rank, item_id, score")
    parser.add_argument("--skip-unknown", action="store_true", help="with --input: leave unknown items out")
    parser.add_argument(
        "--index", nargs="?", const="auto", metavar="KIND",
        help="with --input: search the lists in an approximate index, for catalogues of millions, and tell how much of "
             "the exact lists it finds; KIND as faiss calls it, such as HNSW32 (needs the extra 'index')",
    )  # fmt: skip
    parser.add_argument(
        "--index-visited", type=int, metavar="N",
        help="with --index: how many of its lists are searched, or candidates of a graph kept (default 32)",
    )  # fmt: skip
    parser.add_argument("-k", type=int, default=10, help="how many items, or as many as there are (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default 0)")
    add_sampling_arguments(parser)
    parser.add_argument("--include-seen", action="store_true", help="items of the history may come again")
    parser.add_argument(
        "--explain", nargs="?", const="auto", choices=("auto", "vectors", "leave-one-out"), metavar="HOW",
        help="name the nearest items of the history: by 'vectors' of the model where it has any, else 'leave-one-out'",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("--offline", action="store_true", help="take the model from this machine or not at all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Lists for a file of users, or one list with the history as it was understood."""
    _check_which(args)
    check_sizes(k=args.k)
    start = time.perf_counter()
    model = loaded(args)
    if args.input is not None:
        return _run_file(args, model.to(chosen_device(args.device)), time.perf_counter() - start)
    asked = "cuda" if args.device == "cuda" else "cpu"  # for one list, to start a GPU takes longer
    return _run_history(args, model.to(chosen_device(asked)))


def _check_which(args: argparse.Namespace) -> None:
    """UsageError for options of the other kind of question."""
    if args.input is not None and args.output is None:
        raise UsageError("--input needs --output, the Parquet file that the lists go to")
    for name in _ONLY_HISTORY if args.input is not None else _ONLY_FILE:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} belongs to {'--history' if args.input else '--input'}")
    if args.index_visited is not None and args.index is None:
        raise UsageError("--index-visited belongs to --index, which is not given")
    if args.output is not None:
        from diffrec.data.list_table import check_parquet_name

        check_parquet_name(args.output)


def _run_file(args: argparse.Namespace, model: Recommender, loading: float) -> int:
    from diffrec.inference.batch import Shard, recommend_file

    index, building = None, time.perf_counter()
    if args.index is not None:
        from diffrec.inference.index import ItemIndex

        visited = {} if args.index_visited is None else {"visited": args.index_visited}
        index = ItemIndex(model, None if args.index == "auto" else args.index, **visited)
        building = time.perf_counter() - building
    written = recommend_file(
        model,
        args.input,
        args.output,
        args.k,
        exclude_seen=not args.include_seen,
        seed=args.seed,
        skip_unknown=args.skip_unknown,
        shard=Shard.of_environment(),
        index=index,
    )
    unknown = f", {written.left_out:,} unknown items left out" * (written.left_out > 0)
    short = f", {written.short:,} lists of fewer than {args.k:,} items" * (written.short > 0)
    sys.stdout.write(
        f"{written.users:,} users, {written.rows:,} rows in {written.path}{short}{unknown}\n"
        f"{written.users / written.seconds:,.0f} users/s ({written.seconds:.1f} s; model loaded in {loading:.1f} s)\n"
    )
    if index is not None and written.recall is not None:
        sys.stdout.write(f"{index.kind} (made in {building:.1f} s) found {written.recall:.1%} of the exact lists\n")
    return 0


def _run_history(args: argparse.Namespace, model: Recommender) -> int:
    import torch

    from diffrec.inference.batch import vocabulary_of

    vocabulary = vocabulary_of(model)
    history = vocabulary.parse_history(args.history)
    best = model.recommend(torch.tensor([history]), args.k, exclude_seen=not args.include_seen, seed=args.seed)
    listed = [(int(item), float(score)) for item, score in zip(best.items[0], best.scores[0], strict=True) if item]
    because = _explained(args, model, history, [item for item, _ in listed])
    (_print_json if args.json else _print_table)(args, vocabulary, history, listed, because)
    if len(listed) < args.k:
        hidden = f" but the {model.num_items - len(listed):,} of the history" * (len(listed) < model.num_items)
        sys.stderr.write(f"{len(listed):,} items, not {args.k:,}: all of the model{hidden}\n")
    if vocabulary.missing_titles:
        sys.stderr.write(f"{vocabulary.missing_titles}\n")
    return 0


def _explained(
    args: argparse.Namespace, model: Recommender, history: list[int], items: list[int]
) -> Explanation | None:
    if args.explain is None:
        return None
    import torch

    from diffrec.inference.explain import explain

    method = None if args.explain == "auto" else args.explain
    return explain(model, torch.tensor(history), torch.tensor(items), seed=args.seed, method=method)


def _item(vocabulary: Vocabulary, number: int) -> dict[str, Any]:
    return {
        "id": vocabulary.item_ids[number - 1],
        "title": vocabulary.titles[number - 1] if vocabulary.titles else None,
    }


def _print_json(
    args: argparse.Namespace,
    vocabulary: Vocabulary,
    history: list[int],
    listed: list[tuple[int, float]],
    because: Explanation | None,
) -> None:
    import json

    from diffrec.inference.explain import MEANING

    answer = {
        "model": args.model,
        "seed": args.seed,
        "history": [_item(vocabulary, number) for number in history],
        "recommendations": [
            {"rank": rank, **_item(vocabulary, number), "score": score}
            for rank, (number, score) in enumerate(listed, start=1)
        ],
    }
    if because is not None:
        answer["explained_by"] = {"method": because.method, "value": MEANING[because.method]}
        for row, items, values in zip(
            answer["recommendations"], because.items.tolist(), because.values.tolist(), strict=True
        ):
            near = zip(items, values, strict=True)
            row["because"] = [{**_item(vocabulary, number), "value": value} for number, value in near]
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


def _print_table(
    args: argparse.Namespace,
    vocabulary: Vocabulary,
    history: list[int],
    listed: list[tuple[int, float]],
    because: Explanation | None,
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from diffrec.cli.printable import printable
    from diffrec.inference.explain import MEANING

    console = Console()
    console.print(Text("history: " + printable(" | ".join(vocabulary.label(number) for number in history))))
    console.print(Text(f"{printable(args.model)}: {len(listed)} items", style="italic"))
    table = Table(box=None)
    table.add_column("rank", justify="right")
    if vocabulary.titles:
        table.add_column("title", overflow="fold")
    table.add_column("id", justify="right", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    if because is not None:
        table.add_column("because of", overflow="fold")
    for rank, (number, score) in enumerate(listed, start=1):
        item_id = vocabulary.item_ids[number - 1]
        titles = [Text(printable(vocabulary.label(number)))] if vocabulary.titles else []
        cells = [str(rank), *titles, Text(printable(item_id)), f"{score:.4f}"]
        if because is not None:
            near = zip(because.items[rank - 1].tolist(), because.values[rank - 1].tolist(), strict=True)
            cells.append(Text("\n".join(f"{printable(vocabulary.label(item))} {value:+.3f}" for item, value in near)))
        table.add_row(*cells)
    console.print(table)
    if because is not None:
        console.print(Text(f"because of: {MEANING[because.method]} ({because.method})"))
