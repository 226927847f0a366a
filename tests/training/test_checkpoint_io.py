"""Checkpoints: whole or not at all, and never anything but plain data."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from diffrec.errors import DiffrecError, IntegrityError, NotFoundError
from diffrec.training.checkpoint_io import AtomicCheckpointIO, load_weights, read_checkpoint

OLD = {"state_dict": {"w": torch.arange(4.0)}, "epoch": 1, "global_step": 4}
NEW = {"state_dict": {"w": torch.ones(4)}, "epoch": 2, "global_step": 8}


class Touch:
    """Pickles to a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    found = AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert found["epoch"] == 2
    assert torch.equal(found["state_dict"]["w"], torch.ones(4))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("step", ["save", "fsync", "replace"])
def test_a_failed_write_leaves_the_older_file(step, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refusals = iter([full])

    def half(checkpoint, file):
        file.write(b"half of it")
        next(refusals, len)(b"")

    if step == "save":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(DiffrecError, match=r"last\.ckpt could not be written \(No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


FULL = """
import resource, sys, torch
from pathlib import Path
from diffrec.errors import DiffrecError
from diffrec.training.checkpoint_io import AtomicCheckpointIO
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
weights = {"w": torch.arange(200_000.0), "v": torch.zeros(3)}
try:
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, "epoch": 2, "global_step": 8}, Path(sys.argv[1]))
except DiffrecError as error:
    print(error)
"""


def test_a_file_that_finds_no_room_says_how_much_it_needs(tmp_path):
    path, larger = tmp_path / "last.ckpt", tmp_path / "elsewhere" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    before = path.read_bytes()
    weights = {"w": torch.arange(200_000.0), "v": torch.zeros(3)}
    AtomicCheckpointIO().save_checkpoint({**NEW, "state_dict": weights}, larger)
    told = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True).stdout
    assert told == (
        f"{path} could not be written (File too large); needed: {larger.stat().st_size:,} bytes; "
        "what was there is unchanged\n"
    )
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir() if left.is_file()] == ["last.ckpt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_never_written(value, tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    broken = {**NEW, "state_dict": {"steps": torch.arange(3), "w": torch.tensor([1.0, value])}}
    with pytest.raises(
        DiffrecError, match=r"last\.ckpt is not written: w holds .* not finite after epoch 3 \(step 8\)"
    ):
        AtomicCheckpointIO().save_checkpoint(broken, path)
    assert read_checkpoint(path)["epoch"] == 1


def test_a_killed_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def killed(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert read_checkpoint(path)["epoch"] == 1


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    torch.save({"state_dict": {}, "x": Touch(marker)}, tmp_path / "torch.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Touch(marker)))
    for name in ("torch.ckpt", "pickle.ckpt"):
        with pytest.raises(IntegrityError, match=name):
            AtomicCheckpointIO().load_checkpoint(tmp_path / name, weights_only=False)
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "no weights"])
def test_damaged_files_are_integrity_errors(damage, tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    whole = path.read_bytes()
    if damage == "list":
        torch.save([1], path)
    elif damage == "no weights":
        torch.save({"epoch": 1}, path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello world" * 50}[damage])
    with pytest.raises(IntegrityError, match=r"last\.ckpt"):
        read_checkpoint(path)


def test_no_flipped_bit_is_read_as_other_weights(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, 8 * len(whole), 31):  # coprime to 8: every bit of a byte has its turn
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_checkpoint(path)
        except IntegrityError:
            refused += 1
        else:
            assert found["epoch"] == 1
            assert torch.equal(found["state_dict"]["w"], torch.arange(4.0))
    assert refused > 100


def test_a_part_marked_as_a_folder_is_not_read_from_memory(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = next(part for part in archive.infolist() if part.filename.endswith("/data/0"))
        directory = archive.start_dir
    attributes = content.index(part.filename.encode(), directory) - 8  # 46 bytes before the name, these from 38
    content[attributes] |= 0x10
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"data/0 is not as it was written"):
        read_checkpoint(path)


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(OLD, path)

    def no_room(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", no_room)
    with pytest.raises(RuntimeError, match="can't allocate"):
        read_checkpoint(path)


def test_a_missing_checkpoint_names_the_near_one(tmp_path):
    AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "best.ckpt")
    with pytest.raises(NotFoundError, match=r"did you mean 'best\.ckpt'"):
        read_checkpoint(tmp_path / "bst.ckpt")


def test_weights_of_another_model_are_refused(tmp_path):
    with pytest.raises(IntegrityError, match="does not belong to this Linear"):
        load_weights(nn.Linear(2, 2), {"state_dict": nn.Linear(3, 2).state_dict()}, tmp_path / "x.ckpt")
