"""config.json and metrics.json of an entry as records. No torch here, and nothing is imported by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffrec.errors import IntegrityError
from diffrec.strict_json import from_json, numbers, record, short, to_json
from diffrec.zoo.entry import SCHEMA_VERSION, check_version

CLASS_PATH = re.compile(r"(diffrec\.models|diffrec\.baselines)\.([A-Z][A-Za-z0-9]{0,63})", re.ASCII)
_NONE = type(None)


@dataclass(frozen=True)
class TrainedOn:
    """The dataset of an entry; sha256: of its content (`Dataset.sha256`)."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Config:
    """What rebuilds a model.

    class_path: such as diffrec.models.DreamRec; init: constructor arguments; sampling: settings of a diffusion
    model's sampler (`zoo.sampling`), None for other models; parameters: numbers that were learnt;
    denoiser_calls: network evaluations per request.
    """

    class_path: str
    init: Mapping[str, Any]
    sampling: Mapping[str, Any] | None
    dataset: TrainedOn | None
    protocol: str | None
    parameters: int
    denoiser_calls: int

    def to_bytes(self) -> bytes:
        """The content of config.json."""
        fields = {**vars(self), "dataset": self.dataset and vars(self.dataset)}
        fields["class"] = fields.pop("class_path")
        return to_json({"schema_version": SCHEMA_VERSION, **fields})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Config:
        """From the content of config.json; IntegrityError where it is not one or names a class of elsewhere."""
        kinds = {"schema_version": int, "class": str, "init": dict, "sampling": (dict, _NONE), "dataset": (dict, _NONE),
                 "protocol": (str, _NONE), "parameters": int, "denoiser_calls": int}  # fmt: skip
        fields = record(from_json(data, where), where, kinds)
        check_version(fields.pop("schema_version"), where)
        class_path, dataset = fields.pop("class"), fields.pop("dataset")
        if not CLASS_PATH.fullmatch(class_path):
            raise IntegrityError(f"{where} names the class {short(class_path)}; only those of diffrec may be loaded")
        if dataset is not None:
            dataset = TrainedOn(**record(dataset, f"{where}: dataset", {"name": str, "sha256": str}))
        return cls(class_path=class_path, dataset=dataset, **fields)


@dataclass(frozen=True)
class Training:
    """How a model was trained; None where that is not known."""

    command: str | None = None
    seed: int | None = None
    epochs: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Measured:
    """metrics: name -> mean over test users under the protocol of the entry; training: how it came about."""

    metrics: Mapping[str, float]
    training: Training

    def to_bytes(self) -> bytes:
        """The content of metrics.json."""
        return to_json(
            {"schema_version": SCHEMA_VERSION, "metrics": dict(self.metrics), "training": vars(self.training)}
        )

    @classmethod
    def parse(cls, data: bytes, where: str) -> Measured:
        """From the content of metrics.json; IntegrityError where it is not one."""
        fields = record(from_json(data, where), where, {"schema_version": int, "metrics": dict, "training": dict})
        check_version(fields["schema_version"], where)
        kinds = {"command": (str, _NONE), "seed": (int, _NONE), "epochs": (int, _NONE), "seconds": (int, float, _NONE)}
        training = Training(**record(fields["training"], f"{where}: training", kinds))
        return cls(numbers(fields["metrics"], where), training)
