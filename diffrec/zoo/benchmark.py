"""What the records of a suite say of the row that an entry comes from: its part of metrics.json. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffrec.errors import IntegrityError
from diffrec.strict_json import numbers, record, short

K = 10  # the length of the lists that `lists` is about
_NONE = type(None)


@dataclass(frozen=True)
class Score:
    """The headline metric of a row: its mean over `seeds` runs, and their standard deviation, None for one run.

    about: in what a control differs from the row of the entry.
    """

    seeds: int
    mean: float
    sd: float | None = None
    about: str = ""

    @classmethod
    def parse(cls, value: object, where: str) -> Score:
        """From its JSON form; IntegrityError where it is not one."""
        kinds = {"seeds": int, "mean": (int, float), "sd": (int, float, _NONE), "about": str}
        score = cls(**record(value, where, kinds))
        if not 1 <= score.seeds <= 1 << 20:
            raise IntegrityError(f"{where}: seeds cannot be {short(score.seeds)}")
        return score


@dataclass(frozen=True)
class Benchmark:
    """The row of an entry among the records of its suite, on the same dataset and under the same protocol.

    headline: the metric that ranks; row, controls, popularity: how the row, the controls of it and the popularity
    baseline do there; sd: of every metric over the seeds of the row, empty for one; draw_sd: of the headline over
    draws of the sampling noise, None for one; lists, popular_lists: coverage, gini, novelty and popularity of the
    test lists of length K, of the entry's own run and of the baseline, empty where not measured; counts: of the split
    (`Result.split_counts`); ms_per_user: milliseconds for ten items by batch size, measured on device, processor and
    threads, empty where not measured.
    """

    suite: str
    headline: str
    row: Score
    controls: Mapping[str, Score]
    popularity: Score | None
    sd: Mapping[str, float]
    draw_sd: float | None
    lists: Mapping[str, float]
    popular_lists: Mapping[str, float]
    counts: Mapping[str, int]
    ms_per_user: Mapping[str, float]
    device: str
    processor: str
    threads: int

    def plain(self) -> dict[str, object]:
        """Its JSON form."""
        return asdict(self)

    @classmethod
    def parse(cls, value: object, where: str) -> Benchmark:
        """From its JSON form; IntegrityError where it is not one."""
        kinds = {"suite": str, "headline": str, "row": dict, "controls": dict, "popularity": (dict, _NONE), "sd": dict,
                 "draw_sd": (int, float, _NONE), "lists": dict, "popular_lists": dict, "counts": dict,
                 "ms_per_user": dict, "device": str, "processor": str, "threads": int}  # fmt: skip
        fields: dict[str, Any] = dict(record(value, where, kinds))
        for name in ("sd", "lists", "popular_lists", "ms_per_user"):
            fields[name] = numbers(fields[name], f"{where}: {name}")
        if not all(size.isascii() and size.isdigit() and ms >= 0 for size, ms in fields["ms_per_user"].items()):
            raise IntegrityError(f"{where}: ms_per_user must hold milliseconds by batch size")
        if not all(type(count) is int and count >= 0 for count in fields["counts"].values()):
            raise IntegrityError(f"{where}: counts must be whole numbers")
        scores = {name: Score.parse(score, f"{where}: {short(name)}") for name, score in fields["controls"].items()}
        popularity = fields["popularity"]
        fields |= {
            "row": Score.parse(fields["row"], f"{where}: row"),
            "controls": scores,
            "popularity": None if popularity is None else Score.parse(popularity, f"{where}: popularity"),
        }
        return cls(**fields)
