"""Cells on a Ray cluster of this machine: each result once, though a worker is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffrec.bench.result import read_results

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
TWELVE = """
  - {name: popularity, configs: [model/popularity], seeds: [0, 1, 2]}
  - {name: markov, configs: [model/markov], seeds: [0, 1, 2]}
  - {name: item-knn, configs: [model/item-knn], seeds: [0, 1, 2]}
  - {name: ease, configs: [model/ease], seeds: [0, 1, 2]}
"""


def first_worker(runs) -> int:
    """The process whose cell has begun first, as its log says."""
    for _ in range(3000):
        for log in runs.rglob("log.txt"):
            if found := re.match(r"process (\d+) on ", log.read_text()):
                return int(found[1])
        time.sleep(0.02)
    raise AssertionError("no worker has begun a cell")


def listening(process: int) -> set[str]:
    """Addresses, as the kernel writes them, where a process and those that it has started wait for connections."""
    stats = [(int(path.parent.name), path.read_text()) for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {pid: int(stat.rpartition(")")[2].split()[1]) for pid, stat in stats}
    family = {pid for pid in parents if process in ancestors(pid, parents)}
    sockets = {os.readlink(fd) for pid in family for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    found = {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
    assert found
    return found


def ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    """A process and those above it."""
    return {pid} if parents.get(pid, 0) == 0 else {pid} | ancestors(parents[pid], parents)


@pytest.mark.slow
def test_every_cell_has_one_result_though_a_worker_is_killed(suite_file, suite_text, tmp_path):
    path = suite_file(suite_text.partition("models:\n")[0] + "models:" + TWELVE)
    command = [sys.executable, "-m", "diffrec.cli.main", "bench", "run", str(path), "--ray", "--jobs", "2"]
    command += ["--cpus-per-cell", "1", "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = first_worker(tmp_path / "runs")
    if sys.platform == "linux":
        assert listening(process.pid) <= LOOPBACK
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "Ray cluster of 2 CPUs and " in out
    results = read_results(tmp_path / "results")
    assert len({(r.model, r.seed) for r in results}) == len(results) == 12
    assert sorted(re.findall(r"^\[\d+/12\] (.*): ndcg@10 \.\d+, trained", out, re.MULTILINE)) == sorted(
        f"synthetic {r.model} seed {r.seed}" for r in results
    )
    begun = [log.read_text().count("process ") for log in (tmp_path / "runs").rglob("log.txt")]
    assert sorted(begun) == [1] * 11 + [2]
    assert {r.threads for r in results} == {1}
