"""`diffrec data`: which datasets there are, what is in one, fetching one, bringing your own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from diffrec.cli.import_report import in_words
from diffrec.cli.printable import printable, table_console
from diffrec.errors import NotFoundError

if TYPE_CHECKING:
    from rich.console import Console

    from diffrec.data.catalogue import Entry
    from diffrec.data.dataset import Dataset

_LEGEND = """distinct: tuples that occur; collisions: items beyond the first of their tuple;
largest: most items of one tuple; bits: entropy of the tuples; used: codes that
occur, at the least used level; lost: share of the vectors' spread; sizes: codes of
each level; --json tells entropy and usage of every level"""

HELP = "list, inspect, fetch and import datasets; make vectors of their texts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="the datasets that can be loaded")
    listing.add_argument("--json", action="store_true", help="print JSON")

    info = actions.add_parser("info", help="counts, origin and licence of one dataset that is on this machine")
    info.add_argument("name", metavar="NAME")
    info.add_argument("--json", action="store_true", help="print JSON")

    fetch = actions.add_parser("fetch", help="download a registered dataset into the cache and check it")
    fetch.add_argument("name", metavar="NAME")

    add = actions.add_parser(
        "import",
        help="make a dataset of a CSV, TSV, JSON lines, gzip or Parquet file",
        epilog="Columns are called 1, 2, ... in files without a header, and by the keys of the objects in JSON lines.",
    )
    add.add_argument("file", metavar="FILE", help="one interaction a row")
    add.add_argument("--name", required=True, help="how the dataset will be called")
    for role in ("user", "item", "timestamp", "rating", "title"):
        add.add_argument(f"--{role}", metavar="COLUMN", help=f"column of the {role}; guessed where not given")
    add.add_argument("--min-rating", type=float, metavar="R", help="leave out rows rated below R")
    add.add_argument("--k-core", type=int, default=0, metavar="K", help="leave out users and items with fewer than K")
    add.add_argument("--delimiter", type=_delimiter, help="between cells; guessed (',', ';', '|', '::', tab, blank)")
    add.add_argument("--header", action=argparse.BooleanOptionalAction, help="is the first row a header? guessed")
    add.add_argument("--force", action="store_true", help="replace an imported dataset of that name")
    add.add_argument("--json", action="store_true", help="print the report as JSON")

    embed = actions.add_parser("embed", help="vectors of the item texts of a dataset, kept in the cache")
    embed.add_argument("name", metavar="NAME")
    encoders = "tf-idf, a folder, an id of the Hugging Face hub, or package:NAME for a Python package with weights"
    embed.add_argument("--encoder", help=f"{encoders}; such a package where one is installed, else tf-idf")
    embed.add_argument("--fields", metavar="A,B", help="columns of items.parquet; all that are known where not given")
    embed.add_argument("--width", type=int, metavar="W", help="of the vectors; 256 for tf-idf, else the encoder's own")
    embed.add_argument("--whiten", action="store_true", help="principal directions of equal spread")
    embed.add_argument("--unit-norm", action="store_true", help="vectors of length 1")
    embed.add_argument("--device", help="where the encoder runs, such as cuda")
    _add_keeping(embed, "vectors")

    codes = actions.add_parser("tokenize", help="semantic IDs of the items of a dataset, kept in the cache")
    codes.add_argument("name", metavar="NAME")
    codes.add_argument("--vectors", metavar="WORD", help="what 'embed' made, a file, or 'collaborative'; default: "
                       "collaborative, from the training sequences of --protocol")  # fmt: skip
    codes.add_argument("--method", default="residual-k-means", help="residual-k-means, rq-vae, pq or opq")
    codes.add_argument("--levels", type=int, default=4, metavar="L", help="codes an item")
    codes.add_argument("--size", type=int, default=256, metavar="K", help="codes a level")
    codes.add_argument("--resolve", default="extra", help="duplicates: none, extra (one more code) or sinkhorn")
    codes.add_argument("--seed", type=int, default=0)
    codes.add_argument("--rounds", type=int, default=25, help="of k-means")
    codes.add_argument("--epochs", type=int, default=500, help="of the RQ-VAE")
    codes.add_argument("--hidden", type=_widths, default=(512, 256, 128), metavar="W,W", help="widths of the RQ-VAE's "
                       "layers between vector and latent; 512,256,128")  # fmt: skip
    codes.add_argument("--commitment", type=float, default=0.25, metavar="C",
                       help="weight of the loss that draws the RQ-VAE's residuals to codes")  # fmt: skip
    codes.add_argument("--unit-norm", action="store_true", help="RQ-VAE: latent vectors and first codes of length 1")
    codes.add_argument("--estimator", default="straight-through",
                       help="how gradients pass the RQ-VAE's codes: straight-through or rotation")  # fmt: skip
    codes.add_argument("--width", type=int, default=64, metavar="W", help="of collaborative vectors")
    codes.add_argument("--protocol", default="loo-full-masked@1", help="whose training sequences they come from")
    codes.add_argument("--device", default="cpu", help="where the RQ-VAE is trained, such as cuda")
    codes.add_argument("--published", metavar="COLUMN", help="take codes that came with the dataset instead")
    codes.add_argument("--list", action="store_true", help="make nothing; the report cards of all there are")
    _add_keeping(codes, "codes")


def _add_keeping(parser: argparse.ArgumentParser, what: str) -> None:
    """How what is made is called and shown."""
    parser.add_argument(
        "--as", dest="called", metavar="WORD", help=f"name of the {what}; made of the options by default"
    )
    parser.add_argument("--force", action="store_true", help="make them anew even if they are there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; errors are DiffrecError."""
    return {"list": _list, "info": _info, "fetch": _fetch, "import": _import, "embed": _embed, "tokenize": _tokenize}[
        args.action
    ](args)


