from __future__ import annotations

import pytest

from diffrec.bench.schedule import Board, Costs, Estimate, Outcome, Task, estimate
from diffrec.bench.suite import load_suite


@pytest.fixture
def cells(suite_file):
    """popularity, markov twice, item-knn, ease."""
    return list(load_suite(suite_file()).cells())


@pytest.mark.parametrize(
    ("seconds", "lanes", "text"),
    [
        ([30.0, 90.0], 1, "about 2 min"),
        ([30.0, 30.0], 2, "about 30 s"),
        ([30.0], 2, "about 30 s"),
        ([30.0, None], 2, "about 15 s and 1 of unknown time"),
        ([None], 1, "time unknown"),
    ],
)
def test_an_estimate_says_what_it_does_not_know(seconds, lanes, text):
    assert estimate(seconds).over(lanes) == text


def test_nothing_costs_nothing():
    assert estimate([]) == Estimate(0.0, 0, 0)


def test_the_rest_is_known_from_this_run_and_unknown_without_any(cells, tmp_path, result, monkeypatch):
    clock, lines = iter([0.0, 40.0, 40.0, 40.0]), []
    monkeypatch.setattr("diffrec.bench.schedule.time.monotonic", lambda: next(clock))
    board = Board(dict.fromkeys(cells, ""), [Task(cell, None) for cell in cells[1:]], Costs(tmp_path), lines.append)
    board.ends(Outcome(cells[0], result(), reused=True))
    board.starts(cells[1])
    board.ends(Outcome(cells[1], result("markov")), lanes=2)
    board.ends(Outcome(cells[3], None, error="no"), lanes=2)
    board.ends(Outcome(cells[2], result("markov", seed=1)), lanes=2)
    board.ends(Outcome(cells[4], result("ease")), lanes=2)
    assert lines == [
        "[1/5] synthetic popularity seed 0: ndcg@10 .0500, result was there",
        "[2/5] synthetic markov seed 0 ...",
        "[2/5] synthetic markov seed 0: ndcg@10 .0500, trained in 0.5 s; "
        "3 left, about 20 s and 2 of unknown time",
        "[4/5] synthetic item-knn seed 0: FAILED: no; 2 left, about 20 s and 1 of unknown time",
        "[3/5] synthetic markov seed 1: ndcg@10 .0500, trained in 0.5 s; 1 left, time unknown",
        "[5/5] synthetic ease seed 0: ndcg@10 .0500, trained in 0.5 s",
    ]  # fmt: skip


def test_what_is_not_known_here_is_known_from_the_records_that_ship(cells, tmp_path, result, put_result, monkeypatch):
    shipped, here = tmp_path / "benchmarks" / "results", tmp_path / "here"
    monkeypatch.setattr("diffrec.bench.schedule.resource_dir", lambda name: tmp_path / name)
    assert Costs(here).of(cells[0]) is None
    for folder, seconds in ((shipped, 7.0), (here, 3.0)):
        put_result(result(dataset="synthetic", train_seconds=seconds, evaluate_seconds=0.5), folder)
        assert Costs(here).of(cells[0]) == seconds + 0.5
