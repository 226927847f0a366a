"""`diffrec bench tune` and a suite that takes what it found."""

from __future__ import annotations

import pytest

from diffrec.bench.result import read_results
from diffrec.cli.main import main

SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - {name: markov, configs: [model/markov], search: markov}
  - {name: sequential-rules, configs: [model/sequential-rules], search: sequential-rules}
"""


@pytest.fixture
def command(tmp_path):
    """`command("tune", "--jobs", "2")`: on the tiny suite; the exit code."""
    (tmp_path / "tiny.yaml").write_text(SUITE)

    def call(action: str, *words: str) -> int:
        places = ["--tuning", str(tmp_path / "tuning"), "--runs", str(tmp_path / "runs")]
        return main(["bench", action, str(tmp_path / "tiny.yaml"), *places, *words])

    return call


def test_two_processes_share_the_searches_and_the_suite_takes_their_best(command, tmp_path, capfd):
    assert command("tune", "--dry-run", "--trials", "4") == 0
    assert capfd.readouterr().out.splitlines() == [
        "synthetic loo-full-masked@1 markov: 3 settings, every setting",
        "synthetic loo-full-masked@1 sequential-rules: 4 settings, tpe",
    ]
    assert command("tune", "--jobs", "2", "--trials", "4") == 0
    lines = capfd.readouterr().out.splitlines()
    tried = [line.partition(": ")[2].rpartition(":")[0] for line in lines if "/4]" in line]
    assert len(tried) == len(set(tried)) == 4
    assert sum("/3]" in line for line in lines) == 3
    assert any(line.startswith("synthetic loo-full-masked@1 markov: ndcg@10 0.") for line in lines)
    assert command("tune", "--dry-run", "--trials", "4") == 0
    assert {line.rpartition(": ")[2] for line in capfd.readouterr().out.splitlines()} == {"done"}
    assert command("run", "--results", str(tmp_path / "results"), "--quiet") == 0
    trials = {result.model: result.tuning_trials for result in read_results(tmp_path / "results")}
    assert trials == {"popularity": 0, "markov": 3, "sequential-rules": 4}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "markof"], "no model 'markof'; there are: markov, sequential-rules; did you mean 'markov'"),
        (["--only", "popularity"], "no model 'popularity'"),
        (["--datasets", "syntetic"], "did you mean 'synthetic'"),
        (["--trials", "0"], "--trials must be a whole number from 1, got 0"),
        (["--jobs", "0"], "--jobs must be a whole number from 1, got 0"),
    ],
)
def test_what_there_is_not(command, capsys, words, message):
    assert command("tune", *words) != 0
    assert message in capsys.readouterr().err


def test_rows_that_are_not_tuned_are_left_out_and_say_how(command, tmp_path, capsys):
    results = ["--results", str(tmp_path / "results")]
    assert command("tune", "--only", "markov") == 0
    capsys.readouterr()
    tune = f"diffrec bench tune {tmp_path}/tiny.yaml --only sequential-rules --datasets synthetic"
    assert command("run", "--dry-run", *results) == 0
    assert capsys.readouterr().out.splitlines() == [
        "synthetic popularity seed 0: would run, time unknown",
        "synthetic markov seed 0: would run, time unknown",
        f"synthetic sequential-rules seed 0: not tuned: {tune}",
        "2 of 3 cells would run, time unknown (training and test, as stored results say)",
    ]
    assert command("run", *results) == 4
    out, err = capsys.readouterr()
    assert err == f"left out: synthetic sequential-rules, not tuned: {tune}\n"
    assert "[2/2] synthetic markov seed 0: ndcg@10 " in out
    assert [result.model for result in read_results(tmp_path / "results")] == ["markov", "popularity"]


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_row_that_is_asked_for_and_not_tuned_is_an_error(words, command, tmp_path, capsys):
    assert command("run", "--only", "markov", "--results", str(tmp_path / "results"), *words) == 4
    assert "error: markov is not tuned on synthetic (" in capsys.readouterr().err


def test_a_cell_that_failed_outweighs_one_that_was_left_out(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffrec.bench.runner.run_cell", lambda *_: 1 / 0)
    assert command("run", "--results", str(tmp_path / "results")) == 1
    err = capsys.readouterr().err
    assert "1 of 1 failed" in err
    assert "left out: synthetic markov, not tuned: " in err
