"""`diffrec zoo`: pretrained models with their metrics."""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli import zoo_build, zoo_publish, zoo_refresh, zoo_save, zoo_verify

if TYPE_CHECKING:
    from rich.table import Table

    from diffrec.zoo.index import Listing

HELP = "list pretrained models with their metrics; show, download, check, build and publish them; keep your own"


_COSTS = {
    "params": "learnt numbers",
    "size": "bytes",
    "calls": "network evaluations per request",
    "ms": "milliseconds per user",
}
_CONDITION = re.compile(r"([a-z_]\w*(?:@\d+)?)\s*(>=|<=|>|<|=)\s*([-+.0-9eE]+)")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq}
DEFAULT_METRIC = "ndcg@10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions, each with its own."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_list(actions.add_parser("list", help="all models, best first inside each dataset and protocol"))
    info = actions.add_parser("info", help="the card of a model: data, terms, training, metrics, limits")
    info.add_argument("name", metavar="NAME", help="a name of 'diffrec zoo list', or a folder")
    download = actions.add_parser("download", help="bring a model into the cache, from a mirror or a hub")
    download.add_argument("names", nargs="+", metavar="NAME", help="what it is called there")
    download.add_argument("--revision", metavar="SHA256", help="of its manifest; default: the one that the list has")
    download.add_argument("--cache-dir", type=Path, metavar="DIR", help="default: DIFFREC_CACHE, else ~/.cache/diffrec")
    zoo_verify.add_arguments(actions.add_parser("verify", help=zoo_verify.HELP, description=zoo_verify.HELP))
    zoo_save.add_arguments(actions.add_parser("save", help=zoo_save.HELP, description=zoo_save.HELP))
    zoo_build.add_arguments(actions.add_parser("build", help=zoo_build.HELP, description=zoo_build.HELP))
    zoo_publish.add_arguments(actions.add_parser("publish", help=zoo_publish.HELP, description=zoo_publish.HELP))
    zoo_refresh.add_arguments(actions.add_parser("refresh", help=zoo_refresh.HELP, description=zoo_refresh.HELP))
    index = actions.add_parser("index", help="rebuild zoo/manifest.json from the folders beside it, and README's table")
    index.add_argument("--forget", nargs="+", default=[], metavar="NAME", help="do not list these any more")
    index.add_argument("--elsewhere", type=Path, metavar="DIR",
                       help="also list the entries in this folder, by size and sha256: their files do not come "
                            "along, for a checkout is to stay small, but from a mirror or a hub")  # fmt: skip


def _add_list(listing: argparse.ArgumentParser) -> None:
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--sort", default=DEFAULT_METRIC, metavar="KEY",
                         help=f"a metric, best first, or one of {', '.join(_COSTS)}, least first")  # fmt: skip
    listing.add_argument("--where", action="append", default=[], metavar="CONDITION",
                         help="only models with, say, 'recall@20>=0.2' or 'params<1e6'; may be repeated")  # fmt: skip
    listing.add_argument("--dataset", metavar="NAME", help="only models of this dataset")
    listing.add_argument("--protocol", metavar="ID", help="only models measured under this protocol")


def run(args: argparse.Namespace) -> int:
    """Run one action; the exit code."""
    actions = {"list": _list, "info": _info, "download": _download, "index": _index,
               "verify": zoo_verify.run, "build": zoo_build.run, "refresh": zoo_refresh.run,
               "publish": zoo_publish.run, "save": zoo_save.run}  # fmt: skip
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from diffrec.zoo.index import read_index

    rows = read_index()
    _check_key(args.sort, rows)
    _check_place(args, rows)
    conditions = [_condition(text, rows) for text in args.where]
    rows = {name: row for name, row in rows.items() if _wanted(row, args) and all(ok(row) for ok in conditions)}
    rows = dict(sorted(rows.items(), key=lambda named: _place(*named, args.sort)))
    if args.json:
        _print_json(rows)
    else:
        _print_table(rows, DEFAULT_METRIC if args.sort in _COSTS else args.sort)
    return 0


def _check_key(key: str, rows: Mapping[str, Listing]) -> None:
    """NotFoundError for what no model has."""
    from diffrec.errors import choose

    if metrics := {metric for row in rows.values() for metric in row.metrics}:
        choose("metric or cost", key, [*metrics, *_COSTS])


def _check_place(args: argparse.Namespace, rows: Mapping[str, Listing]) -> None:
    """NotFoundError for a dataset or protocol that no model has."""
    from diffrec.errors import choose

    for what, seen, known in (("dataset", args.dataset, {row.dataset for row in rows.values()}),
                              ("protocol", args.protocol, {row.protocol for row in rows.values()})):  # fmt: skip
        if rows and seen is not None:
            choose(f"model in the zoo of the {what}", seen, [word for word in known if word])


def _condition(text: str, rows: Mapping[str, Listing]) -> Callable[[Listing], bool]:
    """What `recall@20>=0.2` asks of a row; a row without the number does not have it."""
    from diffrec.errors import UsageError

    found = _CONDITION.fullmatch(text.strip())
    try:
        key, compare, bound = found[1], _COMPARE[found[2]], float(found[3])  # pyright: ignore[reportOptionalSubscript]
    except (TypeError, ValueError):
        allowed = " ".join(_COMPARE)
        raise UsageError(f"--where {text!r} is no condition such as 'ndcg@10>=0.1'; allowed: {allowed}") from None
    _check_key(key, rows)

    def holds(row: Listing) -> bool:
        value = _value(row, key)
        return value is not None and compare(value, bound)

    return holds


def _wanted(row: Listing, args: argparse.Namespace) -> bool:
    return args.dataset in (None, row.dataset) and args.protocol in (None, row.protocol)


