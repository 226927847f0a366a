"""What of a record can be held against its own configuration, its dataset and the split, without lists and model.

Every finding is one sentence, as in `verify`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from diffrec.bench.provenance import config_sha256
from diffrec.bench.result import Result
from diffrec.bench.same_settings import resolved
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.splits import Split
from diffrec.metrics.functional import metric_names
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.strict_json import short
from diffrec.training.learnt_from import items_sha256, read_by

_VALUE_OF_SELECTION = 1e-6  # kept by the trainer, in its own order of batches


def is_training_free(result: Result) -> bool:
    """Is its model a closed form, by its class?"""
    model = result.config.get("model")
    cls = resolved(model.get("class_path")) if isinstance(model, dict) else None
    return cls is not None and issubclass(cls, ClosedFormRecommender)


def about_config(result: Result) -> Iterator[str]:
    """What the configuration says of the other fields."""
    data, model = result.config.get("data"), result.config.get("model")
    if not isinstance(data, dict) or not isinstance(model, dict):
        yield "config lacks its part data or model, so it cannot have made this result"
        return
    if result.config_sha256 != config_sha256(result.config):
        yield f"config_sha256 is {short(result.config_sha256)}, that of config is {config_sha256(result.config)}"
    for name, expected in (("dataset", result.dataset), ("protocol", result.protocol), ("seed", result.seed)):
        if data.get(name) != expected:
            yield f"config: data.{name} is {short(data.get(name))}, the record says {short(expected)}"
    if result.config.get("seed_everything") != result.seed:
        yield f"config: seed_everything is {short(result.config.get('seed_everything'))}, the record says {result.seed}"
    if (cls := resolved(model.get("class_path"))) is None:
        yield f"config names the class {short(model.get('class_path'))}, which is no model of this diffrec"
    elif result.role != (role := _role(result, cls)):
        yield f"role is {result.role!r}, expected {role!r} of a {cls.__name__} with control_of {result.control_of!r}"


def _role(result: Result, cls: type[Recommender]) -> str:
    if result.control_of is not None:
        return "control"
    return "training-free" if issubclass(cls, ClosedFormRecommender) else "model"


def about_selection(result: Result) -> Iterator[str]:
    """What can be known of validation without the model."""
    selection = result.selection
    if selection.metric not in result.validation:
        yield f"selection.metric is {short(selection.metric)}, which is no metric of validation"
    elif not math.isclose(selection.value, result.validation[selection.metric], rel_tol=_VALUE_OF_SELECTION):
        expected = result.validation[selection.metric]
        yield f"selection.value is {selection.value}, but validation has {selection.metric} {expected}"
    if not 1 <= selection.epoch <= result.epochs:
        yield f"selection.epoch is {selection.epoch}, expected one of the {result.epochs} epochs that were run"
    if is_training_free(result) and result.epochs != 1:
        yield f"epochs is {result.epochs}, expected 1 for a model that is solved in one go"
    expected = metric_names(PROTOCOLS[result.protocol].cutoffs)
    if wrong := sorted(result.validation.keys() ^ set(expected)):
        yield f"validation: unexpected or missing {short(wrong)}"


def about_rests_on(result: Result, dataset: Dataset, split: Split) -> Iterator[str]:
    """Items, split, and of what was read the artefacts that this machine has by that name; no weights are loaded."""
    model, told = result.config.get("model"), result.rests_on
    cls = resolved(model.get("class_path")) if isinstance(model, dict) else None
    if told is None or cls is None:
        return
    for name, expected in (("items", items_sha256(dataset)), ("split", split.sha256)):
        if getattr(told, name) != expected:
            here = f"those of {result.dataset} under {result.protocol} have {expected}"
            yield f"rests_on: {name} is {short(getattr(told, name))}, {here}"
    read = read_by(cls, result.config)
    if wrong := sorted(told.read.keys() ^ read.keys()):
        yield f"rests_on: read has {short(sorted(told.read))}, the configuration names {short(sorted(read))}"
    for key, there in read.items():
        if key not in wrong and there.is_kept and told.read[key] != (seen := there.sha256()):
            yield f"rests_on: {key} is {short(told.read[key])}, {short(there.name)} on this machine has {seen}"
