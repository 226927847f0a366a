"""Workers: what they are given, what becomes of a cell whose worker dies, and that none outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest
import torch

from diffrec.bench.jobs import Processes
from diffrec.bench.lock import holding
from diffrec.bench.result import TIMINGS, read_result
from diffrec.bench.runner import Folders, run_suite
from diffrec.bench.schedule import cores
from diffrec.bench.suite import load_suite

# A worker that does what the name of its model says; what it has to tell comes back as an error.
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from diffrec.bench.jobs import Answer, serve

def work(order):
    name, here = order.task.cell.model.name, Path(order.results)
    print("this goes to the log of", name, flush=True)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "ended":
        sys.exit(3)
    if name.startswith("meets"):
        here.joinpath(name).touch()
        while len(list(here.glob("meets*"))) < 2:
            time.sleep(0.01)
    if name == "sleeps":
        here.joinpath("pid").write_text(str(os.getpid()))
        here.joinpath("pid").rename(here / "sleeping")
        time.sleep(60)
    told = {"threads": os.environ["OMP_NUM_THREADS"], "torch": "torch" in sys.modules}
    return Answer("failed", json.dumps(told))

sys.exit(serve(work))
"""
PARENT = """
import sys
from pathlib import Path
from diffrec.bench.jobs import Processes
from diffrec.bench.runner import Folders, run_suite
from diffrec.bench.suite import load_suite
folder = Path(sys.argv[1])
folders = Folders(folder / "results", folder / "runs")
run_suite(load_suite(folder / "tiny.yaml"), folders, executor=Processes(folders, 2, 1, [sys.executable, sys.argv[2]]))
"""


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path / "results", tmp_path / "runs")
    made.results.mkdir()
    return made


@pytest.fixture
def suite(suite_file, suite_text):
    """`suite("killed", "told")`: a suite of models with these names."""
    head = suite_text.partition("models:\n")[0] + "models:\n"

    def of(*names: str):
        return load_suite(
            suite_file(head + "".join(f"  - {{name: {n}, configs: [model/popularity]}}\n" for n in names))
        )

    return of


@pytest.fixture
def workers(folders, tmp_path):
    """Two at a time, with three threads each."""
    (tmp_path / "worker.py").write_text(WORKER)
    return Processes(folders, 2, 3, [sys.executable, str(tmp_path / "worker.py")])


def errors(outcomes):
    return {outcome.cell.model.name: outcome.error for outcome in outcomes}


def until(condition, seconds=120.0):
    """Wait for a true value, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_dead_worker_is_the_failure_of_its_cell_and_the_others_go_on(suite, workers, folders):
    outcomes = run_suite(suite("killed", "ended", "told"), folders, executor=workers)
    log = folders.runs / "tiny" / "synthetic" / "killed" / "seed0" / "log.txt"
    ended = str(log).replace("killed", "ended")
    assert errors(outcomes) == {
        "killed": f"its worker was ended by SIGKILL, as the system does where memory runs out; the log is {log}",
        "ended": f"its worker ended with code 3 and without an answer; the log is {ended}",
        "told": json.dumps({"threads": "3", "torch": False}),
    }
    assert log.read_text() == "this goes to the log of killed\n"


def test_so_many_run_at_a_time(suite, workers, folders):
    told = errors(run_suite(suite("meets-a", "meets-b"), folders, executor=workers))
    assert all(error.startswith('{"threads"') for error in told.values())


def test_what_another_command_is_at_comes_last_and_its_result_is_taken(suite, workers, folders):
    lines = []
    with holding(folders.lock(next(iter(suite("taken").cells())))) as mine:
        assert mine
        wanted = suite("taken", "told")
        words = {"executor": workers, "report": lines.append}
        thread = threading.Thread(target=run_suite, args=(wanted, folders), kwargs=words)
        thread.start()
        until(lambda: "told" in str(list(folders.runs.rglob("log.txt"))))
        until(lambda: any("is at it" in line for line in lines))  # its worker may start later than the other's
        assert not list(folders.runs.rglob("taken/*/log.txt"))
    thread.join()
    (waits,) = [line for line in lines if line.startswith(f"[1/2] synthetic taken seed 0: process {os.getpid()} on ")]
    assert waits.endswith(" is at it; its result is waited for")
    assert [line[:28] for line in lines[-2:]] == ["[2/2] synthetic told seed 0:", "[1/2] synthetic taken seed 0"]
    assert len(list(folders.runs.rglob("taken/*/log.txt"))) == 1


def test_ctrl_c_stops_the_workers_and_says_what_is_finished(suite, workers, folders):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started without one
    lines, sleeping = [], folders.results / "sleeping"
    killer = threading.Thread(target=lambda: until(sleeping.exists) and os.kill(os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite("sleeps", "told"), folders, executor=workers, report=lines.append)
    killer.join()
    assert lines[-1] == "stopped: 0 of 2 cells have a result; the same command goes on from here"
    until(lambda: not alive(int(sleeping.read_text())), seconds=10)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(suite, workers, folders, tmp_path):
    suite("sleeps", "told")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), str(tmp_path / "worker.py")])
    until((folders.results / "sleeping").exists)
    worker = int((folders.results / "sleeping").read_text())
    assert alive(worker)
    parent.kill()
    parent.wait()
    until(lambda: not alive(worker), seconds=10)


TRAINED = """
  - {name: sasrec, configs: [model/sasrec],
     overrides: [--model.embedding_size=8, --model.lr=1e-2, --trainer.max_epochs=40,
                 --trainer.callbacks.EarlyStopping.patience=40, --trainer.check_val_every_n_epoch=5]}
