from __future__ import annotations

import json
from dataclasses import replace

import pytest

from diffrec.bench.result import read_results
from diffrec.cli import bench as bench_command
from diffrec.cli.main import main
from diffrec.errors import IntegrityError

SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - {name: markov, configs: [model/markov], seeds: [0, 1]}
"""


@pytest.fixture
def bench(tmp_path):
    """`bench("--only", "markov")`: run the tiny suite in tmp_path; the exit code."""
    (tmp_path / "tiny.yaml").write_text(SUITE)

    def run(*words: str, text: str = SUITE) -> int:
        (tmp_path / "tiny.yaml").write_text(text)
        places = ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
        return main(["bench", "run", str(tmp_path / "tiny.yaml"), *places, *words])

    return run


def seeds(folder):
    return [(result.model, result.seed) for result in read_results(folder / "results")]


def test_a_suite_runs_once_and_is_then_there(bench, tmp_path, capsys):
    assert bench("--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "synthetic popularity seed 0: would run, time unknown",
        "synthetic markov seed 0: would run, time unknown",
        "synthetic markov seed 1: would run, time unknown",
        "3 of 3 cells would run, time unknown (training and test, as stored results say)",
    ]
    assert not (tmp_path / "results").exists()
    assert bench("--only", "markov", "--seeds", "1") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == "[1/1] synthetic markov seed 1 ..."
    place = tmp_path / "results"
    shown = f"results in {place}; 'diffrec leaderboard --suite tiny --results {place}' shows them"
    assert out.splitlines()[-1] == shown
    assert seeds(tmp_path) == [("markov", 1)]
    assert bench("--dry-run") == 0
    assert "synthetic markov seed 1: has a result" in capsys.readouterr().out
    assert bench("--dry-run", text=SUITE.replace("version: 1", "version: 2")) == 0
    assert "synthetic markov seed 1: would run again, suite version changed, about " in capsys.readouterr().out
    assert bench("--quiet") == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert seeds(tmp_path) == [("markov", 0), ("markov", 1), ("popularity", 0)]


def test_a_failed_cell_makes_the_exit_code_1_and_the_others_go_on(bench, tmp_path, capsys):
    text = SUITE.replace("[model/popularity]", "[model/ease], overrides: [--model.regularization=0.0]")
    assert bench("--seeds", "0", text=text) == 1
    out, err = capsys.readouterr()
    assert "[1/2] synthetic popularity seed 0: FAILED: " in out
    assert "failed: synthetic popularity seed 0: " in err
    assert "regularization must be a finite number above 0, got 0.0" in err
    assert f"1 of 2 failed; tracebacks are in {tmp_path / 'runs' / 'failures.log'}" in err
    assert seeds(tmp_path) == [("markov", 0)]


def test_a_damaged_result_is_named_and_force_replaces_it(bench, tmp_path, capsys):
    bench("--only", "popularity")
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text())
    record["metrics"]["ndcg@10"] = 0.9
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert bench("--only", "popularity", "--dry-run") == 0
    assert f"{path} was changed after it was written" in capsys.readouterr().out
    assert bench("--only", "popularity") == 1
    assert f"{path} was changed after it was written" in capsys.readouterr().err
    assert json.loads(path.read_text()) == record
    assert bench("--only", "popularity", "--force") == 0
    assert seeds(tmp_path) == [("popularity", 0)]


@pytest.mark.parametrize(("failures", "code"), [(3, 0), (4, IntegrityError.exit_code)])
def test_results_that_another_command_replaces_meanwhile_are_compared_again(bench, failures, code, monkeypatch):
    compare, tries = bench_command.compare_all, []

    def compare_all(*words):
        tries.append(words)
        if len(tries) <= failures:
            raise IntegrityError("a.parquet was changed after it was written")
        return compare(*words)

    monkeypatch.setattr(bench_command, "compare_all", compare_all)
    monkeypatch.setattr(bench_command.time, "sleep", lambda pause: None)
    assert bench("--only", "popularity") == code
    assert len(tries) == 4


def test_a_dry_run_adds_up_what_stored_results_say(bench, tmp_path, capsys, monkeypatch):
    bench("--only", "markov", "--seeds", "1")
    capsys.readouterr()
    (result,) = read_results(tmp_path / "results")
    slow = replace(result, train_seconds=100.0, evaluate_seconds=20.0)
    monkeypatch.setattr("diffrec.bench.schedule.read_result", lambda path: slow)
    assert bench("--force", "--dry-run", "--jobs", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "synthetic popularity seed 0: would run, time unknown",
        "synthetic markov seed 0: would run, about 2 min",
        "synthetic markov seed 1: would run, about 2 min",
        "3 of 3 cells would run, about 4 min and 1 of unknown time; with 2 jobs about 2 min and 1 of unknown time "
        "(training and test, as stored results say)",
    ]
    assert bench("--only", "markov", "--seeds", "1", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 of 1 cells would run"


def test_ray_is_an_extra(bench, monkeypatch, capsys):
    monkeypatch.setattr("diffrec.bench.ray_jobs.find_spec", lambda name: None)
    assert bench("--ray") == 2
    assert capsys.readouterr().err == "error: --ray needs Ray, which is not installed: pip install 'diffrec[ray]'\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["quick", "--jobs", "0"], 2, "--jobs must be a whole number from 1, got 0"),
        (["quick", "--gpus-per-cell", "1"], 2, "--gpus-per-cell goes with --ray"),
        (["quick", "--ray", "--cpus-per-cell", "0"], 2, "--cpus-per-cell must be a whole number from 1, got 0"),
        (["quick", "--ray", "--gpus-per-cell", "-1"], 2, "--gpus-per-cell must be a finite number from 0, got -1.0"),
        (["quick", "--ray", "10.0.0.1:6379", "--jobs", "2"], 2, "--jobs is for this machine; the cluster at 10.0.0.1"),
        (["nothing-like-it"], 4, "no suite 'nothing-like-it'; there are: "),
        (["quikc"], 4, "did you mean 'quick'?"),
        (["missing.yaml"], 4, "no suite file missing.yaml"),
        (["quick", "--only", "dreamrek"], 4, "did you mean 'dreamrec'?"),
        (["quick", "--seeds", "7"], 2, "suite quick has no seed 7 for these models; there are: 0, 1, 2"),
        (["quick", "--seeds", "one"], 2, "invalid int value: 'one'"),
        ([], 2, "SUITE"),
    ],
)
def test_mistakes_are_told_apart(words, code, message, capsys):
    assert main(["bench", "run", *words]) == code
    assert message in capsys.readouterr().err


def test_a_misspelt_key_is_named_with_file_and_line(bench, tmp_path, capsys):
    assert bench(text=SUITE.replace("{name: popularity, configs:", "{name: popularity, config:")) == 2
    expected = f"error: {tmp_path / 'tiny.yaml'}:8: models[0] has no key 'config'; did you mean 'configs'?\n"
    assert capsys.readouterr().err == expected


TRAINED = (
    SUITE
    + """
  - {name: sasrec, configs: [model/sasrec], overrides: [--trainer.max_epochs=1], seeds: [3, 4]}
  - {name: sasrec-wide, configs: [model/sasrec], overrides: [--trainer.max_epochs=1], control_of: sasrec}
"""
)


def test_the_first_seed_of_a_trained_model_is_kept(bench, tmp_path, capsys):
    zoo = tmp_path / "zoo"
    assert bench(text=TRAINED) == 0
    assert bench("--zoo", str(zoo), text=TRAINED) == 0
    assert [path.name for path in zoo.iterdir()] == ["sasrec.synthetic"]
    stored = {result.seed: result for result in read_results(tmp_path / "results") if result.model == "sasrec"}
    metrics = json.loads((zoo / "sasrec.synthetic" / "metrics.json").read_text())
    assert metrics["metrics"] == stored[3].metrics
    capsys.readouterr()
    assert bench("--zoo", str(zoo), text=TRAINED) == 0
    assert "..." not in capsys.readouterr().out
