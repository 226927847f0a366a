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


def test_a_suite_that_is_not_tuned_says_how(command, tmp_path, capsys):
    assert command("run", "--results", str(tmp_path / "results")) != 0
    assert "markov is not tuned on synthetic" in capsys.readouterr().err
