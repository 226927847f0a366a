"""A suite: which models meet on which dataset under which protocol, read from YAML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from diffrec.bench.leaderboard import REQUIRED
from diffrec.bench.result import NAME, Reported, result_path
from diffrec.bench.strict import parse
from diffrec.errors import NotFoundError, UsageError, listed, near_match
from diffrec.paths import resource_dir
from diffrec.training.config import compose, controls
from diffrec.training.yaml_tree import Node, read_yaml


@dataclass(frozen=True)
class SuiteDataset:
    """A dataset by name, and the id of the protocol that splits and measures it."""

    name: str
    protocol: str


@dataclass(frozen=True)
class SuiteModel:
    """A row of the leaderboard.

    configs: as for `diffrec fit -c`, later ones win; overrides: as on the command line, `--model.lr=1e-3`;
    on: more of them for some datasets; only: the datasets it runs on, all where there are none;
    seeds: one run each; control_of: the row that this one is a control for, named `<row>-noise-off`, `-one-step` or
    `-conditioner-only` where it shows what diffusion adds; tuning_trials: how many settings were tried on validation
    to choose these, 0 for published ones; search: the space of `configs/search` that is tuned in, whose best settings
    the row gets on each dataset (`tuning.tuned`), with `tried` settings there; controls: those of its configurations
    that accompany it, each a row of its own with the same settings and seeds and the words of `twin` over them;
    reported: what papers say, by dataset.
    """

    name: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    on: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    control_of: str | None = None
    tuning_trials: int = 0
    search: str | None = None
    tried: dict[str, int] = field(default_factory=dict, hash=False)
    controls: tuple[str, ...] = ()
    twin: tuple[str, ...] = ()
    reported: dict[str, tuple[Reported, ...]] = field(default_factory=dict, hash=False)

    def runs_on(self, dataset: str) -> bool:
        """Whether it has a row for a dataset."""
        return not self.only or dataset in self.only

    def overrides_on(self, dataset: str) -> tuple[str, ...]:
        """What goes over its configurations on a dataset."""
        return (*self.overrides, *self.on.get(dataset, ()), *self.twin)

    def trials_on(self, dataset: str) -> int:
        """How many settings were tried on validation to choose those for a dataset."""
        return self.tried.get(dataset, self.tuning_trials)

    def reported_on(self, dataset: str) -> tuple[Reported, ...]:
        """What papers say of this row on a dataset."""
        return self.reported.get(dataset, ())


@dataclass(frozen=True)
class Suite:
    """All models on all datasets.

    version: raised when a cell changes its meaning; without: models that some of its tables lack although every
    table needs them, each with the reason; draws: how often a model whose lists depend on noise is tested; budget: how
    many settings of each row with a search space are tried.
    """

    name: str
    version: int
    title: str
    datasets: tuple[SuiteDataset, ...]
    models: tuple[SuiteModel, ...]
    without: dict[str, str] = field(default_factory=dict)
    draws: int = 3
    budget: int = 20

    def cells(self) -> Iterator[Cell]:
        """One run each, in the order of the file."""
        for dataset in self.datasets:
            for model in self.models:
                for seed in model.seeds if model.runs_on(dataset.name) else ():
                    yield Cell(self.name, self.version, dataset, model, seed, self.draws)

    def with_controls(self) -> Suite:
        """The suite with every control that the configurations of its rows declare."""
        return _with_controls(
            replace(self, models=tuple(replace(m, controls=tuple(controls(m.configs))) for m in self._leading()))
        )

    def _leading(self) -> Iterator[SuiteModel]:
        """The rows without those that are made from the `controls` of another."""
        return (model for model in self.models if not model.twin)

    def only(self, names: Sequence[str] = (), seeds: Sequence[int] = (), datasets: Sequence[str] = ()) -> Suite:
        """The suite cut down to some models, seeds and datasets; nothing given means all.

        Rows that need no training by gradients keep their seeds where none of them is asked for: a table needs
        them. Raises UsageError for a seed that none of the other models has.
        """
        self._refuse_unknown("model", names, [model.name for model in self.models])
        self._refuse_unknown("dataset", datasets, [dataset.name for dataset in self.datasets])
        models = tuple(model for model in self.models if not names or model.name in names)
        kept = tuple(dataset for dataset in self.datasets if not datasets or dataset.name in datasets)
        return replace(self, models=_with_seeds(self, models, seeds) if seeds else models, datasets=kept)

    def _refuse_unknown(self, kind: str, names: Sequence[str], known: Sequence[str]) -> None:
        for name in names:
            if name not in known:
                raise NotFoundError(f"suite {self.name} has no {kind} {name!r}{near_match(name, known)}")


@dataclass(frozen=True)
class Cell:
    """One run of a suite: a model on a dataset with a seed; draws: as in `Suite`."""

    suite: str
    suite_version: int
    dataset: SuiteDataset
    model: SuiteModel
    seed: int
    draws: int

    @property
    def path(self) -> PurePosixPath:
        """Where its result lies below the results folder."""
        return result_path(self.suite, self.dataset.name, self.model.name, self.seed)

    def __str__(self) -> str:
        return f"{self.dataset.name} {self.model.name} seed {self.seed}"


def _with_seeds(suite: Suite, models: Sequence[SuiteModel], seeds: Sequence[int]) -> tuple[SuiteModel, ...]:
    """Some models of the suite, with the given seeds only."""
    free = {model.name for model in models if training_free(model, suite.datasets[0])}
    known = {seed for model in models for seed in model.seeds if model.name not in free}
    if known and (missing := sorted(set(seeds) - known)):
        there = ", ".join(map(str, sorted(known)))
        raise UsageError(f"suite {suite.name} has no seed {missing[0]} for these models; there are: {there}")
    chosen = {model.name: tuple(seed for seed in model.seeds if seed in seeds) for model in models}
    kept = (replace(m, seeds=chosen[m.name] or (m.seeds if m.name in free else ())) for m in models)
    return tuple(model for model in kept if model.seeds)


def training_free(model: SuiteModel, dataset: SuiteDataset) -> bool:
    """Is it a closed form, by its class?"""
    config = compose(model.configs, [*model.overrides_on(dataset.name), f"--data.dataset={dataset.name}"])["model"]
    assert isinstance(config, dict)
    return config["class_path"].startswith("diffrec.baselines.")


def find_suite(name: str) -> Path:
    """The file of a suite that ships with the project, or a path to one."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise NotFoundError(f"no suite file {name}")
        return Path(name)
    folder = _shipped()
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise NotFoundError(f"no suite {name!r}; there are: {', '.join(names)}{near_match(name, names)}")
    return folder / f"{name}.yaml"


