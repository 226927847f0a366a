"""Which settings a row was given: all trials of its tuning in one file a dataset, and the best of them in a suite."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffrec.bench.search import find_space, load_space, words
from diffrec.bench.strict import parse
from diffrec.bench.suite import Cell, Suite, SuiteDataset, SuiteModel
from diffrec.data.protocol import get_protocol
from diffrec.errors import DiffrecError, IntegrityError, NotFoundError, UsageError
from diffrec.files import write_file
from diffrec.paths import resource_dir
from diffrec.strict_json import from_json, to_json

Method = Literal["every setting", "tpe"]


@dataclass(frozen=True)
class Trial:
    """One setting. value: its metric on validation, None where it failed; error: why; seconds: all of it."""

    settings: dict[str, Any]
    value: float | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Tuning:
    """All trials of a row on a dataset.

    configs, overrides: what the settings go over; space: as declared; method: "every setting" of a finite space, or
    "tpe"; metric: the headline of the protocol, on validation, the larger the better; test cases are not looked at.
    """

    schema_version: int
    dataset: str
    dataset_sha256: str
    protocol: str
    metric: str
    model: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...]
    space: dict[str, Any]
    method: Method
    seed: int
    code_version: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The first of the best; UsageError where every trial failed."""
        done = [trial for trial in self.trials if trial.value is not None]
        if not done:
            raise UsageError(f"no trial of {self.model} on {self.dataset} has a value; the first says: {self._error}")
        return max(done, key=lambda trial: trial.value or 0.0)

    @property
    def _error(self) -> str | None:
        return self.trials[0].error if self.trials else "there is none"


def shipped() -> Path:
    """The folder of the project's own tuning."""
    return resource_dir("benchmarks") / "tuning"


def tuning_path(folder: Path, dataset: SuiteDataset, model: str) -> Path:
    """Where the trials of a row lie: `<folder>/<dataset>/<protocol of the search>/<row>.json`."""
    return folder / dataset.name / get_protocol(dataset.protocol).searched_by / f"{model}.json"


def read_tuning(path: Path) -> Tuning:
    """A stored tuning; IntegrityError names what is wrong with the file."""
    return parse(from_json(path.read_bytes(), str(path)), Tuning, str(path), IntegrityError)


def write_tuning(path: Path, tuning: Tuning) -> None:
    """Write it whole or not at all."""
    write_file(path, to_json(asdict(tuning)))


@dataclass(frozen=True)
class Untuned:
    """A row that has no settings on a dataset. reason: "not tuned" or the like; command: what finds them; error: the
    same for whoever asks for this row."""

    reason: str
    command: str
    error: DiffrecError

    def __str__(self) -> str:
        return f"{self.reason}: {self.command}"


@dataclass(frozen=True)
class Ready:
    """The rows of a suite that have their settings, on the datasets where they have them; without: the others, by
    dataset and row."""

    suite: Suite
    without: dict[tuple[str, str], Untuned]

    def left_out(self, cell: Cell) -> Untuned | None:
        """Why a cell of the whole suite is no cell of this one."""
        return self.without.get((cell.dataset.name, cell.model.name))


def tuned(suite: Suite, folder: Path, called: str | None = None) -> Suite:
    """The suite whose rows with a search space have the best settings of their tuning.

    called: name or file of the suite in commands (default: its name). Raises UsageError that names the command, where a
    row has no tuning or one of another configuration.
    """
    found = ready(suite, folder, called)
    for untuned in found.without.values():
        raise untuned.error
    return found.suite


def ready(suite: Suite, folder: Path, called: str | None = None) -> Ready:
    """The same of those rows that have settings, and which have none."""
    without: dict[tuple[str, str], Untuned] = {}
    models = []
    for model in suite.models:
        row, missing = _tuned(model, suite, folder, called or suite.name)
        without |= {(dataset, model.name): untuned for dataset, untuned in missing.items()}
        if not missing:
            models.append(row)
        elif row.tried:
            models.append(replace(row, only=tuple(row.tried)))
    return Ready(replace(suite, models=tuple(models)), without)


def _tuned(model: SuiteModel, suite: Suite, folder: Path, called: str) -> tuple[SuiteModel, dict[str, Untuned]]:
    """The row with its settings, and by dataset why it has none."""
    if model.search is None:
        return model, {}
    on, tried, missing = dict(model.on), dict[str, int](), dict[str, Untuned]()
    for dataset in suite.datasets:
        if model.runs_on(dataset.name):
            tuning = _current(model, dataset, called, folder)
            if isinstance(tuning, Untuned):
                missing[dataset.name] = tuning
                continue
            on[dataset.name] = (*model.on.get(dataset.name, ()), *words(tuning.best.settings))
            tried[dataset.name] = len(tuning.trials)
    return replace(model, on=on, tried=tried), missing


def _current(model: SuiteModel, dataset: SuiteDataset, suite: str, folder: Path) -> Tuning | Untuned:
    name = model.control_of if model.twin and model.control_of else model.name
    command = f"diffrec bench tune {suite} --only {name} --datasets {dataset.name}"
    path = tuning_path(folder, dataset, name)
    try:
        tuning = read_tuning(path)
    except FileNotFoundError:
        error = NotFoundError(f"{name} is not tuned on {dataset.name} ({path}): {command}")
        return Untuned("not tuned", command, error)
    if not same_question(tuning, model, dataset):
        error = UsageError(f"{name} was tuned on {dataset.name} in another configuration: {command}")
        return Untuned("tuned in another configuration", command, error)
    if model.search is not None and tuning.space != load_space(find_space(model.search)).plain():
        error = UsageError(f"{name} was tuned on {dataset.name} over other settings than {model.search} has: {command}")
        return Untuned("tuned over other settings", command, error)
    return tuning


def same_question(tuning: Tuning, model: SuiteModel, dataset: SuiteDataset) -> bool:
    """Whether a tuning is of this row as the suite has it today."""
    words = replace(model, twin=()).overrides_on(dataset.name)  # a control has the settings of its row
    asked = (model.configs, words, dataset.name, get_protocol(dataset.protocol).searched_by)
    return (tuning.configs, tuning.overrides, tuning.dataset, tuning.protocol) == asked
