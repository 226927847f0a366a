"""Every model as its configuration builds it, cut to a size that tests train in a moment."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, cast

import pytorch_lightning as pl
import torch

from diffrec.data.datamodule import InteractionDataModule
from diffrec.recommender import Recommender
from diffrec.training.config import compose
from diffrec.zoo.arguments import checked_arguments, plain
from diffrec.zoo.loading import model_class

LARGEST = 16  # widths, steps and windows of a configuration are cut to this
DEEPEST, WIDEST = 2, 4  # and stacks of blocks, and beams, to these: every beam multiplies what a request costs
NUM_ITEMS = 64


def small(value: object, most: int = LARGEST) -> object:
    """An argument with every whole number in it at most `most`."""
    if isinstance(value, list):
        return [small(part, most) for part in value]
    if isinstance(value, dict):
        limits = {"num_beams": WIDEST, **{key: DEEPEST for key in value if str(key).endswith("_blocks")}}
        return {key: small(part, min(most, limits.get(str(key), most))) for key, part in value.items()}
    return min(value, most) if type(value) is int else value


@cache
def configuration(name: str) -> dict[str, Any]:
    """What `-c model/<name>` builds a model from."""
    return cast("dict[str, Any]", compose([f"model/{name}", "data/synthetic"])["model"])


def built(name: str, seed: int = 0, num_items: int = NUM_ITEMS) -> Recommender:
    """The model that `-c model/<name>` configures, small and untrained; defaults of its constructor count too."""
    config = configuration(name)
    constructor = model_class(config["class_path"], name)
    parameters = inspect.signature(constructor).parameters.values()
    defaults = {p.name: plain(p.default) for p in parameters if p.default is not p.empty}
    stated = {**defaults, **config.get("init_args", {})}
    arguments = {"num_items": num_items, **{key: small(value) for key, value in stated.items()}}
    torch.manual_seed(seed)
    return constructor(**checked_arguments(constructor.__init__, arguments, name))


def fitted(name: str, data: InteractionDataModule, epochs: int = 2, validate: bool = False) -> Recommender:
    """The same after some epochs of Lightning."""
    model = built(name, num_items=data.num_items)
    trainer = pl.Trainer(
        max_epochs=epochs, limit_val_batches=1.0 if validate else 0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model.eval()


def started(name: str, data: InteractionDataModule) -> Recommender:
    """The same at the start of its training: quicker, and another list for everybody all the same."""
    model = built(name, num_items=data.num_items)
    model.prepare_on(data.split)
    return model.eval()
