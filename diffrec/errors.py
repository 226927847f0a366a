"""Errors a user can act on: what was seen, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiffrecError(Exception):
    """Something went wrong and the message says what to do; `exit_code` is what the command returns."""

    exit_code = 1


class UsageError(DiffrecError):
    """The command, configuration or argument is not one that is allowed."""

    exit_code = 2


class IntegrityError(DiffrecError):
    """A file is not what its checksum or schema says."""

    exit_code = 3


class NotFoundError(DiffrecError):
    """A dataset, model, title or file of that name does not exist."""

    exit_code = 4


class NetworkError(DiffrecError):
    """A download could not be made."""

    exit_code = 5


def near_match(seen: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest allowed word (case ignored), or an empty string."""
    by_lower = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(seen.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def choose(what: str, seen: str, allowed: Iterable[str]) -> str:
    """Return `seen` if it is allowed, else raise NotFoundError naming the choices and the near match."""
    words = sorted(allowed)
    if seen in words:
        return seen
    raise NotFoundError(f"no {what} {seen!r}; there are: {', '.join(words)}{near_match(seen, words)}")
