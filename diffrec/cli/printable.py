"""Text from files, made safe to show in a terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with control characters, reversals of direction and lone surrogates shown as question marks."""
    return _UNSAFE.sub("?", text)


def printable_lines(text: str) -> str:
    """The same of every line of `text`, which stays several lines."""
    return "\n".join(map(printable, text.split("\n")))


def as_path(folder: Path) -> str:
    """As commands and `diffrec.load` tell a folder from a name: with a slash."""
    return str(folder) if len(folder.parts) > 1 else f"./{folder}"


def table_console() -> Console:
    """As wide as the terminal, 80 columns at least: a narrow terminal breaks lines, where rich would cut numbers."""
    from rich.console import Console

    return Console(width=max(80, Console().width), highlight=False, emoji=False)


def page_console() -> Console:
    """80 columns whatever the terminal: a narrow terminal breaks lines, where rich would cut numbers."""
    from rich.console import Console

    return Console(width=80, highlight=False)


def print_line(line: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
