"""config.json and metrics.json of an entry as records. No torch here, and nothing is imported by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffrec.errors import IntegrityError
from diffrec.plugins import by_class
from diffrec.strict_json import from_json, numbers, record, short, to_json
from diffrec.zoo.benchmark import Benchmark
from diffrec.zoo.entry import SCHEMA_VERSION, check_version

DTYPES = ("float16",)  # of the file, for weights that are float32 in the model
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
    denoiser_calls: network evaluations per request; dtype: in which float32 weights are stored, None as they are.
    """

    class_path: str
    init: Mapping[str, Any]
    sampling: Mapping[str, Any] | None
    dataset: TrainedOn | None
    protocol: str | None
    parameters: int
    denoiser_calls: int
    dtype: str | None = None

    def to_bytes(self) -> bytes:
        """The content of config.json."""
        fields = {**vars(self), "dataset": self.dataset and vars(self.dataset)}
        fields["class"] = fields.pop("class_path")
        if self.dtype is None:
            del fields["dtype"]  # as in entries from before there was a choice
        return to_json({"schema_version": SCHEMA_VERSION, **fields})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Config:
        """From the content of config.json; IntegrityError where it is not one or names a class of elsewhere."""
        kinds = {"schema_version": int, "class": str, "init": dict, "sampling": (dict, _NONE), "dataset": (dict, _NONE),
                 "protocol": (str, _NONE), "parameters": int, "denoiser_calls": int, "dtype": (str, _NONE)}  # fmt: skip
        fields = record(_with(from_json(data, where), dtype=None), where, kinds)
        check_version(fields.pop("schema_version"), where)
        class_path, dataset = fields.pop("class"), fields.pop("dataset")
        if fields["dtype"] not in (None, *DTYPES):
            raise IntegrityError(f"{where} has the dtype {short(fields['dtype'])}; there are: {', '.join(DTYPES)}")
        if not (CLASS_PATH.fullmatch(class_path) or by_class(class_path)):
            allowed = "only those of diffrec and of installed plug-ins may be loaded"
            raise IntegrityError(f"{where} names the class {short(class_path)}; {allowed}")
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
class Evaluation:
    """On what metrics were measured: the same here, and they come out the same.

    seed: of the sampling noise of the first draw, draw d having `seed + 2^32 d`; draws: how many the metrics are means
    of; device: `cpu`, or the accelerator by name; packages: versions by name.
    """

    seed: int
    draws: int
    device: str
    processor: str
    threads: int
    packages: Mapping[str, str]

    @classmethod
    def parse(cls, value: object, where: str) -> Evaluation:
        """From its JSON form; IntegrityError where it is not one."""
        kinds = {"seed": int, "draws": int, "device": str, "processor": str, "threads": int, "packages": dict}
        fields = record(value, where, kinds)
        for name, most in {"draws": 100, "threads": 1 << 12, "seed": 1 << 31}.items():
            if not (name != "seed") <= fields[name] <= most:
                raise IntegrityError(f"{where}: {name} cannot be {short(fields[name])}")
        if not all(type(version) is str for version in fields["packages"].values()):
            raise IntegrityError(f"{where}: the version of a package must be text")
        return cls(**fields)


@dataclass(frozen=True)
class Measured:
    """metrics: name -> mean over test users under the protocol of the entry; training: how it came about; evaluation:
    how they were measured, None where that is not known; float32: what they were before the weights were rounded;
    benchmark: what is known beside, None for a model that comes from no suite."""

    metrics: Mapping[str, float]
    training: Training
    evaluation: Evaluation | None = None
    float32: Mapping[str, float] | None = None
    benchmark: Benchmark | None = None

    def to_bytes(self) -> bytes:
        """The content of metrics.json."""
        known = {
            "evaluation": self.evaluation and vars(self.evaluation),
            "float32": self.float32,
            "benchmark": self.benchmark and self.benchmark.plain(),
        }
        return to_json(
            {
                "schema_version": SCHEMA_VERSION,
                "metrics": dict(self.metrics),
                "training": vars(self.training),
                **{name: value for name, value in known.items() if value is not None},
            }
        )

    @classmethod
    def parse(cls, data: bytes, where: str) -> Measured:
        """From the content of metrics.json; IntegrityError where it is not one."""
        kinds = {"schema_version": int, "metrics": dict, "training": dict, "evaluation": (dict, _NONE),
                 "float32": (dict, _NONE), "benchmark": (dict, _NONE)}  # fmt: skip
        fields = record(_with(from_json(data, where), evaluation=None, float32=None, benchmark=None), where, kinds)
        check_version(fields["schema_version"], where)
        kinds = {"command": (str, _NONE), "seed": (int, _NONE), "epochs": (int, _NONE), "seconds": (int, float, _NONE)}
        training = Training(**record(fields["training"], f"{where}: training", kinds))
        evaluation, float32, benchmark = fields["evaluation"], fields["float32"], fields["benchmark"]
        return cls(
            numbers(fields["metrics"], where),
            training,
            None if evaluation is None else Evaluation.parse(evaluation, f"{where}: evaluation"),
            None if float32 is None else numbers(float32, where),
            None if benchmark is None else Benchmark.parse(benchmark, f"{where}: benchmark"),
        )


def _with(value: object, **absent: object) -> object:
    """A JSON object with what it may leave out."""
    return {**absent, **value} if isinstance(value, dict) else value