def _value(row: Listing, key: str) -> float | None:
    """A metric or a cost of a row."""
    costs = {"params": row.parameters, "size": row.size, "calls": row.denoiser_calls, "ms": row.ms_per_user.get("1")}
    value = costs[key] if key in _COSTS else row.metrics.get(key)
    return None if value is None else float(value)


def _place(name: str, row: Listing, key: str) -> tuple[str, str, float, str]:
    """Numbers are only ranked where dataset and protocol are the same; what has none comes last."""
    value = _value(row, key)
    order = float("inf") if value is None else value if key in _COSTS else -value
    return row.dataset or "", row.protocol or "", order, name


def _print_json(rows: dict[str, Listing]) -> None:
    import json

    from diffrec.zoo.index import on_this_machine

    here = on_this_machine(rows)
    plain = [{"name": name, "size": row.size, "here": here[name], **row.plain()} for name, row in rows.items()]
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def _print_table(rows: dict[str, Listing], metric: str) -> None:
    """One table for each dataset and protocol."""
    from itertools import groupby

    from rich.text import Text

    from diffrec.cli.printable import printable, table_console
    from diffrec.zoo.index import on_this_machine

    console = table_console()
    width = max(map(len, rows), default=0)
    here = on_this_machine(rows)
    for (dataset, protocol), group in groupby(rows.items(), lambda named: (named[1].dataset, named[1].protocol)):
        heading = f"dataset {dataset}, protocol {protocol}" if protocol else f"dataset {dataset}, not measured"
        console.print(Text(printable(heading if dataset else "dataset not stated")))
        shown = dict(group)
        if terms := next((row.terms for row in shown.values() if row.terms), None):
            console.print(Text(f"terms of the data: {printable(terms)}"), overflow="ellipsis", no_wrap=True)
        console.print(_table(shown, metric, width, here))
    if not rows:
        console.print("no model fits, or the zoo is empty; 'diffrec zoo index' lists the folders in zoo/")
    licences = sorted({row.licence for row in rows.values() if row.licence})
    if licences:
        console.print(Text(f"licence of the models: {printable(', '.join(licences))}; the data has terms of its own"))
    if any(metric in row.sd for row in rows.values()):
        console.print("±: standard deviation over the seeds of its row; the value is that of this model")
    console.print("params: learnt numbers; calls: network evaluations per request")
    console.print("ms: for the list of one user, on a CPU, or on an accelerator where marked *")
    console.print("here: on this machine, else 'diffrec zoo download' where a mirror is set")


def _table(rows: dict[str, Listing], metric: str, width: int, here: Mapping[str, bool]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from diffrec.zoo.table import measured, milliseconds, short

    table = Table(box=None, padding=(0, 0, 0, 1))
    table.add_column("name", overflow="fold", min_width=min(width, 30))
    spread = any(metric in row.sd for row in rows.values())  # values then stand below one another on the left
    table.add_column(metric.upper(), justify="left" if spread else "right", no_wrap=True, min_width=6)
    for title, least in (("params", 6), ("size", 6), ("calls", 5), ("ms", 5), ("here", 4)):
        table.add_column(title, justify="right", no_wrap=True, min_width=least)
    for name, row in rows.items():
        calls, size = str(row.denoiser_calls), f"{short(row.size)}B"
        cells = (
            name,
            measured(row, metric) or "-",
            short(row.parameters),
            size,
            calls,
            milliseconds(row) or "-",
            "yes" if here[name] else "no",
        )
        table.add_row(*map(Text, cells))
    return table


def _info(args: argparse.Namespace) -> int:
    from diffrec.cli.printable import printable
    from diffrec.zoo.entry import CARD, is_name
    from diffrec.zoo.finding import find_entry
    from diffrec.zoo.index import on_this_machine, read_index
    from diffrec.zoo.table import table

    row = read_index().get(args.name)
    if row is not None and not on_this_machine({args.name: row})[args.name]:
        entry, place = row, f"not on this machine; 'diffrec zoo build {args.name}' trains it anew"
        lines = [f"# {args.name}", "", *table({args.name: row}).splitlines()]
    else:
        entry = find_entry(args.name, offline=True)
        card = entry.read(CARD).decode(errors="replace")
        if not is_name(args.name):
            card = card.replace(f'diffrec.load("{entry.folder.name}")', f"diffrec.load({json.dumps(args.name)})")
        place, lines = str(entry.folder), card.splitlines()
    lines += ["", "## Files", "", f"- {place}", f"- revision: {entry.revision}"]
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


def _index(args: argparse.Namespace) -> int:
    return write_index(args.forget, args.elsewhere)


def write_index(forget: Sequence[str] = (), elsewhere: Path | None = None) -> int:
    """The list of the zoo, and its table in the README beside it."""
    from diffrec.files import write_file
    from diffrec.zoo.index import rebuild_index, zoo_dir
    from diffrec.zoo.table import filled

    rows = rebuild_index(forget=forget, elsewhere=elsewhere)
    sys.stdout.write(f"zoo/manifest.json lists {len(rows)} models\n")
    absent = {name for name in rows if not (zoo_dir() / name).is_dir()}
    away = sum(rows[name].size for name in absent)
    sys.stdout.write(f"{sum(row.size for row in rows.values()) - away:,} bytes in zoo, {away:,} elsewhere\n")
    readme = zoo_dir().parent / "README.md"
    if readme.is_file() and (text := readme.read_text(encoding="utf-8")) != (new := filled(text, rows, absent)):
        write_file(readme, new.encode())
        sys.stdout.write(f"{readme}\n")
    return 0
