"""From a verified entry to a model. Weights are safetensors, everything else is JSON; nothing is ever unpickled."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes

from diffrec.baselines.history import ItemToItem
from diffrec.data.splits import TrainingPart
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import IntegrityError
from diffrec.nn.allocation_limit import AllocationLimit
from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.language_model import from_this_machine
from diffrec.plugins import by_class
from diffrec.recommender import Recommender, count_parameters
from diffrec.recommender.sampling import restored
from diffrec.strict_json import from_json, record, short, to_json
from diffrec.training.checkpoint_io import non_finite
from diffrec.typing import Tensor
from diffrec.zoo.arguments import checked_arguments
from diffrec.zoo.config import Config, Measured, TrainedOn
from diffrec.zoo.entry import CONFIG, METRICS, SCHEMA_VERSION, VOCABULARY, WEIGHTS, check_version
from diffrec.zoo.finding import find_entry
from diffrec.zoo.sampling import set_sampling
from diffrec.zoo.titles import DatasetTitles

_NONE = type(None)


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    scheduler: str | None = None,
    eta: float | None = None,
    num_samples: int | None = None,
) -> Recommender:
    """The model of a zoo entry, in evaluation mode, with its vocabulary.

    name_or_path: a name of `diffrec zoo list`, or the folder of an entry (a Path, or text with a slash).
    revision: the sha256 of its manifest, by default that of the list; cache_dir: where downloads are kept, by default
    `DIFFREC_CACHE`; offline: no network; num_inference_steps, guidance_scale, scheduler, eta, num_samples: other ones
    than the entry keeps, see `Recommender.set_sampling`. What is neither in the cache nor in the zoo of this
    installation comes from the mirrors or the hub that are set (`zoo.mirrors`), which by default is nobody.
    Every file is checked by sha256, and the weights against the model that the configuration builds.
    Titles that the entry may not hold are taken from the dataset, when one is needed and it lies on this
    machine; they are never fetched. Raises NotFoundError (no such entry), NetworkError (it is elsewhere and cannot be
    had), IntegrityError (anything about it is not as it should be), UsageError (a setting that it does not have).
    """
    entry = find_entry(name_or_path, revision=revision, cache_dir=cache_dir, offline=offline)
    contents = entry.read_all()
    config = Config.parse(contents[CONFIG], str(entry.folder / CONFIG))
    Measured.parse(contents[METRICS], str(entry.folder / METRICS))
    vocabulary = parse_vocabulary(contents[VOCABULARY], str(entry.folder / VOCABULARY), config.dataset)
    tensors = _tensors(contents[WEIGHTS], str(entry.folder / WEIGHTS))
    model = _build(config, tensors, str(entry.folder / CONFIG))
    set_sampling(model, config.sampling, f"{entry.folder / CONFIG}: sampling")
    _fill(model, tensors, config.dtype, str(entry.folder / WEIGHTS))
    if vocabulary is not None and len(vocabulary) != model.num_items:
        raise IntegrityError(f"{entry.folder} has {len(vocabulary)} item ids for {model.num_items} items")
    cost = (count_parameters(model), model.denoiser_calls)
    if cost != (config.parameters, config.denoiser_calls):
        told = f"its configuration says {config.parameters:,} and {config.denoiser_calls:,}"
        raise IntegrityError(f"{entry.folder} has {cost[0]:,} parameters and {cost[1]:,} denoiser calls, {told}")
    model.vocabulary = vocabulary
    if config.dataset is not None and config.protocol is not None:
        model.trained_on = TrainingPart(config.dataset.name, config.protocol)
    model.set_sampling(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, scheduler=scheduler, eta=eta,
        num_samples=num_samples,
    )  # fmt: skip
    return model.eval()


def vocabulary_bytes(vocabulary: Vocabulary | None, include_titles: bool) -> bytes:
    """The content of vocabulary.json."""
    item_ids = None if vocabulary is None else vocabulary.item_ids
    titles = vocabulary.titles if vocabulary is not None and include_titles else None
    return to_json({"schema_version": SCHEMA_VERSION, "item_ids": item_ids, "titles": titles})


def parse_vocabulary(data: bytes, where: str, dataset: TrainedOn | None) -> Vocabulary | None:
    """From the content of vocabulary.json; None where the model was trained on item numbers alone."""
    kinds = {"schema_version": int, "item_ids": (list, _NONE), "titles": (list, _NONE)}
    fields = record(from_json(data, where), where, kinds)
    check_version(fields["schema_version"], where)
    item_ids, titles = (None if part is None else tuple(part) for part in (fields["item_ids"], fields["titles"]))
    if not all(type(text) is str for text in (*(item_ids or ()), *(titles or ()))):
        raise IntegrityError(f"{where}: every item id and title must be text")
    if titles is not None and len(titles) != len(item_ids or ()):
        raise IntegrityError(f"{where} has {len(titles)} titles for {len(item_ids or ())} items")
    if len(set(item_ids or ())) != len(item_ids or ()):
        raise IntegrityError(f"{where} holds an item id twice")
    if item_ids is None:
        return None
    source = DatasetTitles(dataset.name) if titles is None and dataset else None
    return Vocabulary(item_ids, titles, source)


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """The finite tensors of a safetensors file."""
    try:
        tensors = tensors_from_bytes(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{where} is not a safetensors file that can be read: {error}") from error
    if name := non_finite(tensors):
        raise IntegrityError(f"{where}: {short(name)} holds numbers that are not finite")
    return tensors


def model_class(path: str, where: str) -> type[Recommender]:
    """The Recommender that `diffrec.models`, `diffrec.baselines` or a plug-in exports under this name."""
    package, _, name = path.rpartition(".")
    plugin = by_class(path)
    found = plugin.load() if plugin else getattr(importlib.import_module(package), name, None)
    if not (isinstance(found, type) and issubclass(found, Recommender)):
        raise IntegrityError(f"{where} names the class {short(path)}, which is no model of this diffrec")
    return found


def _build(config: Config, tensors: Mapping[str, Tensor], where: str) -> Recommender:
    constructor = model_class(config.class_path, where)
    arguments = checked_arguments(constructor.__init__, config.init, where)
    stored = sum(tensor.numel() for tensor in tensors.values())
    limit = AllocationLimit(8 * stored + (1 << 24), 20 * len(tensors) + 2_000, "the file holds")
    try:
        with torch.random.fork_rng(devices=[]), from_this_machine(), limit:
            return constructor(**arguments)
    except Exception as error:  # whatever a constructor makes of arguments from a file, the file is at fault
        raise IntegrityError(f"{where}: {config.class_path} cannot be built: {error}") from error


def narrower(dtype: str | None) -> dict[torch.dtype, tuple[torch.dtype, ...]]:
    """The types, the narrowest first, that a file may have where the model has another; dtype: as in `Config`.
    Whole numbers lose nothing."""
    whole = {torch.int64: (torch.uint16, torch.int32), torch.int32: (torch.uint16,)}
    return whole | ({torch.float32: (torch.float16,)} if dtype == "float16" else {})


def _fill(model: Recommender, tensors: Mapping[str, Tensor], dtype: str | None, where: str) -> None:
    """Put the tensors into the model after checking names, types and shapes."""
    expected = model.state_dict()
    if expected.keys() != tensors.keys():
        wrong = sorted(expected.keys() ^ tensors.keys())
        raise IntegrityError(f"{where} does not fit its configuration; unexpected or missing: {short(wrong)}")
    fitted, stored = _of_fitted_shape(model), narrower(dtype)
    for name, there in expected.items():
        here = tensors[name]
        fits = here.ndim == there.ndim if name in fitted else here.shape == there.shape
        if here.dtype not in (there.dtype, *stored.get(there.dtype, ())) or not fits:
            raise IntegrityError(
                f"{where}: {name} is {here.dtype} {tuple(here.shape)}, must be {there.dtype} {tuple(there.shape)}"
            )
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})
    if fitted:
        _check_shapes(model, where)


def _of_fitted_shape(model: Recommender) -> set[str]:
    """The names of the tensors that take the shapes of the file."""
    modules = [(prefix, module) for prefix, module in model.named_modules() if isinstance(module, FittedShape)]
    tensors = [(prefix, name) for prefix, module in modules for name in (*module._buffers, *module._parameters)]
    return {f"{prefix}.{name}" if prefix else name for prefix, name in tensors}


def _check_shapes(model: Recommender, where: str) -> None:
    """Shapes that come from the file must give scores for every item, in one step where steps can be chosen."""
    steps = ["num_inference_steps"] if model.num_steps is not None and getattr(model, "scheduler", None) is None else []
    try:
        if isinstance(model, ItemToItem):
            model.sparse().check_format(full_check=True)  # scipy does not look at indices when it multiplies
        with torch.no_grad(), restored(model, steps):
            for name in steps:
                setattr(model, name, 1)
            scores = model.eval().checked_scores(torch.tensor([[1, model.num_items]]), None)
    except Exception as error:  # shapes that do not fit fail wherever they are first used
        raise IntegrityError(f"{where} does not fit its configuration: {error}") from error
    if scores.shape != (1, model.num_items):
        raise IntegrityError(f"{where} scores {scores.shape[1]} items instead of {model.num_items}")
