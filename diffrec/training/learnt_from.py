"""Which data a checkpoint was learnt from: kept in it, and compared wherever it is used; what a run reads besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

import diffrec
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import refuse_other_part
from diffrec.data.splits import TrainingPart
from diffrec.errors import IntegrityError, UsageError
from diffrec.nn.artefacts import (
    Readable,
    artefact_path,
    hash_of_artefact,
    hash_of_texts,
    hash_of_weights,
    is_name,
)
from diffrec.recommender import Recommender
from diffrec.training.checkpoint_io import read_checkpoint

_KEY = "learnt_from"
_DISTILLATION = "diffrec.zoo.distillation.Distillation"


@dataclass(frozen=True)
class Read:
    """What a run reads besides its dataset: an artefact by name or path, a model by name, folder or checkpoint."""

    kind: Readable
    name: str

    @property
    def is_kept(self) -> bool:
        """Whether it is an artefact that the cache of this machine has by this name."""
        return self.kind != "model" and is_name(self.name) and artefact_path(self.kind, self.name).is_file()

    def sha256(self) -> str:
        """Of its tensors. Raises what reading it raises."""
        if self.kind != "model":
            return hash_of_artefact(self.kind, self.name)
        if self.name.endswith(".ckpt"):
            return hash_of_weights(read_checkpoint(Path(self.name))["state_dict"])
        return hash_of_weights(diffrec.load(self.name, offline=True).state_dict())  # the public name: zoo lies above


def read_by(model: type[Recommender], config: Mapping[str, Any]) -> dict[str, Read]:
    """What a run of this configuration reads, by the key that names it. Nobody need have checked the configuration."""
    named: list[tuple[str, Readable, object]] = [
        (f"model.{name}", kind, _arguments(config.get("model")).get(name)) for name, kind in model.reads
    ]
    trainer = config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else ():
        if isinstance(callback, dict) and callback.get("class_path") == _DISTILLATION:
            named.append(("trainer.callbacks.Distillation.teacher", "model", _arguments(callback).get("teacher")))
    return {key: Read(kind, name) for key, kind, name in named if isinstance(name, str)}


def _arguments(part: object) -> Mapping[str, object]:
    """The `init_args` of a class in a configuration."""
    found = part.get("init_args") if isinstance(part, dict) else None
    return found if isinstance(found, dict) else {}


def items_sha256(dataset: Dataset) -> str:
    """Of the ids of all items, in the order of their numbers."""
    return hash_of_texts(dataset.vocabulary.item_ids)


class LearntFrom(Callback):
    """Keeps in every checkpoint the dataset, its hash, the hash of its item ids, and the protocol."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Here, where no random numbers of the training are drawn yet."""
        if stage == "fit":
            self.facts = _facts(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Texts only, which `torch.load(weights_only=True)` reads."""
        checkpoint[_KEY] = dict(self.facts)


def refuse_other_data(
    checkpoint: Mapping[str, Any], data: InteractionDataModule, path: Path, *, resuming: bool = False
) -> None:
    """Weights are of item numbers: with other items behind those, all that comes out is wrong, and nothing shows it.

    Raises IntegrityError where the dataset of that name has other items now, or while `resuming` other interactions;
    UsageError for another dataset with other items, or another training part of the same. A checkpoint from before this
    was kept is taken as it is.
    """
    told = checkpoint.get(_KEY)
    if not told:
        return
    now = _facts(data)
    kinds = ["items", *(["interactions"] if resuming else [])]
    for kind, key in zip(kinds, ("items_sha256", "dataset_sha256"), strict=False):
        if told[key] != now[key]:
            text = (
                f"{path} was trained on the {kind} of {told['dataset']} with sha256 {told[key][:12]}; those of "
                f"{now['dataset']} here have {now[key][:12]}"
            )
            if told["dataset"] == now["dataset"]:
                raise IntegrityError(
                    f"{text}: the dataset has changed; train again, or bring the new one by another name"
                )
            raise UsageError(f"{text}; 'diffrec fit --init-from' takes a model over to other items")
    refuse_other_part(str(path), TrainingPart(told["dataset"], told["protocol"]), data.split.part)


def _facts(data: InteractionDataModule) -> dict[str, str]:
    dataset = data.dataset
    return {
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "items_sha256": items_sha256(dataset),
        "protocol": data.protocol.id,
    }
