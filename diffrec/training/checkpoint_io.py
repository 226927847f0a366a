"""Checkpoints of training: written whole or not at all, read as plain data."""

from __future__ import annotations

import os
import pickle  # only for the name of the error that torch raises on a damaged file
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO
from torch import nn

from diffrec.errors import DiffrecError, IntegrityError, NotFoundError, near_match

_DAMAGED = (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own writer stages elsewhere and then moves, which on a full disk loses the older file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write beside the target, then rename; DiffrecError where the disk refuses, the older file intact."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
            raise DiffrecError(f"{path} could not be written ({reason}); what was there is unchanged") from error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """`read_checkpoint`; never anything but plain data, whatever `weights_only` asks for."""
        return read_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint. Raises NotFoundError, or IntegrityError for anything but plain data."""
    if not path.is_file():
        near = near_match(path.name, [other.name for other in path.parent.glob("*.ckpt")])
        raise NotFoundError(f"no checkpoint {path}{near}")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0]
        raise IntegrityError(f"{path} is damaged or no checkpoint of diffrec ({reason})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise IntegrityError(f"{path} is no checkpoint of diffrec: it holds no state_dict")
    return checkpoint


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into `model`; IntegrityError where they are of another model."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise IntegrityError(f"{path} does not belong to this {type(model).__name__}: {reason}") from None


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
