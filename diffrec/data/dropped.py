"""Rows of a table that are left out, and how they are told of."""

from __future__ import annotations

from dataclasses import dataclass

_BROKEN = 0.01  # of the lines; where more cannot be read, the file is another than it was taken for
TOLD = 3  # of them, by an error
LINES_SHOWN = 5  # by a report


@dataclass(frozen=True)
class Dropped:
    """Rows that are left out; lines: where the first of them begin in the file (from 1); seen: what stands there,
    where the reason does not tell it."""

    reason: str
    rows: int
    lines: tuple[int, ...]
    seen: tuple[str, ...] = ()


def cut_off(text: str) -> str:
    """At most 40 characters of a text, for messages."""
    return text if len(text) <= 40 else f"{text[:37]}..."


def too_many(broken: int, lines: int) -> bool:
    """One line may be damaged in any file."""
    return broken > 1 and broken > _BROKEN * lines
