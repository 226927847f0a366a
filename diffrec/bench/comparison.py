"""Which rows of a table differ: written beside its results, because the leaderboard starts without NumPy.

`<results>/<suite>/<dataset>/comparison.json` is a function of the files of ranks, which it names by their hashes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.bench.result import Result
from diffrec.bench.strict import parse
from diffrec.errors import IntegrityError, UsageError, choose
from diffrec.files import write_file
from diffrec.strict_json import from_json

if TYPE_CHECKING:
    import numpy as np

SCHEMA_VERSION = 2
# Controls `<model>-<one of these>`, which have no diffusion, or one step of it; others tell more.
WITHOUT_DIFFUSION = ("noise-off", "one-step", "conditioner-only", "sasrec-with-rules")
STRONG = ("sasrec", "bsarec")  # the autoregressive rows that a claim has to beat
MIN_SEEDS = 5  # of a claim about a method; a badge of fewer says so
SHOWN = ("beats counting", "diffusion helps")  # what one table can show; `beats strong AR` takes several


@dataclass(frozen=True)
class Difference:
    """The best row minus another, over users: mean, 95 % bootstrap interval, and the corrected p-value."""

    other: str
    difference: float
    low: float
    high: float
    p_holm: float


@dataclass(frozen=True)
class PairedDifference:
    """A row minus the one it is held against, over the same users: mean, 95 % bootstrap interval, corrected p-value.

    value: the mean of the metric of `model`; seeds: of how many; detectable: the true difference that a test over these
    users would find four times in five, see `significance.minimal_detectable_difference`.
    """

    model: str
    value: float
    difference: float
    low: float
    high: float
    p_holm: float
    detectable: float
    seeds: int


@dataclass(frozen=True)
class Badge:
    """A claim about a row. missing: rows that it would have to beat and that are not there; not_beaten: the others."""

    name: str
    granted: bool
    missing: tuple[str, ...]
    not_beaten: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What can be said of the rows of one table, by its headline metric averaged over seeds and draws.

    ranks: by model, the hashes of the files of ranks it rests on; level: the rows not distinguishable from `best`;
    badges: by trained model.
    """

    protocol: str
    metric: str
    users: int
    resamples: int
    ranks: dict[str, tuple[str, ...]]
    best: str
    level: tuple[str, ...]
    differences: tuple[Difference, ...]
    badges: dict[str, tuple[Badge, ...]]


def comparison_path(folder: Path, suite: str, dataset: str) -> Path:
    """Where the comparison of a table lies below the results folder."""
    return folder / suite / dataset / "comparison.json"


def hashes(results: Sequence[Result]) -> dict[str, tuple[str, ...]] | None:
    """Of the ranks of one table, by model; None where a record has none."""
    by_model: dict[str, list[str]] = {}
    for result in sorted(results, key=lambda r: (r.model, r.seed)):
        if result.ranks_sha256 is None:
            return None
        by_model.setdefault(result.model, []).append(result.ranks_sha256)
    return {model: tuple(those) for model, those in by_model.items()}


def stored(results: Sequence[Result], folder: Path) -> Comparison | None:
    """The comparison of these results of one table, None where there is none of exactly these.

    Raises IntegrityError for a file that is no comparison.
    """
    path = comparison_path(folder, results[0].suite, results[0].dataset)
    if not path.is_file():
        return None
    tree = from_json(path.read_bytes(), str(path))
    version = tree.pop("schema_version", None) if isinstance(tree, dict) else None
    if type(version) is int and version < SCHEMA_VERSION:
        return None  # other tests granted its badges
    if version != SCHEMA_VERSION:
        raise IntegrityError(f"{path} is no comparison of schema_version {SCHEMA_VERSION}")
    found = parse(tree, Comparison, str(path), IntegrityError)
    return found if (found.ranks, found.protocol) == (hashes(results), results[0].protocol) else None


def write_comparison(results: Sequence[Result], folder: Path) -> Path | None:
    """Compare the rows of one table and write it down, unless that is done; the path, None where ranks are missing."""
    path = comparison_path(folder, results[0].suite, results[0].dataset)
    if stored(results, folder) is None:
        found = compare_rows(results, folder)
        if found is None:
            return None
        tree = {"schema_version": SCHEMA_VERSION, **asdict(found)}
        write_file(path, (json.dumps(tree, indent=2, allow_nan=False) + "\n").encode())
    return path


