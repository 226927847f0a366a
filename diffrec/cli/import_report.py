"""The report of `diffrec data import`, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.data.dropped import Dropped
    from diffrec.data.importing import ImportReport

_SHOWN = 10  # of the columns that are not used


def in_words(report: ImportReport) -> list[tuple[str, str]]:
    """What `diffrec data import` did, as pairs of what and how much of it."""
    header = "with" if report.header else "without"
    kind = {
        "cells": f"{report.encoding}, cells cut at {report.delimiter!r}, {header} header",
        "JSON lines": f"{report.encoding}, JSON lines",
        "Parquet": "Parquet",
    }[report.form]
    return [
        ("dataset", report.name),
        ("file", f"{report.file} ({kind})"),
        ("columns", ", ".join(f"{role} = {column}" for role, column in report.columns.items())),
        *(("not used", text) for text in _unused_facts(report)),
        ("rows read", f"{report.rows_read:,}"),
        *(("left out", text) for text in _dropped_facts(report)),
        ("rows kept", f"{report.rows_kept:,} of {report.users:,} users and {report.items:,} items"),
        ("repeats", f"{report.repeats:,} (a user comes back to an item; kept{_for_repeats(report)})"),
        ("time order", _time_fact(report)),
        *(("look again", text) for text in _doubts(report)),
        ("next", f"diffrec fit -c model/sasrec --data.dataset={report.name}{_unmasked(report)}"),
    ]


def _doubts(report: ImportReport) -> list[str]:
    """What an import can hardly have been meant to do."""
    doubts = []
    if report.rows_kept < report.rows_read / 2:
        doubts.append(f"{report.rows_read - report.rows_kept:,} of {report.rows_read:,} rows were left out")
    if not report.users_with_three:
        doubts.append("no user has three events, so that none can be held out to train and to measure on")
    return doubts


def _for_repeats(report: ImportReport) -> str:
    return f"; train with{_unmasked(report)}" * (report.repeats > 0)


def _unmasked(report: ImportReport) -> str:
    """Where users come back to items, what they had may be asked for."""
    return " --data.protocol=loo-full-unmasked@1" * (report.repeats > 0)


def _unused_facts(report: ImportReport) -> list[str]:
    rating = f"{report.unused_rating}: low ratings count like high ones; --min-rating X leaves rows below X out"
    others = ", ".join(report.unused[:_SHOWN]) + f" and {len(report.unused) - _SHOWN} more" * (
        len(report.unused) > _SHOWN
    )
    return [*([rating] if report.unused_rating is not None else []), *([others] if report.unused else [])]


def _dropped_facts(report: ImportReport) -> list[str]:
    """One line a reason, with the first lines of the file it concerns, and what stands there where it is not told."""
    unit = "row" if report.form == "Parquet" else "line"
    return [
        f"{drop.rows:,}: {drop.reason} ({unit} {', '.join(_places(drop))}"
        f"{', ...' if drop.rows > len(drop.lines) else ''})"
        for drop in report.dropped
    ] or ["0"]


def _places(drop: Dropped) -> Iterator[str]:
    """The first lines, each with what was seen there."""
    return (
        f"{line}: {text!r}" if text else str(line) for line, text in zip_longest(drop.lines, drop.seen, fillvalue="")
    )


def _time_fact(report: ImportReport) -> str:
    if "timestamp" not in report.columns:
        return "no times; the order of the file is taken for the order of events"
    moved = f"{report.reordered_users:,} users were not in time order in the file and are now"
    return (
        f"{moved if report.reordered_users else 'as in the file'}; "
        f"{report.ties:,} rows share user and time and keep the order of the file"
    )
