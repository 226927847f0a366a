from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from diffrec.bench.lock import held, holding, owner

HOLD = """
import sys, time
from pathlib import Path
from diffrec.bench.lock import holding
with holding(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from diffrec.bench.lock import holding
lock, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(100):
    with holding(lock, wait=True) as mine:
        assert mine
        counter.write_text(str(int(counter.read_text()) + 1))
"""


@pytest.fixture
def start():
    """`start(code, *arguments)`: a process that runs the code; it ends with the test."""
    processes = []

    def run(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_a_lock_is_held_as_long_as_its_owner_lives(tmp_path, start):
    path = tmp_path / "folder" / ".lock"
    process = start(HOLD, path)
    assert process.stdout.readline() == "True\n"
    with holding(path) as mine:
        assert not mine
    assert held(path)
    assert owner(path).startswith(f"process {process.pid} on ")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    assert not held(path)
    with holding(path) as mine:
        assert mine
        assert held(path)
    assert list(path.parent.iterdir()) == []
    assert (held(path), owner(path)) == (False, "another process")


def test_one_at_a_time_though_the_file_comes_and_goes(tmp_path, start):
    (tmp_path / "counter").write_text("0")
    processes = [start(COUNT, tmp_path / ".lock", tmp_path / "counter") for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "400"
