"""Searches on validation, resumed, shared between processes, and what a suite makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from diffrec.baselines.ease import EASE
from diffrec.bench import trial as trial_module
from diffrec.bench.searches import Places, finish, finished, searches
from diffrec.bench.study import run_study
from diffrec.bench.suite import load_suite
from diffrec.bench.tune import tune
from diffrec.bench.tuning import Trial, read_tuning, ready, shipped, tuned, write_tuning
from diffrec.data.protocol import PROTOCOLS, get_protocol
from diffrec.data.sources import load_dataset
from diffrec.errors import DiffrecError, NotFoundError, UsageError

SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - {name: markov, configs: [model/markov], search: markov}
  - {name: ease, configs: [model/ease], search: ease}
  - {name: ease-decay, configs: [model/ease], search: ease-decay}
  - {name: sequential-rules, configs: [model/sequential-rules], search: sequential-rules}
"""


@pytest.fixture
def suite(suite_file):
    return load_suite(suite_file(SUITE))


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "tuning", tmp_path / "tune")


def of(suite, *names, budget=None):
    return [search for search in searches(suite, budget) if search.model.name in names]


def silent(line: str) -> None: ...


def without_times(tuning):
    return replace(tuning, trials=tuple(replace(trial, seconds=0.0) for trial in tuning.trials))


def test_every_setting_is_tried_on_validation_and_each_table_solved_once(suite, places, monkeypatch):
    solved, asked = [], []
    solve, measure = EASE.solve, trial_module.measure_one

    def counted(model, cases, *rest, **settings):
        asked.append(cases)
        return measure(model, cases, *rest, **settings)

    monkeypatch.setattr(EASE, "solve", lambda self, train: (solved.append(self.regularization), solve(self, train)))
    monkeypatch.setattr(trial_module, "measure_one", counted)
    plain, decayed = tune(of(suite, "ease", "ease-decay"), places, silent)
    assert [trial.settings["model.regularization"] for trial in plain.trials] == [10, 30, 100, 300, 1000, 3000]
    assert len(decayed.trials) == 15
    assert sorted(solved) == [10, 30, 100, 300, 1000, 3000]
    split = get_protocol("loo-full-masked@1").apply(load_dataset("synthetic"))
    assert len(asked) == 21
    assert all((cases.target.values == split.valid.target.values).all() for cases in asked)
    assert not (split.valid.target.values == split.test.target.values).all()
    assert decayed.best.value == max(trial.value for trial in decayed.trials)
    assert plain.method == "every setting"


def test_a_model_that_was_solved_for_another_decay_has_the_value_of_its_own(suite, places):
    (together,) = tune(of(suite, "ease-decay"), places, silent)
    settings = together.trials[7].settings
    (search,) = of(suite, "ease-decay")
    alone = trial_module.run_trial(search, settings, places, trial_module.Solver())
    assert alone.value == together.trials[7].value
    assert len({trial.value for trial in together.trials[6:9]}) > 1


def test_a_search_that_was_stopped_goes_on_and_a_finished_one_is_left_alone(suite, places, tmp_path):
    seen = []

    def stop_after_three(line):
        seen.append(line)
        if len(seen) == 3:
            raise KeyboardInterrupt

    asked = of(suite, "ease")
    with pytest.raises(KeyboardInterrupt):
        tune(asked, places, stop_after_three)
    assert finished(asked[0], places) is None
    (resumed,) = tune(asked, places, seen.append)
    assert len(seen) == 6
    (whole,) = tune(asked, Places(tmp_path / "other", tmp_path / "others"), silent)
    assert without_times(resumed) == without_times(whole)
    tune(asked, places, lambda line: pytest.fail("tried again"))


def test_a_larger_budget_or_another_configuration_is_another_search(suite, places, suite_file):
    tune(of(suite, "sequential-rules", budget=3), places, silent)
    assert finished(of(suite, "sequential-rules", budget=3)[0], places) is not None
    (more,) = tune(of(suite, "sequential-rules", budget=5), places, silent)
    assert len(more.trials) == 5
    text = SUITE.replace("search: sequential-rules}", "search: sequential-rules, overrides: [--model.window=4]}")
    other = load_suite(suite_file(text))
    assert finished(of(other, "sequential-rules", budget=5)[0], places) is None
    with pytest.raises(
        UsageError, match="sequential-rules was tuned on synthetic in another configuration: diffrec ben"
    ):
        tuned(other.only(["sequential-rules"]), places.tuning)