def _delimiter(text: str) -> str:
    return {"tab": "\t", "\\t": "\t", "space": " "}.get(text, text)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def _print_json(value: object) -> int:
    import json

    _console().print(json.dumps(value, indent=1, ensure_ascii=False), soft_wrap=True, markup=False)
    return 0


def _list(args: argparse.Namespace) -> int:
    from diffrec.data.catalogue import entries

    found = sorted(entries().values(), key=lambda entry: (entry.origin != "registered", entry.origin, entry.name))
    if args.json:
        return _print_json([_entry_facts(entry) for entry in found])
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("name", "origin", "users", "items", "interactions"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("name", "origin") else "right")
    for entry in found:
        origin = entry.origin if entry.is_here else f"{entry.origin}, to fetch"
        counts = (entry.counts.get(key) for key in ("users", "items", "interactions"))
        table.add_row(
            escape(printable(entry.name)), origin, *("-" if count is None else f"{count:,}" for count in counts)
        )
    console = table_console()
    console.print(table)
    console.print(f"\nlicences:\n{_terms(found)}", soft_wrap=True, markup=False)
    console.print("\nmore: diffrec data info NAME; your own: diffrec data import FILE --name NAME")
    return 0


def _entry_facts(entry: Entry) -> dict:
    facts = {"name": entry.name, "origin": entry.origin, "kind": entry.kind, "ready": entry.is_here}
    return {**facts, "licence": entry.licence or None, **entry.counts}


def _terms(found: Iterable[Entry]) -> str:
    """The licences of the data, each after the names that it belongs to."""
    import textwrap

    names: dict[str, list[str]] = {}
    for entry in found:
        names.setdefault(printable(entry.licence) or "not stated", []).append(printable(entry.name))
    lines = [f"{', '.join(group)}: {licence}" for licence, group in names.items()]
    return "\n".join(
        textwrap.fill(line, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False) for line in lines
    )


def _info(args: argparse.Namespace) -> int:
    from diffrec.data.catalogue import find

    if not find(args.name).is_here:
        raise NotFoundError(f"{args.name} is not on this machine; 'diffrec data fetch {args.name}' downloads it")
    from diffrec.data.sources import load_dataset

    facts = _facts(load_dataset(args.name))
    if args.json:
        return _print_json(facts)
    lines = {
        "name": facts["name"],
        "title": facts["title"],
        "users": f"{facts['users']:,}{'' if facts['aligned'] else ' (rows; every part has its own)'}",
        "items": f"{facts['items']:,}{'' if facts['titles'] else ', no titles'}",
        "interactions": f"{facts['interactions']:,}",
        "per user": "{min} to {max}, median {median:g}, mean {mean:.2f}".format(**facts["items_per_user"]),
        "parts": ", ".join(f"{name} {size:,}" for name, size in facts["parts"].items()),
        "times": " to ".join(facts["times"]) or "none; the order of the file",
        "homepage": facts["homepage"] or "-",
        **({"fetched from": facts["fetched_from"]} if facts["fetched_from"] else {}),
        "licence": facts["licence"],
        "citation": facts["citation"] or "-",
        "sha256": facts["sha256"],
    }
    return _print_facts(list(lines.items()))


def _facts(dataset: Dataset) -> dict:
    """What `info` tells, as plain values."""
    import numpy as np

    lengths = [part.items.lengths for part in dataset.parts.values()]
    lengths = np.sum(lengths, axis=0) if dataset.aligned else np.concatenate(lengths)
    return {
        "name": dataset.name,
        "title": dataset.info.title,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": dataset.num_interactions,
        "items_per_user": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
        "parts": {name: len(part.items.values) for name, part in dataset.parts.items()},
        "aligned": dataset.aligned,
        "titles": dataset.vocabulary.titles is not None,
        "times": _time_range(dataset),
        "homepage": dataset.info.homepage,
        "fetched_from": dataset.info.fetched_from,
        "licence": dataset.info.licence,
        "citation": dataset.info.citation,
        "sha256": dataset.sha256,
    }