def compare_rows(results: Sequence[Result], folder: Path) -> Comparison | None:
    """The comparison of the rows of one table; None without ranks, or where there is one row or one user only."""
    import numpy as np

    from diffrec.bench.badges import Rivals, gate
    from diffrec.bench.leaderboard import REQUIRED  # which reads comparisons
    from diffrec.bench.significance import RESAMPLES, best_group

    there = hashes(results)
    if there is None or len(there) < 2:
        return None
    values = _values(results, there, folder)
    if any(np.isfinite(row[0]).sum() < 2 for row in values.values()):
        return None
    group = best_group(values)
    roles = {result.model: result.role for result in results}
    expected = {**REQUIRED, **roles}  # a required row that is absent was not beaten
    counting = [name for name, role in expected.items() if role == "training-free"]
    rivals = {
        result.model: Rivals(counting, [name for name in STRONG if name != result.model], _twins(result, roles))
        for result in results
        if result.role == "model"
    }
    badges = {
        model: tuple(Badge(v.badge, v.granted, v.missing, v.not_beaten) for v in verdicts)
        for model, verdicts in gate(values, rivals).items()
    }
    return Comparison(
        protocol=results[0].protocol,
        metric=results[0].headline,
        users=group.comparisons[0].users,
        resamples=RESAMPLES,
        ranks=there,
        best=group.best,
        level=group.level,
        differences=tuple(Difference(c.other, c.difference, c.low, c.high, c.p_holm) for c in group.comparisons),
        badges=badges,
    )


def against(
    results: Sequence[Result], folder: Path, row: str, metric: str, over_seeds: bool = False
) -> tuple[PairedDifference, ...]:
    """Every other row of one table minus `row`, best first; p-values are corrected together.

    over_seeds: interval and p-value are of methods, whose seeds are drawn anew as users are, instead of these
    checkpoints. Raises NotFoundError for a row that is not there, UsageError for a metric that ranks do not give, and
    where a record has no ranks.
    """
    import numpy as np

    from diffrec.bench.significance import compare, holm, minimal_detectable_difference, two_level_bootstrap

    there = hashes(results)
    if there is None:
        raise UsageError(f"the records of {results[0].suite}/{results[0].dataset} have no ranks to compare")
    choose("row", row, there)
    choose("metric", metric, results[0].metrics)
    values = _values(results, there, folder, metric)
    if over_seeds:
        intervals = two_level_bootstrap(values, row)
        corrected = dict(zip(intervals, holm([found.p for found in intervals.values()]), strict=True))
    else:
        intervals = {found.other: found for found in compare(values, row)}
        corrected = {other: found.p_holm for other, found in intervals.items()}
    pairs = [
        PairedDifference(
            model=other,
            value=float(np.nanmean(values[other])),
            difference=0 - found.difference,
            low=0 - found.high,
            high=0 - found.low,
            p_holm=corrected[other],
            detectable=minimal_detectable_difference(values[other], values[row]),
            seeds=len(values[other]),
        )
        for other, found in intervals.items()
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.difference, pair.model)))


def _values(
    results: Sequence[Result], there: Mapping[str, object], folder: Path, metric: str | None = None
) -> dict[str, np.ndarray]:
    """(seeds, users) of each row of `there`, the headline metric unless another is asked for.

    Raises IntegrityError where the files of ranks are of different users, or have them in another order.
    """
    import numpy as np

    from diffrec.bench.ranks import ranks_of

    users, values = None, {}
    for model in there:
        per_seed = []
        for result in (r for r in results if r.model == model):
            ranks = ranks_of(result, folder)
            assert ranks is not None
            users = ranks.users if users is None else users
            if not np.array_equal(ranks.users, users):
                raise IntegrityError(f"{result.path} ranks the items of other users than the table; run it again")
            per_seed.append(ranks.values(metric or result.headline))
        values[model] = np.stack(per_seed)
    return values


def _twins(result: Result, roles: Mapping[str, str]) -> list[str]:
    """The controls without diffusion that a model's configuration declares, run or not, and others that were run."""
    from diffrec.models import MODELS
    from diffrec.training.config import controls

    of_class = {f"diffrec.models.{path.partition(':')[2]}": name for name, path in MODELS.items()}
    name = of_class.get(result.config["model"]["class_path"])
    declared = {} if name is None else controls([f"model/{name}"])
    kinds = [kind for kind in WITHOUT_DIFFUSION if kind in declared or roles.get(f"{result.model}-{kind}") == "control"]
    return [f"{result.model}-{kind}" for kind in kinds]


def untested(comparison: Comparison) -> tuple[str, ...]:
    """Of whom nobody knows whether diffusion helps: they beat what controls there are, and some were not run."""
    return tuple(
        model
        for model, badges in comparison.badges.items()
        for badge in badges
        if badge.name == "diffusion helps"
        and not badge.not_beaten
        and any(name.startswith(f"{model}-") for name in badge.missing)
    )


def granted(comparison: Comparison) -> Mapping[str, tuple[str, ...]]:
    """The names of the badges of SHOWN that each trained model earns here."""
    return {
        model: tuple(badge.name for badge in badges if badge.granted and badge.name in SHOWN)
        for model, badges in comparison.badges.items()
    }
