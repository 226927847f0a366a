"""Training that starts from the weights of a zoo entry, on data whose items need not be the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from diffrec.data.dataset import Dataset
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import UsageError
from diffrec.files import write_file
from diffrec.nn.artefacts import artefact_path, hash_of_texts, read_artefact
from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.ridge import Ridge
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import read_vectors
from diffrec.strict_json import to_json
from diffrec.typing import Float, Int, Tensor

Match = Literal["id", "title"]
# Arguments that say how a model is trained or asked, not what its weights mean.
MAY_DIFFER = (
    "num_items", "lr", "weight_decay", "dropout", "condition_dropout", "attention_dropout", "warmup_steps",
    "num_negatives", "num_inference_steps", "guidance_scale", "num_samples", "num_draws", "num_beams",
    "stochastic", "lr_decay_epochs", "anneal_steps", "anneal_cap", "init_std",
)  # fmt: skip


@dataclass(frozen=True)
class Started:
    """What came along. items: of the new data, of which `matched` were known to the source, by `match`; of the others
    `from_vectors` were worked out from `vectors`, the rest starts as the model starts; anew: parameters that belong to
    the users of the source and were left behind."""

    source: str
    model: str
    match: Match
    items: int
    matched: int
    from_vectors: int
    vectors: str | None
    anew: tuple[str, ...]

    def __str__(self) -> str:
        others = self.items - self.matched
        new = f"{self.from_vectors:,} from {self.vectors}" if self.from_vectors else "as the model starts"
        left = f"; anew: {', '.join(self.anew)}" if self.anew else ""
        share = f"{self.matched:,} of {self.items:,} items matched by {self.match}"
        return f"starting from {self.source}: {share}, {others:,} are new" + f" ({new})" * (others > 0) + left


class StartFrom(Callback):
    """Puts the weights into the model after it was prepared and before its first step; writes start.json.

    tell: is given the line that says what came along, before training begins.
    """

    def __init__(
        self, source: Recommender, name: str, dataset: Dataset, match: Match, vectors: str | None, folder: Path,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:  # fmt: skip
        self.source, self.name, self.dataset, self.vectors, self.folder = source, name, dataset, vectors, folder
        self.match: Match = match
        self.tell = tell

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shapes that the data decide are known by now, and the optimiser holds the parameters themselves."""
        assert isinstance(pl_module, Recommender)
        assert self.source.vocabulary is not None
        numbers = self.dataset.vocabulary.matches(self.source.vocabulary, self.match)
        vectors = None if self.vectors is None else read_vectors(self.vectors)
        told = carry(pl_module, self.source, torch.from_numpy(numbers), vectors)
        new = int((numbers == 0).sum())
        started = Started(
            self.name, type(pl_module).__name__, self.match, len(numbers), len(numbers) - new,
            0 if self.vectors is None else new, self.vectors, tuple(told),
        )  # fmt: skip
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            write_file(self.folder / "start.json", to_json(asdict(started)))
        if trainer.is_global_zero:
            self.tell(str(started))


def match_of(source: Recommender, trained_on: str | None, dataset: Dataset, asked: Match | None) -> Match:
    """By what items are told to be the same: ids within one dataset; titles between two that both have them.

    Raises UsageError where nothing would match, and where only numbers of two datasets would and nobody asked for it:
    7 may be one film here and another one there.
    """
    if source.vocabulary is None:
        raise UsageError(f"{type(source).__name__} was trained on item numbers alone, so its items cannot be matched")
    mine = dataset.vocabulary
    titled = bool(mine.titles) and bool(source.vocabulary.titles)
    match = asked or ("title" if titled and trained_on != dataset.name else "id")
    if match == "title" and not titled:
        raise UsageError(f"titles cannot be matched: {_without_titles(mine, source.vocabulary, dataset.name)}")
    if not mine.matches(source.vocabulary, match).any():
        here, there = mine.item_ids[0], source.vocabulary.item_ids[0]
        seen = f"ids here look like {here!r}, there like {there!r}" if match == "id" else "no title is the same"
        raise UsageError(f"no item of {dataset.name} is known to the entry by its {match}: {seen}")
    if asked is None and match == "id" and trained_on != dataset.name and all(map(str.isdecimal, mine.item_ids)):
        raise UsageError(
            f"{dataset.name} and {trained_on or 'the data of the entry'} may number their items otherwise, and titles "
            f"cannot be compared: {_without_titles(mine, source.vocabulary, dataset.name)}\n"
            f"--init-match id takes equal numbers for the same items"
        )
    return match


