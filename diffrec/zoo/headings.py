"""card.md as text: its sections, what it leaves open, and what other files take from it. No torch here."""

from __future__ import annotations

import re

DATA = "Data and terms"
LICENCE = "Apache-2.0"  # of every entry
NOT_STATED, NONE = "Not stated.", "None."
NOT_MEASURED = "Not measured under a protocol of diffrec."
TERMS, TIME = "Terms", "Time"  # facts in DATA
_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)
_REQUIRED = ("What it is", "Paper", DATA, "Training", "Protocol", "Metrics", "Steps", "Limits", "Licence")


def sections(text: str) -> dict[str, str]:
    """The texts of a card by their headings."""
    parts = _HEADING.split(text)[1:]
    return {heading: content.strip() for heading, content in zip(parts[::2], parts[1::2], strict=True)}


def missing(text: str) -> list[str]:
    """The headings that a card lacks, or has with nothing below."""
    there = sections(text)
    return [heading for heading in _REQUIRED if not there.get(heading)]


def unknown(text: str) -> list[str]:
    """The headings of a card that say that nothing is known."""
    return [heading for heading, content in sections(text).items() if content in (NOT_STATED, NONE, NOT_MEASURED)]


def fact(data: str, name: str) -> str | None:
    """What a point `- <name>: ...` of the section DATA says, None where there is none or it says nothing."""
    found = re.search(rf"^- {name}:(.*(?:\n  .*)*)", data, re.MULTILINE)
    return " ".join(found[1].split()) or None if found else None