def _shipped() -> Path:
    return resource_dir("benchmarks") / "suites"


def load_suite(path: Path) -> Suite:
    """Read a suite; UsageError names the file and the key that is wrong.

    A member of `models` that is a name stands for the rows of that file in the folder `rows` beside the suite, else of
    that beside the suites that ship with the project.
    """
    tree = _with_rows(_read(path), path.parent / "rows")
    suite = _with_controls(parse(tree, Suite, str(path), UsageError, unwrap=_value_and_place))
    _check(suite, path)
    return suite


def _with_controls(suite: Suite) -> Suite:
    """Every row followed by its controls, those that are rows of the file already left out."""
    there = {model.name for model in suite.models}
    rows = [[model, *(twin for twin in _twins(model) if twin.name not in there)] for model in suite.models]
    return replace(suite, models=tuple(model for group in rows for model in group))


def _twins(model: SuiteModel) -> Iterator[SuiteModel]:
    declared = controls(model.configs) if model.controls and model.control_of is None else {}
    for name in model.controls if model.control_of is None else ():
        if name not in declared:
            there = f"; there are: {', '.join(declared)}" if declared else ""
            raise NotFoundError(f"{model.name} has no control {name!r}{there}{near_match(name, declared)}")
        yield replace(
            model, name=f"{model.name}-{name}", control_of=model.name, controls=(), reported={}, twin=declared[name]
        )


def _read(path: Path) -> Node:
    return read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))


def _with_rows(suite: Node, folder: Path) -> Node:
    """A suite whose members of `models` that are names stand for the rows of `rows/<name>.yaml`."""
    models = suite.get("models")
    if models is None or not isinstance(models.value, list) or not isinstance(suite.value, dict):
        return suite
    rows = [row for member in models.value for row in _rows(member, folder)]
    return Node({**suite.value, "models": Node(rows, models.where)}, suite.where)


def _rows(member: Node, folder: Path) -> list[Node]:
    if not isinstance(member.value, str):
        return [member]
    files = {path.stem: path for place in (_shipped() / "rows", folder) for path in place.glob("*.yaml")}
    if member.value not in files:
        there = f"; there are: {listed(files, member.value)}{near_match(member.value, files)}"
        raise NotFoundError(f"{member.where}: no rows {member.value!r}{there}")
    rows = _read(files[member.value])
    if not isinstance(rows.value, list):
        raise UsageError(f"{rows.where}: rows are a list of models")
    return rows.value


def _value_and_place(node: Node, source: str) -> tuple[object, str]:
    return node.value, node.where


def _check(suite: Suite, path: Path) -> None:
    """What types cannot say."""
    models = [model.name for model in suite.models]
    datasets = [dataset.name for dataset in suite.datasets]
    for name in (suite.name, *models, *datasets):
        if not NAME.fullmatch(name):
            raise UsageError(f"{path}: the name {name!r} must be made of a-z, 0-9, '.', '_' and '-'")
    for kind, names in (("model", models), ("dataset", datasets)):
        if not names:
            raise UsageError(f"{path} lists no {kind}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"{path} lists the {kind} {twice[0]!r} twice")
    for name in ("draws", "budget"):
        if getattr(suite, name) < 1:
            raise UsageError(f"{path}: {name} must be at least 1, got {getattr(suite, name)}")
    for model in suite.models:
        named = (*model.reported, *model.on, *model.only, *model.tried)
        if unknown := [name for name in named if name not in datasets]:
            near = near_match(unknown[0], datasets)
            raise UsageError(f"{path}: {model.name} names {unknown[0]!r}, no dataset of this suite{near}")
    everywhere = [model.name for model in suite.models if not model.only]
    for name, reason in suite.without.items():
        if name not in REQUIRED or name in everywhere or not reason.strip():
            needed = ", ".join(name for name in REQUIRED if name not in everywhere) or "nothing, for all are there"
            raise UsageError(f"{path}: without may give reasons for {needed}; got {name!r}: {reason!r}")
    leading = [model.name for model in suite.models if model.control_of is None]
    for model in suite.models:
        if not model.seeds or min(model.seeds) < 0 or len(set(model.seeds)) < len(model.seeds):
            raise UsageError(f"{path}: the seeds of {model.name} must be different numbers from 0, got {model.seeds}")
        if model.control_of is not None and model.control_of not in leading:
            near = near_match(model.control_of, leading)
            raise UsageError(f"{path}: {model.name} is a control of {model.control_of!r}, no model of this suite{near}")
