"""From item numbers 1..N back to the ids and titles of the source."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, SupportsInt, runtime_checkable

import numpy as np

from diffrec.errors import NotFoundError, UsageError, near_match

_TRAILING_ARTICLE = re.compile(r"^(.+),(the|a|an)(?= \(|$)")
_YEAR = re.compile(r" \(\d{4}\)$")
_SUGGESTIONS = 3
_UNKNOWN_NAMED = 5
_LONGEST_SPELT_ALIKE = 100  # characters; comparing longer texts with every title takes seconds


@runtime_checkable
class TitleSource(Protocol):
    """Where titles can be had when one is first needed. Compared and hashed without reading them."""

    def titles(self, item_ids: tuple[str, ...]) -> tuple[str, ...] | None:
        """The titles of these items, None where they cannot be had here."""
        ...

    @property
    def how_to_get(self) -> str:
        """What to do where they cannot be had."""
        ...


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """Item number j (1..N; 0 is padding) has id `item_ids[j - 1]` and, where known, title `titles[j - 1]`.

    stored_titles: titles that are at hand; source: asked for them otherwise.
    """

    item_ids: tuple[str, ...]
    stored_titles: tuple[str, ...] | None = None
    source: TitleSource | None = None

    def __post_init__(self) -> None:
        if self.stored_titles is not None and len(self.stored_titles) != len(self.item_ids):
            raise ValueError(f"{len(self.stored_titles)} titles for {len(self.item_ids)} items")

    @cached_property
    def titles(self) -> tuple[str, ...] | None:
        """The title of every item, "" where unknown; None where there are no titles."""
        return self.stored_titles if self.source is None else self.source.titles(self.item_ids)

    @property
    def missing_titles(self) -> str:
        """How to get titles that exist and are not here; empty where there is nothing to get."""
        return "" if self.titles is not None or self.source is None else self.source.how_to_get

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        known = "with titles" if self.stored_titles is not None else self.source or "no titles"
        return f"<Vocabulary of {len(self):,} items, {known}>"

    def labels(self, numbers: Iterable[SupportsInt]) -> list[str]:
        """The label of each item number; 0, where a list has ended, is left out."""
        return [self.label(number) for number in map(int, numbers) if number]

    def label(self, number: int) -> str:
        """The title of an item number, or its id where there is no title."""
        if not 1 <= number <= len(self):
            raise NotFoundError(f"item number {number} is outside 1..{len(self)}")
        title = self.titles[number - 1] if self.titles else ""
        return title or self.item_ids[number - 1]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}

    @cached_property
    def _by_title(self) -> dict[str, list[int]]:
        numbers = defaultdict(list)
        for number, title in enumerate(self.titles or (), start=1):
            if title:
                numbers[_spelling(title)].append(number)
        return dict(numbers)

    @cached_property
    def _most_commas(self) -> int:
        """The largest number of commas in one title or id."""
        return max(text.count(",") for text in (*self.item_ids, *(self.titles or ())))

    def number(self, query: str) -> int:
        """The item number of a title or an id; `id:7` asks for the id only.

        In titles the case, spaces around commas and the place of an article ("The Sting", "Sting, The") do
        not count. Raises NotFoundError with the nearest titles, UsageError where a title belongs to several
        items.
        """
        if (number := self.known(query)) is None:
            raise self.unknown(query)
        return number

    def known(self, query: str) -> int | None:
        """As `number`, and None where there is no such title or id, at once."""
        query = query.strip()
        found = self._candidates(query)
        if len(found) > 1:
            ids = ", ".join(f"'id:{self.item_ids[n - 1]}'" for n in found)
            raise UsageError(f"the title {query!r} belongs to {len(found)} items; name one of {ids}")
        return found[0] if found else None

    def numbers(self, queries: Sequence[str]) -> list[int]:
        """As `number` for each; NotFoundError names the first five that are unknown, with the nearest titles, and how
        many more there are."""
        found = {query: self.known(query) for query in queries}
        unknown = [query.strip() for query, number in found.items() if number is None]
        if len(unknown) > 1:
            raise self._several_unknown(unknown)
        return [self.number(query) for query in queries]

    def unknown(self, query: str, suggest: bool = True) -> NotFoundError:
        """What `number` raises where there is no such title or id; suggest: with the nearest, which take a while."""
        query = query.strip()
        missing = f"; {self.missing_titles}" if self.missing_titles else ""
        nearest = self._suggestion(query) if suggest else ""
        return NotFoundError(f"no {self._kind} {query!r} among {len(self)} items{nearest}{missing}")

    def _several_unknown(self, queries: Sequence[str]) -> NotFoundError:
        named = queries[:_UNKNOWN_NAMED]
        nearest = (self._suggestion(query).removeprefix("; ") for query in named)
        told = (f"{query!r}{f' ({near})' if near else ''}" for query, near in zip(named, nearest, strict=True))
        more = f" and {len(queries) - len(named)} more" * (len(queries) > len(named))
        missing = f"; {self.missing_titles}" if self.missing_titles else ""
        return NotFoundError(
            f"{len(queries)} texts are no {self._kind} among {len(self)} items: {', '.join(told)}{more}{missing}"
        )

    @property
    def _kind(self) -> str:
        return "title or item id" if self.titles else "item id"

    def matches(self, other: Vocabulary, by: Literal["id", "title"]) -> np.ndarray:
        """(N,) int64: the number that each of these items has in `other`, 0 where it has none or the title several."""
        if by == "id":
            return np.array([other._by_id.get(item_id, 0) for item_id in self.item_ids], dtype=np.int64)
        only = {title: numbers[0] for title, numbers in other._by_title.items() if len(numbers) == 1}
        mine = {title for title, numbers in self._by_title.items() if len(numbers) == 1}
        spelt = (_spelling(title) for title in self.titles or [""] * len(self))
        return np.array([only.get(title, 0) if title in mine else 0 for title in spelt], dtype=np.int64)

    def _candidates(self, query: str) -> list[int]:
        """The items that `query` may mean: those of the title, else the one of the id."""
        if query.startswith("id:"):
            titled, query = [], query[3:].strip()
        else:
            titled = self._by_title.get(_spelling(query), [])
        return titled or ([self._by_id[query]] if query in self._by_id else [])

    def _suggestion(self, query: str) -> str:
        """Titles that differ by the year only, else the shortest with all words of the query, else one spelt alike."""
        if query.startswith("id:"):
            return _spelt_alike(query[3:].strip(), self.item_ids)
        wanted = _YEAR.sub("", _spelling(query))
        same = [title for title in self.titles or () if title and _YEAR.sub("", _spelling(title)) == wanted]
        words = set(re.findall(r"\w+", wanted))
        close = same or sorted((t for t in self.titles or () if words and words <= _words(t)), key=len)[:1]
        if close:
            return f"; did you mean {' or '.join(repr(title) for title in dict.fromkeys(close[:_SUGGESTIONS]))}?"
        return _spelt_alike(query, self.titles or self.item_ids)

    def parse_history(self, text: str) -> list[int]:
        """Item numbers of a comma-separated list of titles or ids; titles may themselves hold commas.

        At each place the longest run of pieces that is a title or an id is taken. Raises what `numbers`
        raises, and UsageError where nothing is listed.
        """
        pieces = text.split(",")
        queries, start = [], 0
        while start < len(pieces):
            longest = min(len(pieces), start + 1 + self._most_commas)
            runs = [",".join(pieces[start:stop]).strip() for stop in range(longest, start, -1)]
            known = next((run for run in runs if run and self._candidates(run)), runs[-1])
            if known:
                queries.append(known)
            start = longest - runs.index(known)
        if not queries:
            raise UsageError("the history is empty; give at least one title or item id")
        return self.numbers(queries)


def _spelling(title: str) -> str:
    """What two spellings of one title have in common: 'The  Sting (1973)' and 'Sting, The (1973)' are equal."""
    plain = re.sub(r"\s*,\s*", ",", " ".join(title.lower().split()))
    return _TRAILING_ARTICLE.sub(r"\2 \1", plain)


def _spelt_alike(query: str, texts: Iterable[str]) -> str:
    return near_match(query, texts) if len(query) <= _LONGEST_SPELT_ALIKE else ""


def _words(title: str) -> set[str]:
    return set(re.findall(r"\w+", title.lower()))
