"""Leases: one owner at a time on file systems whose locks cannot be trusted, and no lease without an owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from diffrec.processes import place
from diffrec.zoo import lease as leases
from diffrec.zoo.lease import LeaseLost, lease, leased

COUNT = """
import sys
from pathlib import Path
from diffrec.zoo.lease import lease
path, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(50):
    with lease(path, poll=0.001):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from diffrec.zoo.lease import lease
with lease(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""
TAKE = """
import sys
from pathlib import Path
from diffrec.zoo.lease import lease, leased
there = leased(Path(sys.argv[1]))
with lease(Path(sys.argv[1]), stale=1000):
    print(there, "mine")
"""


def test_one_at_a_time(tmp_path):
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", COUNT, tmp_path / "x.lease", tmp_path / "counter"]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_a_killed_owner_on_this_machine_is_seen_at_once(tmp_path):
    path, told = tmp_path / "folder" / "x.lease", []
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    assert leased(path)
    assert leases._owner(path.read_bytes()).startswith(f"process {process.pid} on ")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.exists()
    assert not leased(path)
    start = time.monotonic()
    with lease(path, waiting=told.append):
        assert leased(path)
    assert time.monotonic() - start < 5
    assert told == []
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"t 17 elsewhere/1 3\n", b"", b"\xff" * 2000, b"a b c d e f"])
def test_an_owner_elsewhere_that_stays_silent_is_gone(tmp_path, content):
    path, told = tmp_path / "x.lease", []
    path.write_bytes(content)
    start = time.monotonic()
    with lease(path, stale=0.2, poll=0.01, waiting=told.append) as mine:
        waited = time.monotonic() - start
        assert leases._token(path.read_bytes()) == mine.token
    assert 0.2 < waited < 2
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["dangling link", "link to itself", "link to a file", "pipe", "folder"])
def test_what_is_no_file_is_nobodys_lease(tmp_path, kind):
    path, victim = tmp_path / "x.lease", tmp_path / "victim"
    victim.write_bytes(b"t 17 elsewhere/1 0\n")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        (path / "below").mkdir(parents=True)
    else:
        path.symlink_to({"dangling link": tmp_path / "nothing", "link to itself": path, "link to a file": victim}[kind])
    taken = [sys.executable, "-c", TAKE, path]
    assert subprocess.run(taken, timeout=60, capture_output=True, text=True, check=True).stdout == "False mine\n"
    assert [left.name for left in tmp_path.iterdir()] == ["victim"]


def test_an_owner_elsewhere_that_renews_keeps_it(tmp_path, monkeypatch):
    path = tmp_path / "x.lease"
    path.write_bytes(b"t 17 elsewhere/1 0\n")
    looks = []

    def renew(seconds):
        looks.append(seconds)
        path.write_bytes(b"t 17 elsewhere/1 %d\n" % len(looks)) if len(looks) < 60 else path.unlink(missing_ok=True)
        real_sleep(0.01)

    real_sleep = time.sleep
    monkeypatch.setattr(leases.time, "sleep", renew)
    with lease(path, stale=0.3):
        assert len(looks) == 60  # 0.6 seconds, twice as long as silence would have been borne


def test_an_owner_that_slept_too_long_learns_it(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.0)
    path = tmp_path / "x.lease"
    with lease(path) as first:
        first.renew()
        assert path.read_bytes() == first.content()
        path.unlink()
        with lease(path) as second:
            with pytest.raises(LeaseLost):
                first.renew()
            second.renew()
            assert leases._token(path.read_bytes()) == second.token
        with pytest.raises(LeaseLost):
            first.renew()
    assert list(tmp_path.iterdir()) == []


def test_giving_back_leaves_the_lease_of_another(tmp_path):
    path = tmp_path / "x.lease"
    with lease(path):
        path.write_bytes(b"other 17 elsewhere/1 0\n")
    assert path.exists()


def test_a_lease_of_another_container_is_not_judged_by_its_process_number(tmp_path):
    path = tmp_path / "x.lease"
    host = place().split("/")[0]
    path.write_text(f"t 999999999 {host}/1234 0\n")
    assert leased(path)
    path.write_text(f"t 999999999 {place()} 0\n")
    assert not leased(path)