def test_a_search_over_other_settings_or_data_is_not_taken_for_this_one(suite, places):
    (markov,) = tune(of(suite, "markov"), places, silent)
    (search,) = of(suite, "markov")
    assert finished(search, places) is not None
    write_tuning(search.path(places), replace(markov, space={"model.normalisation": ["raw", "p"]}))
    with pytest.raises(UsageError, match="markov was tuned on synthetic over other settings than markov has: "):
        tuned(suite.only(["markov"]), places.tuning)
    write_tuning(search.path(places), replace(markov, dataset_sha256="0" * 64))
    assert finished(search, places) is None


def test_a_suite_takes_the_best_settings_and_says_how_many_were_tried(suite, places):
    small = suite.only(["popularity", "markov"])
    with pytest.raises(
        NotFoundError, match=r"markov is not tuned on synthetic.*: diffrec bench tune tiny --only markov"
    ):
        tuned(small, places.tuning)
    (markov,) = tune(of(suite, "markov"), places, silent)
    popularity, row = tuned(small, places.tuning).models
    best = max(markov.trials, key=lambda trial: trial.value)
    assert row.overrides_on("synthetic") == (f'--model.normalisation="{best.settings["model.normalisation"]}"',)
    assert (row.trials_on("synthetic"), popularity.trials_on("synthetic")) == (3, 0)


def test_a_protocol_that_validates_alike_takes_the_same_tuning(suite_file, places, monkeypatch):
    before = PROTOCOLS["loo-full-masked@1"]
    monkeypatch.setitem(PROTOCOLS, "loo-again@1", replace(before, id="loo-again@1", validated_as=before.id))
    again = load_suite(suite_file(SUITE.replace(before.id, "loo-again@1")))
    asked = of(again, "markov")
    (markov,) = tune(asked, places, silent)
    assert markov.protocol == before.id
    assert [path.relative_to(places.tuning).parts for path in places.tuning.rglob("*.json")] == [
        ("synthetic", before.id, "markov.json")
    ]
    assert tuned(again.only(["markov"]), places.tuning).models[0].trials_on("synthetic") == len(markov.trials)


def test_rows_without_settings_are_left_out_where_they_have_none(suite, places):
    tune(of(suite, "markov"), places, silent)
    twice = replace(suite, datasets=(*suite.datasets, replace(suite.datasets[0], name="another")))
    found = ready(twice.only(["popularity", "markov", "ease"]), places.tuning)
    cells = [(cell.dataset.name, cell.model.name) for cell in found.suite.cells()]
    assert cells == [("synthetic", "popularity"), ("synthetic", "markov"), ("another", "popularity")]
    assert list(found.without) == [("another", "markov"), ("synthetic", "ease"), ("another", "ease")]
    words = "not tuned: diffrec bench tune tiny --only markov --datasets another"
    assert str(found.without["another", "markov"]) == words
    assert [found.left_out(cell) is None for cell in twice.cells() if cell.model.name == "markov"] == [True, False]


def test_a_control_has_the_settings_of_its_row(suite_file, places):
    text = SUITE[: SUITE.index("  - {name: popularity")] + "  - {name: d, configs: [model/diffrec], search: diffrec"
    suite = load_suite(suite_file(text + ", controls: [one-step]}\n"))
    assert [search.model.name for search in searches(suite)] == ["d"]
    (search,) = searches(suite)
    settings = {"model.lr": 1e-4, "model.dims": [300], "model.num_train_timesteps": 5}
    keep_all = [Trial(settings, 0.5, 1.0)]
    finish(search, keep_all, places)
    row, twin = tuned(suite, places.tuning).models
    assert twin.overrides_on("synthetic") == (*row.overrides_on("synthetic"), "--model.num_inference_steps=1")
    assert row.overrides_on("synthetic") == (
        "--model.dims=[300]", "--model.lr=0.0001", "--model.num_train_timesteps=5",
    )  # fmt: skip


