"""Which data a checkpoint was learnt from: kept in it, and compared wherever it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.protocol import refuse_other_part
from diffrec.data.splits import TrainingPart
from diffrec.errors import IntegrityError, UsageError
from diffrec.nn.artefacts import hash_of_texts

_KEY = "learnt_from"


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
        "items_sha256": hash_of_texts(dataset.vocabulary.item_ids),
        "protocol": data.protocol.id,
    }
