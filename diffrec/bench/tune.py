"""Chooses settings on validation: every setting of a small space, some of any other (`study`).

The test cases are not looked at. A search that was stopped goes on, and several processes may work on the same
searches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffrec.bench.lock import holding
from diffrec.bench.search import Settings
from diffrec.bench.searches import Places, Search, finish, finished, keep, kept
from diffrec.bench.study import check_installed, run_study
from diffrec.bench.trial import Solver, run_trial
from diffrec.bench.tuning import Trial, Tuning
from diffrec.errors import DiffrecError

Report = Callable[[str], None]


def tune(asked: Sequence[Search], places: Places, report: Report) -> list[Tuning]:
    """Do all searches that are not finished, and return the tunings in the order of `asked`.

    Several processes may call this at once: each takes what nobody is at, and then helps with the rest.
    """
    if any(not search.every for search in asked):
        check_installed()
    for wait in (False, True):
        for group in _groups([search for search in asked if finished(search, places) is None]):
            _do(group, places, report, wait)
    found = [finished(search, places) for search in asked]
    if missing := [search for search, tuning in zip(asked, found, strict=True) if tuning is None]:
        raise DiffrecError(f"not finished: {', '.join(map(str, missing))}")
    return [tuning for tuning in found if tuning is not None]


def _groups(open_searches: Sequence[Search]) -> list[list[Search]]:
    """Searches through every setting of one class on one dataset belong together: their models are solved once."""
    groups: dict[object, list[Search]] = {}
    for search in open_searches:
        class_path = search.config({})["model"]["class_path"]
        key = (search.dataset.name, class_path) if search.every else search
        groups.setdefault(key, []).append(search)
    return list(groups.values())


def _do(group: Sequence[Search], places: Places, report: Report, join: bool) -> None:
    """join: take part in, or wait for, what another process is at."""
    first = group[0]
    with holding(first.folder(places) / "search.lock", wait=join and first.every) as mine:
        if first.every and mine:
            _try_all(group, places, report)
        elif not first.every and (mine or join):
            _try_some(first, places, report)


def _try_all(group: Sequence[Search], places: Places, report: Report) -> None:
    """All settings of some searches, those that share a solved model one after another."""
    solver = Solver()
    done = {search: kept(search, places) for search in group}
    tried = {search: [trial.settings for trial in trials] for search, trials in done.items()}
    left = [(search, s) for search in group for s in search.space.points() if s not in tried[search]]
    for search, settings in sorted(left, key=lambda pair: solver.order(*pair)):
        trial = run_trial(search, settings, places, solver)
        done[search].append(trial)
        keep(search, done[search], places)
        report(_line(search, trial, done[search]))
    for search in group:
        finish(search, done[search], places)


def _try_some(search: Search, places: Places, report: Report) -> None:
    """The trials of a study."""
    solver = Solver()

    def run(settings: Settings) -> Trial:
        return run_trial(search, settings, places, solver)

    trials = run_study(search, search.folder(places), run, lambda trial, so_far: report(_line(search, trial, so_far)))
    with holding(search.folder(places) / "study.lock", wait=True):
        if finished(search, places) is None:
            finish(search, trials, places)


def _line(search: Search, trial: Trial, trials: Sequence[Trial]) -> str:
    best = max((t.value for t in trials if t.value is not None), default=0.0)
    said = trial.error if trial.value is None else f"{trial.value:.4f}"
    settings = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in trial.settings.items())
    return f"{search} [{len(trials)}/{search.size}]: {settings}: {said} ({trial.seconds:.0f} s), best {best:.4f}"
