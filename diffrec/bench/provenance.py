"""What a number rests on besides the model: code, packages, data, machine."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffrec
from diffrec.bench.result import sha256_of
from diffrec.data.dataset import Dataset
from diffrec.data.splits import Split
from diffrec.nn.artefacts import hash_of_weights
from diffrec.recommender import Recommender

_PACKAGES = ("torch", "numpy", "scipy", "diffusers", "pytorch-lightning")
_CODE = ("diffrec", "configs", "benchmarks/suites", "pyproject.toml")


def code_version() -> str:
    """`0.1.0`; in a checkout `0.1.0+g<revision>`, with `.dirty` where code or configurations differ from it.

    `0.1.0+unknown` in a checkout that git is not there for, or refuses to read.
    """
    root = Path(diffrec.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return diffrec.__version__
    try:
        revision = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = ".dirty" if _git(root, "status", "--porcelain", "--", *_CODE) else ""
    except (OSError, subprocess.CalledProcessError):
        return f"{diffrec.__version__}+unknown"
    return f"{diffrec.__version__}+g{revision}{dirty}"


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def setup(device: torch.device) -> dict[str, object]:
    """All of this machine that the last bits of a number depend on, by name; equal where numbers come out equal."""
    machine = {"device": device_name(device), "processor": processor_name(), "threads": torch.get_num_threads()}
    return {**machine, **packages()}


def config_sha256(config: dict[str, Any]) -> str:
    """Hash of everything but the seeds, so that the runs of a row share it."""
    data = {key: value for key, value in config["data"].items() if key != "seed"}
    return sha256_of({**{key: value for key, value in config.items() if key != "seed_everything"}, "data": data})


def weights_sha256(model: Recommender) -> str:
    """Hash of the names, types, shapes and numbers of everything a model has learnt."""
    return hash_of_weights(model.state_dict())


def deviations(model: type[Recommender]) -> tuple[str, ...]:
    """What the file of a model lists below "Differs from the original in:"."""
    text = sys.modules[model.__module__].__doc__ or ""
    _, _, listed = text.partition("Differs from the original in:\n")
    points = re.split(r"^- ", listed.partition("\n\n")[0], flags=re.MULTILINE)[1:]
    return tuple(" ".join(point.split()).rstrip(";.") for point in points)


def split_counts(dataset: Dataset, split: Split) -> dict[str, int]:
    """Sizes of the dataset and its split; cold_test_targets: those that no training sequence holds.

    unavailable_test_targets: those that are no candidates, where the protocol has such items.
    """
    counts = {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": dataset.num_interactions,
        "train_sequences": len(split.train),
        "train_interactions": len(split.train.values),
        "valid_users": len(split.valid),
        "test_users": len(split.test),
        "test_targets": len(split.test.target.values),
        "cold_test_targets": int((~np.isin(split.test.target.values, split.train.values)).sum()),
    }
    if len(split.test.unavailable):
        counts["unavailable_test_targets"] = int(np.isin(split.test.target.values, split.test.unavailable).sum())
    return counts


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor_name() -> str:
    """The model of the CPU, empty where the system does not tell."""
    try:
        information = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", information, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor()


class PeakMemory:
    """The most memory in use since this object was made: of the accelerator if `device` is one, else of the process.

    Where the system cannot start the count afresh (other than Linux), it is the peak since the process began;
    0 where it does not count (Windows).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resettable = Path("/proc/self/clear_refs").exists()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif self.resettable:
            Path("/proc/self/clear_refs").write_text("5")

    def mebibytes(self) -> float:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.resettable:
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) / 1024
        try:
            import resource
        except ImportError:
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 1024