def _without_titles(mine: Vocabulary, theirs: Vocabulary, name: str) -> str:
    missing = mine.missing_titles or theirs.missing_titles
    return f"{name if not mine.titles else 'the entry'} has none" + f" ({missing})" * bool(missing)


def vectors_for(dataset: Dataset) -> str | None:
    """The newest vectors of `diffrec data embed` that were made of the items of this dataset, if there are any."""
    folder = artefact_path("vectors", f"{dataset.name}/any").parent
    digest = hash_of_texts(dataset.vocabulary.item_ids)
    found = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    fitting = (path for path in found if read_artefact(path).facts.get("items_sha256") == digest)
    return next((f"{dataset.name}/{path.stem}" for path in fitting), None)


def refuse_another_model(model: Recommender, source: Recommender, name: str) -> None:
    """UsageError where the weights of `source` would mean something else in `model`; it says what differs."""
    if type(model) is not type(source):
        raise UsageError(f"{name} is a {type(source).__name__}, the configuration builds a {type(model).__name__}")
    if reason := model.cannot_start_from_another:
        raise UsageError(f"{type(model).__name__} cannot start from {name}: {reason}")
    now, then = model.init_args, source.init_args
    differing = [key for key in now if key not in MAY_DIFFER and _plain(now[key]) != _plain(then.get(key))]
    if differing:
        told = "; ".join(f"{key} is {_plain(now[key])!r}, was {_plain(then.get(key))!r}" for key in differing)
        words = " ".join(f"--model.{key}={_word(then.get(key))}" for key in differing)
        raise UsageError(f"{name} is another {type(source).__name__}: {told}. To go on with it: {words}")
    item_dims(model)


def _plain(value: object) -> object:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _word(value: object) -> str:
    """As the command line takes it."""
    return json.dumps(_plain(value), separators=(",", ":")).strip('"')


def carry(
    model: Recommender,
    source: Recommender,
    numbers: Int[Tensor, " items"],
    vectors: Float[Tensor, "items raw"] | None = None,
) -> list[str]:
    """Copy every learnt parameter of `source` into `model`, item by item, and return those that are left as they are.

    numbers: the item number in `source` of items 1..N of `model`, 0 for an item that it does not know. vectors: of
    items 1..N; rows of unknown items become what a ridge regression of the known rows on their vectors says.
    """
    fitted = {f"{prefix}.{name}" for prefix, module in model.named_modules() if isinstance(module, FittedShape)
              for name in module._parameters}  # fmt: skip
    theirs, dims, anew = dict(source.named_parameters()), item_dims(model), []
    known, unknown = torch.nonzero(numbers)[:, 0], torch.nonzero(numbers == 0)[:, 0]
    with torch.no_grad():
        ridge = Ridge(vectors, known) if vectors is not None and len(unknown) and len(known) > 1 else None
        for name, parameter in model.named_parameters():
            if name in fitted or not parameter.requires_grad:
                anew += [name] * (name in fitted)
                continue
            old = theirs[name].to(parameter)
            if name not in dims:
                parameter.copy_(old)
                continue
            dim, first = dims[name]
            rows, olds = parameter.movedim(dim, 0), old.movedim(dim, 0)
            rows[:first].copy_(olds[:first])
            rows[first + model.num_items :].copy_(olds[first + source.num_items :])
            rows[first + known] = olds[first - 1 + numbers[known]]
            if ridge is not None:
                flat = rows[first : first + model.num_items].reshape(model.num_items, -1)
                rows[first + unknown] = ridge.predict(flat[known], unknown).view(len(unknown), *rows.shape[1:])
    return anew


def item_dims(model: Recommender) -> dict[str, tuple[int, int]]:
    """For every parameter with a place for each item: the dimension, and the place of item 1 in it.

    Found by building the same model for one item more. In a table of embeddings one place more than items is padding,
    which comes first; columns behind those of the items are of something else. UsageError for any other place.
    """
    twin = model.remade(num_items=model.num_items + 1)
    wider = {name: parameter.shape for name, parameter in twin.named_parameters()}
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    found = {}
    for name, parameter in model.named_parameters():
        for dim, (here, there) in enumerate(zip(parameter.shape, wider[name], strict=True)):
            if there == here + 1:
                more = here - model.num_items
                if not (more == 0 or (more == 1 and name in tables and dim == 0) or (more > 0 and dim > 0)):
                    where = f"where the items are in {name} {tuple(parameter.shape)} cannot be told"
                    raise UsageError(f"{type(model).__name__} cannot start from another: {where}")
                found[name] = (dim, more if dim == 0 else 0)
    return found
