"""Which rows of a table earn a badge: whom a model has to beat for it, and what of that holds. Pure functions.

Values are as in `significance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffrec.bench.comparison import MIN_SEEDS
from diffrec.bench.significance import RESAMPLES, Comparison, corrected, two_level_bootstrap, uncorrected
from diffrec.errors import UsageError, choose

MIN_DRAWS, MIN_DATASETS = 3, 3  # what `beats strong AR` asks for, see `strong_across_datasets`

Badge = Literal["beats counting", "beats strong AR", "diffusion helps"]


@dataclass(frozen=True)
class Rivals:
    """The rows that a model has to beat for its badges, those of `beats strong AR` being counting and strong."""

    counting: Sequence[str]
    strong: Sequence[str]
    controls: Sequence[str]

    @property
    def kinds(self) -> dict[str, Sequence[str]]:
        """The names by their kind."""
        return {"counting": self.counting, "strong autoregressive": self.strong, "control": self.controls}

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [name for names in self.kinds.values() for name in names]


@dataclass(frozen=True)
class Verdict:
    """Does a model earn a badge?

    missing: what is needed and not there; not_beaten: rows, or datasets, that stand in the way;
    comparisons: what the verdict rests on.
    """

    badge: Badge
    granted: bool
    missing: tuple[str, ...]
    not_beaten: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """`beats strong AR` on one dataset.

    seeds: the fewest training seeds among the model and the rows it has to beat that are trained;
    draws: sampling draws per seed of the model, None where it samples nothing.
    """

    verdict: Verdict
    seeds: int
    draws: int | None


def gate(
    values: Mapping[str, np.ndarray],
    rivals: Mapping[str, Rivals],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Verdict, ...]]:
    """The badges that rows of one table earn: for each row of `rivals` one Verdict for each `Badge`, in their order.

    values: all rows of the table, of one dataset and protocol. A rival is beaten where the row is `above` it, all
    comparisons of the table being corrected together, and where the interval of `two_level_bootstrap` is above 0 too:
    the first is about these checkpoints, the second about their methods, whose seeds might have been others. No badge
    is granted where a rival is not in `values`, or none is named. `beats strong AR` is about this dataset: the badge
    itself is `strong_across_datasets`. Raises UsageError where a row is among its own rivals, and as `compare`.
    """
    found: list[Comparison] = []
    above: dict[tuple[str, str], bool] = {}
    for model, those in rivals.items():
        if model in those.names:
            raise UsageError(f"{model} is among the rows that it has to beat: {', '.join(those.names)}")
        choose("row", model, values)
        present = {name: values[name] for name in (model, *those.names) if name in values}
        found += uncorrected(present, model, resamples, seed)
        methods = two_level_bootstrap(present, model, resamples=resamples, seed=seed)
        above |= {(model, other): interval.low > 0 for other, interval in methods.items()}
    by_model: dict[str, dict[str, Comparison]] = {model: {} for model in rivals}
    for comparison in corrected(found):
        by_model[comparison.model][comparison.other] = comparison
    asks: dict[Badge, tuple[str, ...]] = {
        "beats counting": ("counting",),
        "beats strong AR": ("counting", "strong autoregressive"),
        "diffusion helps": ("control",),
    }
    return {
        model: tuple(
            _verdict(badge, {kind: those.kinds[kind] for kind in asks[badge]}, by_model[model], above) for badge in asks
        )
        for model, those in rivals.items()
    }


def strong_across_datasets(evidence: Mapping[str, Evidence], datasets: Sequence[str]) -> Verdict:
    """The badge `beats strong AR`: its verdict holds on at least three of `datasets`, at five seeds and three draws.

    evidence: dataset -> what `gate` says of it; missing datasets count against the model. Raises UsageError
    for fewer than three datasets or a verdict on another badge, NotFoundError for evidence of another dataset.
    """
    if len(set(datasets)) < MIN_DATASETS:
        raise UsageError(f"the gate needs at least {MIN_DATASETS} datasets, got {', '.join(datasets) or 'none'}")
    for name, item in evidence.items():
        choose("dataset of the gate", name, datasets)
        if item.verdict.badge != "beats strong AR":
            raise UsageError(f"{name}: the verdict must be on 'beats strong AR', got {item.verdict.badge!r}")
    faults = {name: _too_little(evidence.get(name)) for name in dict.fromkeys(datasets)}
    held = [name for name, fault in faults.items() if not fault and evidence[name].verdict.granted]
    return Verdict(
        "beats strong AR",
        granted=len(held) >= MIN_DATASETS,
        missing=tuple(f"{name}: {fault}" for name, fault in faults.items() if fault),
        not_beaten=tuple(name for name, fault in faults.items() if not fault and name not in held),
    )


def _verdict(
    badge: Badge,
    needed: Mapping[str, Sequence[str]],
    comparisons: Mapping[str, Comparison],
    above: Mapping[tuple[str, str], bool],
) -> Verdict:
    """needed: names of rows by their kind; above: whether a pair differs as methods do."""
    names = [name for group in needed.values() for name in group]
    missing = [name for name in names if name not in comparisons]
    missing += [f"any {kind} row" for kind, group in needed.items() if not group]
    present = [comparisons[name] for name in names if name in comparisons]
    not_beaten = [c.other for c in present if not (c.above and above[c.model, c.other])]
    return Verdict(badge, not missing and not not_beaten, tuple(missing), tuple(not_beaten), tuple(present))


def _too_little(evidence: Evidence | None) -> str:
    """What one dataset lacks, or an empty string."""
    if evidence is None:
        return "not measured"
    faults = list(evidence.verdict.missing)
    if evidence.seeds < MIN_SEEDS:
        faults.append(f"{evidence.seeds} of {MIN_SEEDS} seeds")
    if evidence.draws is not None and evidence.draws < MIN_DRAWS:
        faults.append(f"{evidence.draws} of {MIN_DRAWS} draws")
    return ", ".join(faults)