def test_where_every_trial_failed_nothing_is_written(suite, places, monkeypatch):
    def refuse(*_, **__):
        raise DiffrecError("too large\nand more")

    monkeypatch.setattr(trial_module, "measure_one", refuse)
    lines = []
    with pytest.raises(UsageError, match="no trial of markov on synthetic has a value; the first says: too large"):
        tune(of(suite, "markov"), places, lines.append)
    assert lines[0].startswith("synthetic loo-full-masked@1 markov [1/3]: normalisation=cos: too large (")
    assert not (places.tuning / "synthetic").exists()


def fake(settings):
    """Best at window 10, raw, decay .7."""
    value = settings["model.window"] / 10 - abs(settings["model.decay"] - 0.7)
    return Trial(dict(settings), value - (settings["model.normalisation"] != "raw"), 0.0)


def test_a_study_tries_different_settings_beginning_with_those_of_the_row(suite, tmp_path):
    (search,) = of(suite, "sequential-rules", budget=12)
    told = []
    trials = run_study(search, tmp_path, fake, lambda trial, so_far: told.append(len(so_far)))
    assert told == list(range(1, 13))
    settings = [json.dumps(trial.settings) for trial in trials]
    assert len(set(settings)) == 12
    assert trials[0].settings == {"model.window": 10, "model.normalisation": "raw", "model.decay": 0.5}
    assert [json.dumps(t.settings) for t in run_study(search, tmp_path / "again", fake, lambda *_: None)] == settings


def test_a_trial_that_was_killed_is_run_again_and_the_end_is_the_same(suite, tmp_path):
    (search,) = of(suite, "sequential-rules", budget=6)
    whole = run_study(search, tmp_path / "whole", fake, lambda *_: None)
    killed = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
from diffrec.bench.searches import searches
from diffrec.bench.study import run_study
from diffrec.bench.suite import load_suite
from diffrec.bench.tuning import Trial
(search,) = [s for s in searches(load_suite(Path(sys.argv[2])), 6) if s.model.name == "sequential-rules"]
calls = []
def run(settings):
    calls.append(settings)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    value = settings["model.window"] / 10 - abs(settings["model.decay"] - 0.7)
    return Trial(dict(settings), value - (settings["model.normalisation"] != "raw"), 0.0)
run_study(search, Path(sys.argv[3]), run, lambda *_: None)
"""
    words = [sys.executable, "-c", killed, __file__, str(tmp_path / "tiny.yaml"), str(tmp_path / "parts")]
    assert subprocess.run(words, capture_output=True, check=False).returncode == -9
    asked = []
    parts = run_study(search, tmp_path / "parts", lambda s: (asked.append(s), fake(s))[1], lambda *_: None)
    assert len(asked) == 4
    assert asked[0] == whole[2].settings
    assert len({json.dumps(trial.settings) for trial in parts}) == len(parts) == 6


def test_a_trial_that_fails_counts_and_says_why(suite, tmp_path):
    (search,) = of(suite, "sequential-rules", budget=3)
    trials = run_study(search, tmp_path, lambda s: Trial(dict(s), None, 1.0, "not finite"), lambda *_: None)
    assert [(trial.value, trial.error) for trial in trials] == [(None, "not finite")] * 3


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_settings_that_do_not_fit_into_memory_are_a_trial_without_a_value(error, suite, places, monkeypatch):
    def full(*_):
        raise error

    (search,) = of(suite, "sequential-rules", budget=3)
    solver = trial_module.Solver()
    monkeypatch.setattr(solver, "value", full)
    trial = trial_module.run_trial(search, {"model.window": 1}, places, solver)
    assert (trial.value, trial.error) == (None, str(error).partition("\n")[0] or "MemoryError")


def test_records_come_back_as_they_were_written(suite, places, tmp_path):
    (markov,) = tune(of(suite, "markov"), places, silent)
    write_tuning(tmp_path / "again.json", markov)
    assert read_tuning(tmp_path / "again.json") == markov


@pytest.mark.parametrize("path", sorted(shipped().rglob("*.json")), ids=lambda path: "/".join(path.parts[-3:]))
def test_shipped_records_are_complete(path):
    record = read_tuning(path)
    assert path.parts[-3:] == (record.dataset, record.protocol, f"{record.model}.json")
    assert len(record.trials) > 1
    assert record.best.value is not None
    assert "dirty" not in record.code_version
