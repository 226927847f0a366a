"""`diffrec zoo`: pretrained models with their metrics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from diffrec.zoo.index import Listing

HELP = "list pretrained models with their metrics, show one, download, check them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions list, info, download, verify and index."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all models, best first inside each dataset and protocol")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--sort", default="ndcg@10", metavar="METRIC", help="metric to show and sort by")
    info = actions.add_parser("info", help="the card of a model: data, terms, training, metrics, limits")
    info.add_argument("name", metavar="NAME", help="a name of 'diffrec zoo list', or a folder")
    download = actions.add_parser("download", help="bring a model into the cache, from a mirror or a hub")
    download.add_argument("names", nargs="+", metavar="NAME", help="what it is called there")
    download.add_argument("--revision", metavar="SHA256", help="of its manifest; default: the one that the list has")
    download.add_argument("--cache-dir", type=Path, metavar="DIR", help="default: DIFFREC_CACHE, else ~/.cache/diffrec")
    verify = actions.add_parser("verify", help="check every byte and load the weights")
    verify.add_argument("names", nargs="*", metavar="NAME", help="all models if none is given")
    actions.add_parser("index", help="rebuild zoo/manifest.json from the folders beside it")


def run(args: argparse.Namespace) -> int:
    """Run one action; the exit code."""
    actions = {"list": _list, "info": _info, "download": _download, "verify": _verify, "index": _index}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from diffrec.errors import UsageError, near_match
    from diffrec.zoo.index import read_index

    rows = read_index()
    metrics = sorted({metric for row in rows.values() for metric in row.metrics})
    if metrics and args.sort not in metrics:
        hint = near_match(args.sort, metrics)
        raise UsageError(f"no model has the metric {args.sort!r}; there are: {', '.join(metrics)}{hint}")
    rows = dict(sorted(rows.items(), key=lambda named: _place(*named, args.sort)))
    if args.json:
        _print_json(rows)
    else:
        _print_table(rows, args.sort)
    return 0


def _place(name: str, row: Listing, metric: str) -> tuple[str, str, float, str]:
    """Numbers are only ranked where dataset and protocol are the same."""
    return row.dataset or "", row.protocol or "", -row.metrics.get(metric, float("-inf")), name


def _print_json(rows: dict[str, Listing]) -> None:
    import json

    plain = [{"name": name, "size": row.size, **row.plain()} for name, row in rows.items()]
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def _print_table(rows: dict[str, Listing], metric: str) -> None:
    """One table for each dataset and protocol."""
    from itertools import groupby

    from rich.console import Console
    from rich.text import Text

    from diffrec.cli.printable import printable

    console = Console()
    width = max(map(len, rows), default=0)
    for (dataset, protocol), group in groupby(rows.items(), lambda named: (named[1].dataset, named[1].protocol)):
        heading = f"dataset {dataset}, protocol {protocol}" if protocol else f"dataset {dataset}, not measured"
        console.print(Text(printable(heading if dataset else "dataset not stated")))
        console.print(_table(dict(group), metric, width))
    if not rows:
        console.print("the zoo is empty; 'diffrec zoo index' lists the folders in zoo/")
    console.print("params: learnt numbers; calls: network evaluations per request")


def _table(rows: dict[str, Listing], metric: str, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 1))
    table.add_column("name", overflow="fold", min_width=min(width, 40))
    for title in (metric.upper(), "params", "size", "calls"):
        table.add_column(title, justify="right", no_wrap=True, min_width=6)
    for name, row in rows.items():
        value = f"{row.metrics[metric]:.4f}" if metric in row.metrics else "-"
        cells = (name, value, _short(row.parameters), f"{_short(row.size)}B", str(row.denoiser_calls))
        table.add_row(*map(Text, cells))
    return table


def _short(count: int) -> str:
    """1234567 -> '1.2M'."""
    value, unit = float(count), ""
    for larger in ("k", "M", "G"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if unit and value < 99.5 else f"{value:.0f}{unit}"


def _info(args: argparse.Namespace) -> int:
    from diffrec.cli.printable import printable
    from diffrec.zoo.entry import CARD
    from diffrec.zoo.finding import find_entry

    entry = find_entry(args.name, offline=True)
    lines = entry.read(CARD).decode(errors="replace").splitlines()
    lines += ["", "## Files", "", f"- {entry.folder}", f"- revision: {entry.revision}"]
    lines += [f"- {name}: {file.size:,} bytes, sha256 {file.sha256}" for name, file in entry.files.items()]
    sys.stdout.write("\n".join(printable(line) for line in lines) + "\n")
    return 0


def _download(args: argparse.Namespace) -> int:
    """The models, from whoever is set; asked for anew even where another revision is here."""
    from diffrec.zoo.finding import fetch_entry

    for name in args.names:
        entry = fetch_entry(name, revision=args.revision, cache_dir=args.cache_dir)
        size = sum(file.size for file in entry.files.values())
        sys.stdout.write(f"{name}: {size:,} bytes in {entry.folder}\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Every model is looked at; the exit code is that of the first one that fails."""
    from diffrec.errors import DiffrecError
    from diffrec.zoo.index import read_index
    from diffrec.zoo.loading import load

    code = 0
    for name in args.names or sorted(read_index()):
        try:
            load(name, offline=True)
            sys.stdout.write(f"{name}: ok\n")
        except DiffrecError as error:
            code = code or error.exit_code
            sys.stdout.write(f"{name}: {error}\n")
    return code


def _index(args: argparse.Namespace) -> int:
    from diffrec.zoo.index import rebuild_index

    names = rebuild_index()
    sys.stdout.write(f"zoo/manifest.json lists {len(names)} models: {', '.join(names)}\n")
    return 0
