"""From a model to an entry folder: the same model and facts give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import save as bytes_of_tensors

from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.errors import DiffrecError, NotFoundError, UsageError, near_match
from diffrec.files import write_folder
from diffrec.recommender import Recommender, count_parameters
from diffrec.training.checkpoint_io import non_finite
from diffrec.zoo.arguments import plain
from diffrec.zoo.card import card
from diffrec.zoo.config import Config, Measured, TrainedOn, Training
from diffrec.zoo.entry import CARD, CONFIG, FILES, MANIFEST, METRICS, VOCABULARY, WEIGHTS, manifest_bytes
from diffrec.zoo.loading import load, model_class, vocabulary_bytes
from diffrec.zoo.sampling import sampling_of


def save(
    model: Recommender,
    folder: str | Path,
    *,
    dataset: Dataset | None = None,
    protocol: str | None = None,
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, object] | None = None,
    include_titles: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write `model` as a zoo entry and return its folder; it appears whole, loaded back once, or not at all.

    metrics: name -> value under `protocol`; training: any of command, seed, epochs, seconds; include_titles:
    only where the terms of the dataset allow to pass its titles on; overwrite: replace an entry.
    Raises UsageError for a model or facts that cannot be kept, DiffrecError where writing fails; an older
    entry is then unchanged.
    """
    folder = Path(folder).absolute()
    _check_place(folder, overwrite)
    if protocol is not None:
        get_protocol(protocol)
    if dataset is not None and dataset.num_items != model.num_items:
        raise UsageError(f"the model knows {model.num_items} items, {dataset.name} has {dataset.num_items}")
    config = _config(model, dataset, protocol)
    measured = Measured(_finite(metrics or {}), _training(training or {}))
    contents = {
        WEIGHTS: _weights(model),
        CONFIG: config.to_bytes(),
        VOCABULARY: vocabulary_bytes(model.vocabulary if dataset is None else dataset.vocabulary, include_titles),
        METRICS: measured.to_bytes(),
        CARD: card(folder.name, model, config, measured, dataset).encode(),
    }
    write_folder(folder, {**contents, MANIFEST: manifest_bytes(contents)}, check=load)
    return folder


def _check_place(folder: Path, overwrite: bool) -> None:
    """UsageError where something is there that may not be replaced."""
    if not folder.exists():
        return
    if not overwrite:
        raise UsageError(f"{folder} exists; give another name, or overwrite=True to replace it")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {*FILES, MANIFEST}:
        raise UsageError(f"{folder} is not a zoo entry, so it is not replaced; give another name")


def _config(model: Recommender, dataset: Dataset | None, protocol: str | None) -> Config:
    try:
        init, sampling = plain(model.init_args), sampling_of(model)
    except (TypeError, NotFoundError) as error:
        raise UsageError(f"{type(model).__name__} cannot be saved: {error}") from error
    return Config(
        class_path=_class_path(model),
        init=init,
        sampling=sampling,
        dataset=dataset and TrainedOn(dataset.name, dataset.sha256),
        protocol=protocol,
        parameters=count_parameters(model),
        denoiser_calls=model.denoiser_calls,
    )


def _class_path(model: Recommender) -> str:
    """Where the class of the model is exported; UsageError for one that a loader would not find."""
    package = ".".join(type(model).__module__.split(".")[:2])
    path = f"{package}.{type(model).__name__}"
    if package not in ("diffrec.models", "diffrec.baselines") or model_class(path, path) is not type(model):
        raise UsageError(f"{type(model).__name__} is not a model of diffrec.models or diffrec.baselines")
    return path


def _weights(model: Recommender) -> bytes:
    """The safetensors file of all parameters and buffers; DiffrecError for numbers that are not finite."""
    state = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in model.state_dict().items()
    }
    if name := non_finite(state):
        raise DiffrecError(f"{type(model).__name__} is not saved: {name} holds numbers that are not finite")
    return bytes_of_tensors(state)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise UsageError(f"the metric {name!r} is {value}; it must be a finite number")
    return values


def _training(facts: Mapping[str, object]) -> Training:
    allowed = [field.name for field in fields(Training)]
    for name in facts:
        if name not in allowed:
            raise UsageError(f"training has no {name!r}; allowed: {', '.join(allowed)}{near_match(name, allowed)}")
    return Training(**facts)  # pyright: ignore[reportArgumentType]
