"""What a suite has to tune: a search for each row and dataset, and where its trials are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffrec.bench.provenance import code_version
from diffrec.bench.result import sha256_of
from diffrec.bench.search import Choices, Settings, Space, find_space, load_space, words
from diffrec.bench.suite import Suite, SuiteDataset, SuiteModel
from diffrec.bench.tuning import Method, Trial, Tuning, read_tuning, same_question, tuning_path, write_tuning
from diffrec.data.protocol import Protocol, get_protocol
from diffrec.data.sources import load_dataset
from diffrec.errors import IntegrityError
from diffrec.training.config import compose

SEED = 0  # of every run, and of the sampler of settings
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Places:
    """tuning: where finished searches are kept; runs: trials under way, their checkpoints and logs."""

    tuning: Path
    runs: Path


@dataclass(frozen=True)
class Search:
    """The search for the settings of one row on one dataset; budget: how many settings are tried at most."""

    dataset: SuiteDataset
    model: SuiteModel
    space: Space = field(hash=False)
    budget: int

    def __str__(self) -> str:
        return f"{self.dataset.name} {self.protocol.id} {self.model.name}"

    @property
    def every(self) -> bool:
        """Is every setting of the space tried?"""
        return self.space.size is not None and self.space.size <= self.budget

    @property
    def size(self) -> int:
        """How many settings are tried."""
        return min(self.space.size or self.budget, self.budget)

    @property
    def method(self) -> Method:
        """How settings are chosen."""
        return "every setting" if self.every else "tpe"

    @property
    def protocol(self) -> Protocol:
        """What splits and measures a trial."""
        return get_protocol(get_protocol(self.dataset.protocol).searched_by)

    def overrides(self, settings: Settings) -> list[str]:
        """The words that a trial puts over the configurations of its row."""
        return [
            *self.model.overrides_on(self.dataset.name),
            *words(settings),
            f"--data.dataset={self.dataset.name}",
            f"--data.protocol={self.protocol.id}",
            f"--seed_everything={SEED}",
            f"--data.seed={SEED}",
        ]

    def config(self, settings: Settings) -> dict[str, Any]:
        """The configuration of a trial; UsageError where the space does not fit the model."""
        return compose(self.model.configs, self.overrides(settings))

    def folder(self, places: Places) -> Path:
        """Where its trials run: another question gets another folder."""
        words = self.model.overrides_on(self.dataset.name)
        asked = {"configs": self.model.configs, "overrides": words, "space": self.space.plain()}
        name = f"{self.model.name}-{sha256_of(asked)[:12]}"
        return places.runs / self.dataset.name / self.protocol.id / name

    def path(self, places: Places) -> Path:
        """The file of the finished search."""
        return tuning_path(places.tuning, self.dataset, self.model.name)


def searches(suite: Suite, budget: int | None = None, datasets: Sequence[str] = ()) -> list[Search]:
    """What a suite has to tune, in its order; UsageError for a space that does not fit its model."""
    found = []
    for dataset in suite.datasets:
        for model in suite.models:
            if model.search is None or model.twin or not model.runs_on(dataset.name):
                continue
            if not datasets or dataset.name in datasets:
                search = Search(dataset, model, load_space(find_space(model.search)), budget or suite.budget)
                search.config({name: _first(search.space, name) for name in search.space.parameters})
                found.append(search)
    return found


def _first(space: Space, name: str) -> Any:
    parameter = space.parameters[name]
    return parameter.values[0] if isinstance(parameter, Choices) else parameter.low


def finished(search: Search, places: Places) -> Tuning | None:
    """The stored tuning of this search, None where it has fewer trials, another space, configuration or other data."""
    try:
        tuning = read_tuning(search.path(places))
    except (FileNotFoundError, IntegrityError):
        return None
    current = same_question(tuning, search.model, search.dataset) and tuning.space == search.space.plain()
    current = current and len(tuning.trials) >= search.size
    return tuning if current and tuning.dataset_sha256 == load_dataset(search.dataset.name).sha256 else None


def kept(search: Search, places: Places) -> list[Trial]:
    """The trials of a search through every setting that was stopped."""
    path = _unfinished(search, places)
    if not path.is_file():
        return []
    try:
        return [trial for trial in read_tuning(path).trials if search.space.holds(trial.settings)]
    except IntegrityError:
        return []


def keep(search: Search, trials: Sequence[Trial], places: Places) -> None:
    """Write down the trials so far."""
    write_tuning(_unfinished(search, places), _record(search, trials))


def finish(search: Search, trials: Sequence[Trial], places: Places) -> None:
    """Write the record, in an order that does not depend on who tried what when; UsageError where all trials failed."""
    points = list(search.space.points()) if search.every else []
    ordered = sorted(trials, key=lambda trial: points.index(trial.settings)) if search.every else trials
    record = _record(search, ordered)
    assert record.best.value is not None
    write_tuning(search.path(places), record)


def _unfinished(search: Search, places: Places) -> Path:
    return search.folder(places) / "trials.json"


def _record(search: Search, trials: Sequence[Trial]) -> Tuning:
    return Tuning(
        schema_version=SCHEMA_VERSION,
        dataset=search.dataset.name,
        dataset_sha256=load_dataset(search.dataset.name).sha256,
        protocol=search.protocol.id,
        metric=search.protocol.headline,
        model=search.model.name,
        configs=search.model.configs,
        overrides=search.model.overrides_on(search.dataset.name),
        space=search.space.plain(),
        method=search.method,
        seed=SEED,
        code_version=code_version(),
        trials=tuple(trials),
    )
