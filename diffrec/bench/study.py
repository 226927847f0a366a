"""Searches in spaces that are too large to try everything: optuna's TPE, its trials in SQLite.

What was tried is never tried again; a trial whose process was killed is run by the next one; several processes may
work on a study at once.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrec.bench.lock import held, holding
from diffrec.bench.search import Choices, Settings, Space
from diffrec.bench.searches import SEED, Search
from diffrec.bench.tuning import Trial
from diffrec.errors import UsageError

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Run = Callable[[Settings], Trial]
Tell = Callable[[Trial, Sequence[Trial]], None]


def check_installed() -> None:
    """UsageError where the extra is missing."""
    if find_spec("optuna") is None:
        raise UsageError("tuning in a space with ranges needs optuna: pip install 'diffrec[tune]'")


def run_study(search: Search, folder: Path, run: Run, tell: Tell) -> list[Trial]:
    """Run trials until the budget is spent, and return all of them, those of other processes included.

    run: settings -> trial; tell: gets each trial of this process and all that are done by then.
    """
    study = _study(folder, search)
    while (asked := _next(study, search, folder)) is not None:
        with asked.stack:
            done = run(asked.settings)
            asked.trial.set_user_attr("seconds", done.seconds)
            asked.trial.set_user_attr("error", done.error)
            study.tell(asked.trial, done.value, state=None if done.value is not None else _states().FAIL)
        tell(done, _told(study, search))
    while any(held(_lock(folder, trial.number)) for trial in _running(study)):
        time.sleep(1.0)
    return _told(study, search)


@dataclass(frozen=True)
class _Asked:
    """A trial that is ours to run; stack: holds its lock."""

    trial: optuna.Trial
    settings: Settings
    stack: ExitStack


def _study(folder: Path, search: Search) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / "study.lock", wait=True):
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{(folder / 'study.db').resolve()}", engine_kwargs={"connect_args": {"timeout": 300}}
        )
        study = optuna.create_study(storage=storage, study_name="trials", direction="maximize", load_if_exists=True)
        if not study.get_trials(deepcopy=False):
            start = _start(search)
            if start is not None:
                study.enqueue_trial(_encoded(search.space, start))
    return study


def _start(search: Search) -> Settings | None:
    """The settings of the row as they are, where they lie in the space."""
    config: Any = search.config({})
    settings: Settings = {}
    for name in search.space.parameters:
        head, _, rest = name.partition(".")
        found = config[head].get("init_args", {}) if head == "model" else config[head]
        for part in rest.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        settings[name] = found
    return settings if search.space.holds(settings) else None


def _next(study: optuna.Study, search: Search, folder: Path) -> _Asked | None:
    """A trial of our own, None where the budget is spent or given out."""
    with holding(folder / "study.lock", wait=True):
        for trial in _running(study):
            if not held(_lock(folder, trial.number)):  # its process was killed
                study.tell(trial.number, state=_states().FAIL)
                study.enqueue_trial(trial.params)
        if len(_told(study, search)) + len(_running(study)) >= search.size:
            return None
        trial, settings = _ask(study, search)
        stack = ExitStack()
        stack.enter_context(holding(_lock(folder, trial.number)))
        return _Asked(trial, settings, stack)


def _ask(study: optuna.Study, search: Search) -> tuple[optuna.Trial, Settings]:
    """A setting that was not tried before; there is one, for the space is larger than the budget."""
    trials = study.get_trials(deepcopy=False)
    known = [_decoded(search.space, trial.params) for trial in trials if _counts(trial) or _runs(trial)]
    for count in itertools.count(len(trials)):
        study.sampler = _sampler(count, search.size)
        trial = study.ask(_distributions(search.space))
        settings = _decoded(search.space, trial.params)
        if settings not in known:
            return trial, settings
        study.tell(trial, state=_states().FAIL)
    raise AssertionError("unreachable")


def _sampler(count: int, size: int) -> optuna.samplers.BaseSampler:
    """One that depends on how many trials there are and nothing else; where TPE repeats itself, chance goes on."""
    import optuna

    if count > 4 * size:
        return optuna.samplers.RandomSampler(seed=SEED + count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        start = max(1, size // 2)
        return optuna.samplers.TPESampler(
            seed=SEED + count, n_startup_trials=start, multivariate=True, constant_liar=True
        )


def _told(study: optuna.Study, search: Search) -> list[Trial]:
    """The trials that count, in the order in which they were asked for."""
    return [
        Trial(_decoded(search.space, t.params), t.value, t.user_attrs["seconds"], t.user_attrs["error"])
        for t in study.get_trials(deepcopy=False)
        if _counts(t)
    ]


def _counts(trial: FrozenTrial) -> bool:
    """It was run to its end; one that was killed, or proposed twice, was not."""
    return trial.state.is_finished() and (trial.value is not None or trial.user_attrs.get("error") is not None)


def _runs(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished() and bool(trial.params)


def _states() -> type[optuna.trial.TrialState]:
    from optuna.trial import TrialState

    return TrialState


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(_states().RUNNING,))


def _lock(folder: Path, number: int) -> Path:
    return folder / f"trial{number}.lock"


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Choices):
            found[name] = CategoricalDistribution([json.dumps(value) for value in parameter.values])
        elif parameter.whole:
            found[name] = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
        else:
            found[name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return found


def _encoded(space: Space, settings: Settings) -> dict[str, Any]:
    """Settings as optuna keeps them: choices by their JSON."""
    return {
        name: json.dumps(value) if isinstance(space.parameters[name], Choices) else value
        for name, value in settings.items()
    }


def _decoded(space: Space, params: dict[str, Any]) -> Settings:
    """And back; three digits of a number are enough to be told."""
    settings: Settings = {}
    for name in space.parameters:
        value = params[name]
        if isinstance(space.parameters[name], Choices):
            settings[name] = json.loads(value)
        else:
            settings[name] = float(f"{value:.3g}") if isinstance(value, float) else value
    return settings