"""


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on_to_the_same_results(suite_file, suite_text, folders, tmp_path):
    """Parent and workers die while one cell is finished, one has trained for some epochs and one is anywhere."""
    path = suite_file(suite_text.replace(", seeds: [0, 1]", "") + TRAINED)
    names = ["markov", "item-knn", "sasrec"]
    suite = load_suite(path).only(names)
    whole = Folders(tmp_path / "whole", tmp_path / "whole-runs")
    torch.set_num_threads(max(1, cores() // 2))  # as a worker has them
    try:
        expected = {o.cell: o.result for o in run_suite(suite, whole)}
        run_suite(suite.only(["markov"]), folders)
    finally:
        torch.set_num_threads(1)
    finished = folders.results / "tiny" / "synthetic" / "markov" / "seed0.json"
    before = (finished.read_bytes(), finished.stat().st_mtime_ns)
    command = [sys.executable, "-m", "diffrec.cli.main", "bench", "run", str(path), "--only", *names, "--jobs", "2"]
    command += ["--results", str(folders.results), "--runs", str(folders.runs)]
    process = subprocess.Popen(command)
    until(lambda: list(folders.runs.rglob("last.ckpt")))
    process.kill()
    process.wait()
    assert not list(folders.results.rglob("sasrec/*.json"))
    assert subprocess.run(command, check=False).returncode == 0
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == before
    for cell, here in expected.items():
        there = asdict(read_result(folders.results / cell.path))
        assert {key for key, value in asdict(here).items() if there[key] != value} <= set(TIMINGS)
    (run,) = (folders.runs / "tiny" / "synthetic" / "sasrec" / "seed0").glob("version_*")
    assert len(list((run / "logs").glob("version_*"))) == 2
    assert not (folders.runs / "tiny" / "synthetic" / "markov" / "seed0" / "log.txt").exists()


@pytest.mark.slow
def test_the_number_of_threads_changes_no_list(suite_file, suite_text, tmp_path):
    """The last bits of sums over a batch, and so of trained weights, depend on it; ranks and metrics do not."""
    text = suite_text + TRAINED.replace("40", "3").replace("=5]", "=1]")
    suite = load_suite(suite_file(text)).only(["sasrec", "ease"])
    one = run_suite(suite, Folders(tmp_path / "one", tmp_path / "one-runs"))
    try:
        torch.set_num_threads(2)
        more = run_suite(suite, Folders(tmp_path / "more", tmp_path / "more-runs"))
    finally:
        torch.set_num_threads(1)
    for outcome, other in zip(one, more, strict=True):
        here, there = asdict(outcome.result), asdict(other.result)
        assert {key for key in here if here[key] != there[key]} <= {*TIMINGS, "threads", "weights_sha256"}
        assert (here["threads"], there["threads"]) == (1, 2)
