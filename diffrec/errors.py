"""Errors a user can act on: what was seen, what is allowed, the nearest match."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import TypeGuard

_MOST_LISTED, _OF_MANY = 20, 8
_NO_MEMORY = re.compile("can't allocate memory|out of memory")  # RuntimeErrors of torch: on a processor, a device


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
    """A dataset, model, metric, title or file of that name does not exist."""

    exit_code = 4


class NetworkError(DiffrecError):
    """A download could not be made."""

    exit_code = 5


class PluginWarning(UserWarning):
    """A plug-in that cannot be used; the message names its package."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an array found no room: Python's and NumPy's MemoryError, and what torch raises instead."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


def check_sizes(least: int = 1, **sizes: int | Sequence[int]) -> None:
    """UsageError, by its name, for a size below `least` or no whole number, and for a list of none."""
    for name, size in sizes.items():
        members = size if isinstance(size, Sequence) and not isinstance(size, str) else (size,)
        if not members or not all(is_whole(member) and member >= least for member in members):
            what = "whole numbers, at least one," if members is size else "a whole number"
            raise UsageError(f"{name} must be {what} from {least}, got {size!r}")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_numbers(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    most: float = math.inf,
    **numbers: float,
) -> None:
    """UsageError, by its name, for a number that is not finite, or not in low <= number < high and
    above < number <= most."""
    for name, number in numbers.items():
        real = isinstance(number, Real) and not isinstance(number, bool)
        if not (real and math.isfinite(number) and low <= number < high and above < number <= most):
            ends = f" from {low:g}" * (low > -math.inf) + f" above {above:g}" * (above > -math.inf)
            ends += f" to below {high:g}" * (high < math.inf) + f" up to {most:g}" * (most < math.inf)
            raise UsageError(f"{name} must be a finite number{ends}, got {number!r}")


def near_match(seen: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest allowed word (case ignored), else the only one that begins so, or an
    empty string."""
    by_lower = {word.lower(): word for word in allowed}
    close = difflib.get_close_matches(seen.lower(), list(by_lower), n=1, cutoff=0.6)
    begun = [word for word in by_lower if word.startswith(seen.lower())]
    close = close or begun * (len(begun) == 1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def listed(words: Iterable[str], seen: str) -> str:
    """All words in order; of more than twenty, the eight most like what was seen, and how many more there are."""
    everything = sorted(words)
    if len(everything) <= _MOST_LISTED:
        return ", ".join(everything)
    close = difflib.get_close_matches(seen.lower(), everything, n=_OF_MANY, cutoff=0.0)
    return f"{', '.join(sorted(close))} and {len(everything) - len(close)} more"


def choose(what: str, seen: str, allowed: Iterable[str]) -> str:
    """Return `seen` if it is allowed, else raise NotFoundError naming the choices and the near match."""
    words = list(allowed)
    if seen in words:
        return seen
    raise NotFoundError(f"no {what} {seen!r}; there are: {listed(words, seen)}{near_match(seen, words)}")
