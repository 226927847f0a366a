"""`diffrec bench probe ENTRY`: what the headline number of a trained model rests on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from diffrec.cli.subjects import subject_of_entry
from diffrec.errors import UsageError, check_sizes, choose

if TYPE_CHECKING:
    from diffrec.bench.probes import Lists, Memorisation, Order, Report, Shuffled, Slice, Slices, Steps
    from diffrec.zoo.entry import Entry

HELP = "ask a trained model what its number rests on: order, memory, popular items, steps"
NAMES = ("order", "memorisation", "slices", "lists", "steps")
SCHEMA_VERSION = 1
_MEANING = "meaning"


@dataclass(frozen=True)
class Section:
    """One table. title: the heading of the first column; header: of the others."""

    title: str
    header: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    note: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, on which data, what to ask."""
    parser.add_argument("entry", metavar="ENTRY", help="a name of 'diffrec zoo list', or the folder of an entry")
    parser.add_argument("--dataset", metavar="NAME", help="(default: that of the entry)")
    parser.add_argument("--protocol", metavar="ID", help="(default: that of the entry)")
    parser.add_argument("--only", type=_words, metavar="PROBES", help=f"of {','.join(NAMES)} (default: all that apply)")
    text = "numbers of inference steps (default: 1,2,5,10,... and all)"
    parser.add_argument("--steps", type=_numbers, metavar="N,N,...", help=text)
    parser.add_argument("--window", type=int, metavar="N", help="events that a training rule spans (default: 10)")
    parser.add_argument("--seed", type=int, help="of sampling and shuffling (default: that of the training)")
    parser.add_argument("--batch-size", type=int, default=512, metavar="N", help="(default: 512)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="(default: table)")


def run(args: argparse.Namespace) -> int:
    """Print the answers. Everything is read off the test cases, so nothing may be chosen by it."""
    from diffrec.bench.probes import RULE_WINDOW, examine
    from diffrec.zoo.finding import find_entry

    for name in args.only or ():
        choose("probe", name, NAMES)
    for option, probe in (("steps", "steps"), ("window", "memorisation")):
        if args.only and getattr(args, option) is not None and probe not in args.only:
            raise UsageError(f"--{option} belongs to the probe {probe}, which --only {','.join(args.only)} leaves out")
    entry = find_entry(args.entry)
    check_sizes(batch_size=args.batch_size)
    subject = subject_of_entry(entry, args.dataset, args.protocol, args.seed, args.batch_size)
    report = examine(
        subject,
        args.only,
        window=RULE_WINDOW if args.window is None else args.window,
        grid=args.steps,
        report=(lambda name, number, count: None) if args.quiet else _tell,
    )
    if args.format == "json":
        sys.stdout.write(_json(args.entry, entry, report))
    else:
        _print_tables(args.entry, report)
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 1,2,5") from None


def _tell(name: str, number: int, count: int) -> None:
    sys.stderr.write(f"{number}/{count} {name}\n")
    sys.stderr.flush()


def _json(name: str, entry: Entry, report: Report) -> str:
    from diffrec.strict_json import to_json

    about = {"schema_version": SCHEMA_VERSION, "entry": name, "entry_revision": entry.revision}
    return to_json({**about, **asdict(report)}).decode()


def _print_tables(name: str, report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffrec.cli.printable import page_console, printable

    console = page_console()
    about = f"{report.dataset}, {report.protocol}, {report.test_cases:,} test cases, seed {report.seed}"
    console.print(Text(printable(f"{name} · {about}"), style="bold"))
    console.print(Text("These are the test cases: good for understanding, not for choosing.\n", style="dim"))
    for section in sections(report):
        grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        grid.add_column(Text(section.title, style="bold"), overflow="fold")
        for heading in section.header:
            at_left = heading == _MEANING
            grid.add_column(heading, justify="left" if at_left else "right", no_wrap=not at_left, overflow="fold")
        for row in section.rows:
            grid.add_row(*map(Text, row))
        console.print(grid)
        console.print(Text(f"{section.note}\n", style="dim"))


def sections(report: Report) -> list[Section]:
    """What the report holds, in the order of NAMES."""
    parts: list[Section] = []
    if report.order is not None:
        parts.append(_order(report, report.order))
    if report.memorisation is not None:
        parts.append(_memorisation(report, report.memorisation))
    if report.slices is not None:
        parts += _slices(report, report.slices)
    if report.lists is not None:
        parts.append(_lists(report.lists))
    if report.steps is not None:
        parts.append(_steps(report, report.steps))
    return parts


def _order(report: Report, order: Order) -> Section:
    rows = [("as they are", *_accuracies(report, order.metrics), "-")]
    for shuffled in (order.window, order.whole):
        if shuffled is not None:
            name = "all shuffled" if shuffled.last is None else f"last {shuffled.last} shuffled"
            rows.append((name, *_accuracies(report, shuffled.metrics), _lost(shuffled)))
    note = f"lost: share of {report.headline}, ± its standard error over the test cases."
    if order.window is not None:
        note += f" Of a history the model reads the last {order.window.last}."
    return Section("order: histories", (*_headings(report), "lost"), rows, note)


def _memorisation(report: Report, memorisation: Memorisation) -> Section:
    header = ("targets", "share", *_headings(report), "hits")
    rows = _slice_rows(report, (memorisation.seen, memorisation.unseen))
    window = memorisation.window
    note = f"rule: in training the target followed some item of the history, at most {window} events later."
    return Section("memorisation: targets", header, rows, note)


def _slices(report: Report, slices: Slices) -> list[Section]:
    header = ("targets", "share", *_headings(report), "hits")
    bounds = [_bounds(part) for part in slices.popularity]
    rows = _slice_rows(report, slices.popularity)
    popularity = [(name, bound, *cells) for (name, *cells), bound in zip(rows, bounds, strict=True)]
    share = "Every bucket holds about the same share of the training interactions; counted: in training."
    lengths = "Events are those that the protocol gives, read by the model or not."
    return [
        Section("slices: target", ("counted", *header), popularity, share),
        Section("slices: history", header, _slice_rows(report, slices.history_length), lengths),
    ]


def _lists(lists: Lists) -> Section:
    meanings = {
        "coverage": "share of all items that are in a list",
        "gini": "0: all items shown equally, 1: only one",
        "novelty": "bits; less popular items are more novel",
        "popularity": "training interactions of an item",
        "intra_list_diversity": "of pairs, 1 - cosine of training users",
        "popularity_miscalibration": "0: as popular as the history; at most 1",
    }
    rows = [(name, _significant(vars(lists)[name]), meaning) for name, meaning in meanings.items()]
    note = f"Of the first {lists.k} items; miscalibration is the Jensen-Shannon divergence of popularity buckets."
    return Section("lists", ("", _MEANING), rows, note)


def _steps(report: Report, steps: Sequence[Steps]) -> Section:
    rows = [
        (
            f"{point.num_inference_steps}{' (as set)' if point.chosen else ''}",
            str(point.denoiser_calls),
            *_accuracies(report, point.metrics),
            _significant(point.ms_per_user),
        )
        for point in steps
    ]
    machine = f"{report.device}, {report.threads} thread{'s' * (report.threads > 1)}"
    note = f"ms/user: one pass of scoring and ranking, {report.batch_size} at a time; {machine}."
    if steps[0].guidance_scale != 1:
        note += f" Guidance scale {steps[0].guidance_scale:g}, which doubles the calls."
    return Section("steps: inference steps", ("calls", *_headings(report), "ms/user"), rows, note)


def _shown(report: Report) -> tuple[str, str]:
    """The metrics with a column."""
    k = report.headline.partition("@")[2]
    return f"ndcg@{k}", f"recall@{k}"


def _headings(report: Report) -> tuple[str, ...]:
    return tuple(name.replace("ndcg", "NDCG").replace("recall", "Recall") for name in _shown(report))


def _accuracies(report: Report, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """The cells under `_headings`; dashes for a slice without targets."""
    return tuple(f"{metrics[name]:.4f}".removeprefix("0") if metrics else "-" for name in _shown(report))


def _lost(shuffled: Shuffled) -> str:
    if shuffled.lost is None or shuffled.standard_error is None:
        return "-"
    return f"{100 * shuffled.lost:.1f} % ±{100 * shuffled.standard_error:.1f}"


def _slice_rows(report: Report, slices: Sequence[Slice]) -> list[tuple[str, ...]]:
    """Name, targets, their share, accuracies, hits."""
    total = max(sum(part.targets for part in slices), 1)
    return [
        (
            part.name,
            f"{part.targets:,}",
            f"{100 * part.targets / total:.1f} %",
            *_accuracies(report, part.metrics),
            f"{part.hits:,}",
        )
        for part in slices
    ]


def _bounds(part: Slice) -> str:
    if part.low is None:
        return "-"
    return str(part.low) if part.low == part.high else f"{part.low}-{part.high}"


def _significant(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
