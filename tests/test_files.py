"""Files and folders appear whole or not at all, and nothing else stays behind."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffrec import files
from diffrec.errors import DiffrecError
from diffrec.files import replacing, sync_folder, write_file, write_folder


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "deep" / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, b"old")
    monkeypatch.setattr(os, step, full)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=4_096))
    reason = (
        r"file could not be written \(No space left on device\); needed: 3 bytes; free: 4,096 bytes; what was there"
    )
    with pytest.raises(DiffrecError, match=reason):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_finds_no_room_says_how_much_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffrecError, match=r"y could not be written .* needed: 3 bytes; free: [\d,]+ bytes; what was"):
        write_folder(tmp_path / "x" / "y", {"a": b"1", "b": b"23"})


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_writer_comes_through(failure, tmp_path):
    path = tmp_path / "file"

    def write():
        with replacing(path) as file:
            file.write(b"half")
            raise failure

    with pytest.raises(failure):
        write()
    assert names(tmp_path) == []


def test_a_link_in_the_place_of_what_is_being_written_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "a" * 2 * size)
    files._beside(tmp_path / "file").symlink_to(victim)
    with pytest.raises(DiffrecError, match=r"file could not be written \(File exists\)"):
        write_file(tmp_path / "file", b"mine")
    assert victim.read_bytes() == b"precious"


def test_threads_write_one_file_whole(tmp_path):
    contents = [bytes([65 + number]) * 20_000 for number in range(3)]

    def write(content):
        for _ in range(30):
            write_file(tmp_path / "file", content)
            assert (tmp_path / "file").read_bytes() in contents

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(write, contents))
    assert names(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiffrecError, match=r"file/below could not be written \((Not a directory|File exists)\)"):
        write_file(tmp_path / "file" / "below", b"")


def test_a_folder_that_shall_be_kept_is_kept_even_if_it_appears_late(tmp_path):
    folder, contents = tmp_path / "x", {"a": b"1", "b": b"2"}
    write_folder(folder, contents)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    write_folder(folder, {"a": b"3"}, keep=Path.exists)
    assert (folder / "a").read_bytes() == b"1"

    def somebody_faster(copy):
        (tmp_path / "y").mkdir()
        (tmp_path / "y" / "a").touch()

    write_folder(tmp_path / "y", contents, check=somebody_faster, keep=Path.exists)
    assert names(tmp_path / "y") == ["a"]
    write_folder(folder, {"a": b"3"})
    assert names(folder) == ["a"]
    assert sorted(names(tmp_path)) == ["x", "y"]


def test_a_file_system_that_cannot_sync_folders_has_refused_nothing(tmp_path, monkeypatch):
    real = os.fsync

    def some_network(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", some_network)
    write_file(tmp_path / "file", b"there")
    write_folder(tmp_path / "folder", {"a": b"1"})
    assert (tmp_path / "file").read_bytes() == b"there"
    assert names(tmp_path / "folder") == ["a"]


def test_where_folders_cannot_be_opened_they_are_not_synced(tmp_path, monkeypatch):
    real = os.open

    def windows(path, *args, **kwargs):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    synced = []
    monkeypatch.setattr(files.os, "open", windows)
    monkeypatch.setattr(files.os, "fsync", synced.append)
    sync_folder(tmp_path)
    assert synced == []
    write_file(tmp_path / "file", b"there")
    assert (tmp_path / "file").read_bytes() == b"there"


KILLED = """
import os, signal, sys
from pathlib import Path
from diffrec import files
if sys.argv[1] == "file":
    with files.replacing(Path(sys.argv[2]) / "x") as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
real, calls, last = Path.rename, [], int(sys.argv[1])
def rename(self, target):
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(target)
    return real(self, target)
Path.rename = rename
files._swap = lambda *names: False
files.write_folder(Path(sys.argv[2]) / "x", {"new": b"n"})
"""
SWAPS = """
import sys
from pathlib import Path
from diffrec.files import write_folder
while True:
    for name in ("a", "b"):
        write_folder(Path(sys.argv[1]), {name: b""})
        print(name, flush=True)
"""


def killed(step, folder):
    process = subprocess.run([sys.executable, "-c", KILLED, step, folder], check=False)
    assert process.returncode == -signal.SIGKILL
    assert [name for name in names(folder) if name != "x"]


def test_a_killed_write_leaves_its_remains_to_the_next(tmp_path):
    killed("file", tmp_path)
    killed("file", tmp_path)
    (tmp_path / ".x.y.1-aaaaaaaa.part").touch()  # of a file `x.y`
    write_file(tmp_path / "x", b"whole")
    assert sorted(names(tmp_path)) == [".x.y.1-aaaaaaaa.part", "x"]


@pytest.mark.parametrize("renamed", ["0", "1"])
def test_a_folder_that_a_killed_write_had_moved_away_comes_back(renamed, tmp_path):
    write_folder(tmp_path / "x", {"old": b"o"})
    killed(renamed, tmp_path)
    assert (tmp_path / "x").exists() == (renamed == "0")
    write_folder(tmp_path / "x", {"newer": b""}, keep=Path.exists)
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["old"]


@pytest.mark.parametrize("place", ["", "00000000-"])
def test_remains_of_elsewhere_are_left_for_a_day(place, tmp_path):
    left = tmp_path / f".x.{place}999999999-aaaaaaaa.part"
    left.touch()
    write_file(tmp_path / "x", b"")
    assert left.exists()
    os.utime(left, (0, 0))
    write_file(tmp_path / "x", b"")
    assert names(tmp_path) == ["x"]


def test_those_who_still_write_keep_what_they_write(tmp_path):
    with replacing(tmp_path / "x") as first:
        first.write(b"first")
        write_file(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"


def test_a_kill_at_any_time_leaves_a_whole_folder(tmp_path):
    folder, other = tmp_path / "x", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    if not files._swap(folder, other):
        pytest.skip("this system or its disk cannot exchange two names at once")
    folder.rmdir()
    other.rmdir()
    for wait in range(10):
        process = subprocess.Popen([sys.executable, "-c", SWAPS, folder], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(2_000 * wait):  # somebody who reads meets a whole folder each time
            assert folder.exists()
        process.kill()
        process.communicate()
        assert names(folder) in (["a"], ["b"])
    write_folder(folder, {"c": b""})
    assert names(tmp_path) == ["x"]
