"""Checkpoints of training: written whole or not at all, read as plain data."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins import CheckpointIO
from torch import nn

from diffrec.errors import DiffrecError, IntegrityError, NotFoundError, is_lack_of_memory, near_match
from diffrec.files import replacing

_FOLDER = 0x10  # of the attributes of a part of a zip file


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own writer stages elsewhere and then moves, which on a full disk loses the older file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write beside the target, then rename.

        DiffrecError where a weight is not finite or the disk refuses; the older file is then intact.
        """
        path = Path(path)
        if name := non_finite(checkpoint["state_dict"]):
            raise DiffrecError(
                f"{path} is not written: {name} holds numbers that are not finite after epoch "
                f"{checkpoint['epoch'] + 1} (step {checkpoint['global_step']})"
            )
        with replacing(path, lambda: _size(checkpoint)) as file:
            kept = _Remembering(file)
            try:
                torch.save(checkpoint, kept)
            except RuntimeError as error:  # what torch makes of a full disk
                raise kept.refusal or error from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """`read_checkpoint`; never anything but plain data, whatever `weights_only` asks for."""
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


class _Remembering(io.BytesIO):
    """Hands on to `file` what torch writes; refusal: the first error of the disk, for which torch raises another."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file, self.refusal = file, None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise


class _Counting(io.BytesIO):
    """A file that keeps nothing but how much was written."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes


def _size(checkpoint: Mapping[str, Any]) -> int:
    """The bytes of its file."""
    file = _Counting()
    torch.save(checkpoint, file)
    return file.size


def non_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, None where all numbers are finite."""
    floats = ((name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point())
    return next((name for name, tensor in floats if not torch.isfinite(tensor).all()), None)


def check_there(path: Path) -> None:
    """NotFoundError, with the nearest of its folder, where there is no such checkpoint."""
    if path.is_dir():
        inside = max(path.glob("**/last.ckpt"), key=lambda file: file.stat().st_mtime, default=None)
        raise NotFoundError(f"{path} is a folder, no checkpoint" + (f"; it has {inside}" if inside else ""))
    if not path.is_file():
        near = near_match(path.name, [other.name for other in path.parent.glob("*.ckpt")])
        raise NotFoundError(f"no checkpoint {path}{near}")


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, checked by the CRC-32 of every part.

    Raises NotFoundError, or IntegrityError for a damaged file and for anything but plain data.
    """
    check_there(path)
    with path.open("rb") as file:
        try:
            _check_sums(file)
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:  # torch and zipfile fail on what they do not expect in any way
            if is_lack_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise IntegrityError(f"{path} is damaged or no checkpoint of diffrec ({reason})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise IntegrityError(f"{path} is no checkpoint of diffrec: it holds no state_dict")
    return checkpoint


def _check_sums(file: BinaryIO) -> None:
    """BadZipFile where a part is not as torch wrote it; torch does not compare the sums that it writes.

    Of a part marked as a folder torch reads nothing, and returns whatever the memory holds.
    """
    with zipfile.ZipFile(file) as archive:
        folders = (part.filename for part in archive.infolist() if part.external_attr & _FOLDER)
        if wrong := archive.testzip() or next(folders, None):
            raise zipfile.BadZipFile(f"{wrong} is not as it was written")
    file.seek(0)


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into `model`; IntegrityError where they are of another model."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise IntegrityError(f"{path} does not belong to this {type(model).__name__}: {reason}") from None
