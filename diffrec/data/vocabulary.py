"""From item numbers 1..N back to the ids and titles of the source."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from diffrec.errors import NotFoundError, UsageError, near_match


@dataclass(frozen=True)
class Vocabulary:
    """Item number j (1..N; 0 is padding) has id `item_ids[j - 1]` and, where known, title `titles[j - 1]`."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.titles is not None and len(self.titles) != len(self.item_ids):
            raise ValueError(f"{len(self.titles)} titles for {len(self.item_ids)} items")

    def __len__(self) -> int:
        return len(self.item_ids)

    def label(self, number: int) -> str:
        """The title of an item number, or its id where there is no title."""
        if not 1 <= number <= len(self):
            raise NotFoundError(f"item number {number} is outside 1..{len(self)}")
        return (self.titles and self.titles[number - 1]) or self.item_ids[number - 1]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}

    @cached_property
    def _by_title(self) -> dict[str, list[int]]:
        numbers = defaultdict(list)
        for number, title in enumerate(self.titles or (), start=1):
            numbers[title.strip().lower()].append(number)
        return dict(numbers)

    def number(self, query: str) -> int:
        """The item number of a title (case ignored) or an id; `id:7` asks for the id only.

        Raises NotFoundError with the nearest title, UsageError where a title belongs to several items.
        """
        query = query.strip()
        if query.startswith("id:"):
            query = query[3:].strip()
        elif found := self._by_title.get(query.lower()):
            if len(found) > 1:
                ids = ", ".join(f"'id:{self.item_ids[n - 1]}'" for n in found)
                raise UsageError(f"the title {query!r} belongs to {len(found)} items; name one of {ids}")
            return found[0]
        if query in self._by_id:
            return self._by_id[query]
        kind = "title or item id" if self.titles else "item id"
        raise NotFoundError(f"no {kind} {query!r} among {len(self)} items{self._suggestion(query)}")

    def _suggestion(self, query: str) -> str:
        """A title that contains the words of the query, else one that is spelt alike."""
        words = re.findall(r"\w+", query.lower())
        for title in self.titles or ():
            if words and all(word in title.lower() for word in words):
                return f"; did you mean {title!r}?"
        return near_match(query, self.titles or self.item_ids)

    def numbers(self, queries: Sequence[str]) -> list[int]:
        """`number` for each query, in order."""
        return [self.number(query) for query in queries]

    def parse_history(self, text: str) -> list[int]:
        """Item numbers of a comma-separated list of titles or ids; titles may themselves hold commas.

        At each place the longest run of pieces that is a title or an id is taken.
        """
        pieces = [piece.strip() for piece in text.split(",")]
        numbers, start = [], 0
        while start < len(pieces):
            for stop in range(min(len(pieces), start + 6), start, -1):
                candidate = ", ".join(pieces[start:stop])
                if stop == start + 1 or candidate.lower() in self._by_title or candidate in self._by_id:
                    break
            if candidate:
                numbers.append(self.number(candidate))
            start = stop
        if not numbers:
            raise UsageError("the history is empty; give at least one title or item id")
        return numbers