def _time_range(dataset: Dataset) -> list[str]:
    """First and last day, or an empty list where there are no times."""
    import numpy as np

    times = [part.timestamps.values for part in dataset.parts.values() if part.timestamps is not None]
    if not times:
        return []
    ends = np.array([min(map(np.min, times)), max(map(np.max, times))], dtype="datetime64[s]")
    return [str(day) for day in ends.astype("datetime64[D]")]


def _print_facts(facts: list[tuple[str, str]]) -> int:
    """Two columns: what, and how much of it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for what, value in facts:
        table.add_row(what, escape(printable(value)))
    _console().print(table)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from diffrec.data.sources import fetch, load_dataset

    folder = fetch(args.name)
    dataset = load_dataset(args.name)
    where = f"in {folder}" if folder else "generated when it is loaded"
    counts = f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"
    _console().print(f"{args.name}: {counts}, checked, {where}", soft_wrap=True, markup=False)
    return 0


def _embed(args: argparse.Namespace) -> int:
    from diffrec.text.embedding import Embedding, default_encoder, embed

    fields = tuple(args.fields.split(",")) if args.fields else ()
    how = Embedding(args.encoder or default_encoder(), fields, args.width, args.whiten, args.unit_norm)
    path, made = embed(args.name, how, args.called, force=args.force, device=args.device)
    items, width = made.tensors["vectors"].shape
    name = f"{args.name}/{path.stem}"
    if args.json:
        return _print_json({"name": name, "file": str(path), "sha256": made.sha256, "width": width, **made.facts})
    texts = f"{items:,}, {made.facts['distinct']:,} of them different, {made.facts['empty']:,} empty"
    return _print_facts(
        [
            ("vectors", name),
            ("texts", f"{texts}; of {', '.join(made.facts['how']['fields'])}"),
            ("encoder", how.encoder),
            ("width", f"{width}{', whitened' * how.whiten}{', of length 1' * how.unit_norm}"),
            ("file", str(path)),
            ("sha256", made.sha256 or ""),
        ]
    )


def _tokenize(args: argparse.Namespace) -> int:
    from diffrec.tokenizers.rqvae import Training
    from diffrec.tokenizers.tokenize import COLLABORATIVE, Tokenizer, codes_of, import_codes, tokenize

    if args.list:
        cards = codes_of(args.name)
        return _print_json(cards) if args.json else _print_cards(cards)
    if args.published:
        path, made = import_codes(args.name, args.published, args.called, force=args.force)
    else:
        how = Tokenizer(
            vectors=args.vectors or COLLABORATIVE, method=args.method, levels=args.levels, size=args.size,
            resolve=args.resolve, seed=args.seed, rounds=args.rounds, width=args.width, protocol=args.protocol,
            training=Training(epochs=args.epochs, device=args.device), hidden=args.hidden,
            commitment=args.commitment, unit_norm=args.unit_norm, estimator=args.estimator,
        )  # fmt: skip
        path, made = tokenize(args.name, how, args.called, force=args.force)
    name = f"{args.name}/{path.stem}"
    if args.json:
        return _print_json({"name": name, "file": str(path), "sha256": made.sha256, **made.facts})
    cards = {"unresolved": made.facts["before"]} if "before" in made.facts else {}
    _print_cards({**cards, path.stem: made.facts["card"]})
    return _print_facts([("name", name), ("file", str(path)), ("sha256", made.sha256 or "")])


def _print_cards(cards: Mapping[str, Mapping[str, Any]]) -> int:
    """The name of each set of codes on a line of its own, whole, and its numbers below."""
    rows = [("distinct", "collisions", "largest", "bits", "used", "lost", "sizes")]
    for card in cards.values():
        lost = card.get("lost")
        rows.append(
            (f"{card['distinct']:,}", f"{card['collisions']:.2%}", str(card["largest"]),
             f"{card['prefix_entropy'][-1]:.2f}", f"{min(card['usage']):.0%}", "-" if lost is None else f"{lost:.3f}",
             "x".join(map(str, card["sizes"])))
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *numbers = ("  ".join(map(str.rjust, row[:-1], widths)) + f"  {row[-1]}" for row in rows)
    below = [line for name, row in zip(cards, numbers, strict=True) for line in (printable(name), f"  {row}")]
    _console().print("\n".join(["codes", f"  {head}", *below, _LEGEND]), soft_wrap=True, markup=False)
    return 0


def _import(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from diffrec.data.importing import import_table

    _, report = import_table(
        args.file,
        name=args.name,
        user=args.user,
        item=args.item,
        timestamp=args.timestamp,
        rating=args.rating,
        min_rating=args.min_rating,
        k_core=args.k_core,
        title=args.title,
        delimiter=args.delimiter,
        has_header=args.header,
        force=args.force,
    )
    if args.json:
        return _print_json(asdict(report))
    return _print_facts(in_words(report))
