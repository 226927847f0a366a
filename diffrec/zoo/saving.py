"""From a model to an entry folder: the same model and facts give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save as bytes_of_tensors

from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.errors import DiffrecError, NotFoundError, UsageError, choose, near_match
from diffrec.files import write_folder
from diffrec.plugins import plugin_of
from diffrec.recommender import Recommender, count_parameters
from diffrec.training.checkpoint_io import non_finite
from diffrec.typing import Tensor
from diffrec.zoo.arguments import plain
from diffrec.zoo.benchmark import Benchmark
from diffrec.zoo.card import about_data, card
from diffrec.zoo.config import DTYPES, Config, Evaluation, Measured, TrainedOn, Training
from diffrec.zoo.entry import (
    CARD,
    CONFIG,
    FILES,
    GOLDEN,
    MANIFEST,
    METRICS,
    VOCABULARY,
    WEIGHTS,
    Entry,
    manifest_bytes,
)
from diffrec.zoo.golden import Golden
from diffrec.zoo.headings import DATA, sections
from diffrec.zoo.loading import load, model_class, narrower, parse_vocabulary, vocabulary_bytes
from diffrec.zoo.sampling import sampling_of, set_sampling

LARGEST_LOSS = 0.005  # of the headline metric, by rounding the weights
_SMALL = 1000  # numbers for which a narrower type is not worth it


def save(
    model: Recommender,
    folder: str | Path,
    *,
    dataset: Dataset | None = None,
    protocol: str | None = None,
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, object] | None = None,
    evaluation: Evaluation | None = None,
    include_titles: bool = False,
    overwrite: bool = False,
    dtype: str | None = None,
    float32: Mapping[str, float] | None = None,
    benchmark: Benchmark | None = None,
) -> Path:
    """Write `model` as a zoo entry and return its folder; it appears whole, loaded back once, or not at all.

    metrics: name -> value under `protocol`; training: any of command, seed, epochs, seconds; evaluation: on what the
    metrics were measured; benchmark: how others do there; include_titles: only where the terms of the dataset allow to
    pass its titles on; overwrite: replace an entry. Nothing of the time or place of saving gets into it.
    dtype: "float16" halves the file. `metrics` are then those of `rounded(model, dtype)`, and `float32` those of the
    model itself: where they say that rounding costs LARGEST_LOSS or more, nothing is saved.
    Raises UsageError for a model or facts that cannot be kept, DiffrecError where writing fails; an older
    entry is then unchanged.
    """
    folder = Path(folder).absolute()
    _check_place(folder, overwrite)
    if protocol is not None:
        get_protocol(protocol)
    if dataset is not None and dataset.num_items != model.num_items:
        raise UsageError(f"the model knows {model.num_items} items, {dataset.name} has {dataset.num_items}")
    config = _config(model, dataset, protocol, dtype)
    exact = float32 and _finite(float32)
    measured = Measured(_finite(metrics or {}), _training(training or {}), evaluation, exact, benchmark)
    _check_loss(measured, protocol, dtype)
    model = model if dtype is None else rounded(model, dtype)
    vocabulary = model.vocabulary if dataset is None else dataset.vocabulary
    _write(folder, model, config, measured, vocabulary_bytes(vocabulary, include_titles), about_data(dataset))
    return folder


def rounded(model: Recommender, dtype: str) -> Recommender:
    """The model that an entry with that dtype gives; UsageError for another dtype than `config.DTYPES`, DiffrecError
    where the type does not hold a weight."""
    choose("dtype", dtype, DTYPES)
    copy = model.remade()
    exact = model.state_dict()
    state = {name: narrowed(tensor.detach().cpu(), dtype) for name, tensor in exact.items()}
    if name := non_finite(state):
        raise DiffrecError(f"{dtype} does not hold the numbers of {name}; store them as they are")
    copy.load_state_dict({name: tensor.to(exact[name].dtype) for name, tensor in state.items()})
    set_sampling(copy, sampling_of(model), type(model).__name__)
    copy.vocabulary = model.vocabulary
    return copy.to(model.device).eval()


def loss(measured: Measured, metric: str) -> float:
    """How much of a metric was lost by rounding, as a share of it; 0 where it grew."""
    assert measured.float32 is not None
    before, after = measured.float32[metric], measured.metrics[metric]
    return max(0.0, 1 - after / before) if before > 0 else 0.0


def _check_loss(measured: Measured, protocol: str | None, dtype: str | None) -> None:
    """UsageError where rounding costs too much, or nobody has measured what it costs."""
    if dtype is None:
        return
    metric = None if protocol is None else get_protocol(protocol).headline
    if metric is None or metric not in measured.metrics or metric not in (measured.float32 or {}):
        raise UsageError(f"{dtype} needs a protocol and metrics, of the model rounded and as it is: what it costs")
    assert measured.float32 is not None
    if (lost := loss(measured, metric)) >= LARGEST_LOSS:
        before, after = measured.float32[metric], measured.metrics[metric]
        told = f"{metric} is {after:.4f} instead of {before:.4f}, {lost:.2%} less"
        raise UsageError(f"{dtype} costs too much: {told}; less than {LARGEST_LOSS:.1%} is allowed")


@dataclass(frozen=True)
class Known:
    """What is known of an entry today, None where that is no more than it says itself; dataset: what it was learnt
    from, if that is at hand."""

    training: Training | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    dataset: Dataset | None = None


def refresh(entry: Entry, known: Known | None = None) -> bool:
    """Write an entry again as `save` writes it today, with its weights, metrics and item ids.

    Words about its data stay where the dataset is not at hand. Returns whether a byte changed. Raises IntegrityError
    for an entry that `load` refuses.
    """
    model = load(entry.folder, offline=True)
    return _write_again(entry, model, *_today(entry, model, known or Known()), golden=_still_golden(entry, model))


def outdated(entry: Entry, model: Recommender, known: Known | None = None) -> list[str]:
    """The files of an entry that `refresh` would write otherwise: configuration, metrics and card, which are the same
    on every machine. model: as loaded from the entry."""
    texts = _texts(entry.folder.name, model, *_today(entry, model, known or Known()))
    return [name for name, data in texts.items() if entry.read(name) != data]


def _today(entry: Entry, model: Recommender, known: Known) -> tuple[Config, Measured, str]:
    """Configuration with the arguments that the class has by now, facts, and words about the data."""
    config, old = _config_and_measured(entry)
    measured = replace(
        old,
        training=known.training or old.training,
        evaluation=known.evaluation or old.evaluation,
        benchmark=known.benchmark or old.benchmark,
    )
    dataset = known.dataset
    if dataset is not None and config.dataset != TrainedOn(dataset.name, dataset.sha256):
        dataset = None  # another one of that name
    data = _about_its_data(entry) if dataset is None else about_data(dataset)
    return replace(config, init=plain(model.init_args)), measured, data


def narrow(
    entry: Entry, dtype: str, metrics: Mapping[str, float], float32: Mapping[str, float], evaluation: Evaluation
) -> bool:
    """Write an entry again with its weights in `dtype`, as `save` would have; returns whether a byte changed.

    metrics, float32: of the weights rounded and as they are, both measured on `evaluation`. Raises UsageError, and
    leaves the entry as it is, where rounding costs LARGEST_LOSS or more.
    """
    config, old = _config_and_measured(entry)
    measured = replace(old, metrics=_finite(metrics), float32=_finite(float32), evaluation=evaluation)
    _check_loss(measured, config.protocol, dtype)
    model = rounded(load(entry.folder, offline=True), dtype)
    return _write_again(entry, model, replace(config, dtype=dtype), measured, _about_its_data(entry))


def _config_and_measured(entry: Entry) -> tuple[Config, Measured]:
    config = Config.parse(entry.read(CONFIG), str(entry.folder / CONFIG))
    return config, Measured.parse(entry.read(METRICS), str(entry.folder / METRICS))


def _about_its_data(entry: Entry) -> str:
    return sections(entry.read(CARD).decode()).get(DATA, about_data(None))


def _still_golden(entry: Entry, model: Recommender) -> bytes | None:
    """The lists of an entry, where they are those of its model but for how another machine rounds; None otherwise."""
    if GOLDEN not in entry.files:
        return None
    data, now = entry.read(GOLDEN), Golden.of(model)
    golden = Golden.parse(data, model.vocabulary, model.num_items, str(entry.folder / GOLDEN))
    asked = [(one.histories, one.seed, one.sampling) for one in (golden, now)]
    return data if asked[0] == asked[1] and not golden.differences(model) else None


def _write_again(
    entry: Entry, model: Recommender, config: Config, measured: Measured, data: str, golden: bytes | None = None
) -> bool:
    """Whether a byte changed; item ids stay, and `golden` if that is given."""
    _write(entry.folder, model, config, measured, entry.read(VOCABULARY), data, golden)
    return Entry.open(entry.folder).revision != entry.revision


def _write(
    folder: Path,
    model: Recommender,
    config: Config,
    measured: Measured,
    vocabulary: bytes,
    data: str,
    golden: bytes | None = None,
) -> None:
    """Write all files of an entry; it appears whole, loaded back once, or not at all.

    vocabulary, golden: contents of vocabulary.json and golden.json, None for new lists; data: that section of the card.
    """
    contents = {
        WEIGHTS: _weights(model, config.dtype),
        VOCABULARY: vocabulary,
        GOLDEN: golden or Golden.of(model).to_bytes(parse_vocabulary(vocabulary, VOCABULARY, None)),
        **_texts(folder.name, model, config, measured, data),
    }
    contents = {name: contents[name] for name in FILES}
    write_folder(folder, {**contents, MANIFEST: manifest_bytes(contents)}, check=load)


def _texts(name: str, model: Recommender, config: Config, measured: Measured, data: str) -> dict[str, bytes]:
    """The files that hold no number of this machine."""
    return {
        CONFIG: config.to_bytes(),
        METRICS: measured.to_bytes(),
        CARD: card(name, model, config, measured, data).encode(),
    }


def _check_place(folder: Path, overwrite: bool) -> None:
    """UsageError where something is there that may not be replaced."""
    if not folder.exists():
        return
    if not overwrite:
        raise UsageError(f"{folder} exists; give another name, or replace it (overwrite=True, or --overwrite)")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {*FILES, MANIFEST}:
        raise UsageError(f"{folder} is not a zoo entry, so it is not replaced; give another name")


def _config(model: Recommender, dataset: Dataset | None, protocol: str | None, dtype: str | None) -> Config:
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
        dtype=dtype,
    )


def _class_path(model: Recommender) -> str:
    """Where the class of the model is exported; UsageError for one that a loader would not find."""
    package = ".".join(type(model).__module__.split(".")[:2])
    path = f"{package}.{type(model).__name__}"
    if (plugin := plugin_of(type(model))) is not None:
        return plugin.class_path
    if package not in ("diffrec.models", "diffrec.baselines") or model_class(path, path) is not type(model):
        raise UsageError(f"{type(model).__name__} is not a model of diffrec.models, diffrec.baselines or a plug-in")
    return path


def _weights(model: Recommender, dtype: str | None) -> bytes:
    """The safetensors file of all parameters and buffers; DiffrecError for numbers that are not finite."""
    state = {name: narrowed(tensor.detach().cpu(), dtype) for name, tensor in model.state_dict().items()}
    if name := non_finite(state):
        raise DiffrecError(f"{type(model).__name__} is not saved: {name} holds numbers that are not finite")
    return bytes_of_tensors(state)


def narrowed(tensor: Tensor, dtype: str | None = None) -> Tensor:
    """A copy as a file has it: tables of whole numbers in 16 or 32 bits where they fit; dtype: as in `Config`."""
    kept, types = tensor, narrower(dtype).get(tensor.dtype, ())
    if tensor.is_floating_point():
        kept = tensor.to(types[0]) if types else tensor
    elif types and tensor.numel() > _SMALL:
        least, most = (int(value) for value in tensor.aminmax())
        fitting = (kind for kind in types if torch.iinfo(kind).min <= least and most <= torch.iinfo(kind).max)
        kept = tensor.to(next(fitting, tensor.dtype))
    return kept.clone(memory_format=torch.contiguous_format)


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
