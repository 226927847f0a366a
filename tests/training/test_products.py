"""When products of matrices may round."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from diffrec.baselines import EASE
from diffrec.training.build import build
from diffrec.training.fit import fit
from diffrec.training.products import QuickProducts

now = torch.get_float32_matmul_precision


@pytest.fixture(autouse=True)
def usual():
    """The precision that torch starts with, and it is back at the end."""
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision("highest")


def on(device: str, cls: type[LightningModule] = LightningModule, **arguments: int) -> LightningModule:
    """A module that says it is on that device."""
    return type("Module", (cls,), {"device": torch.device(device)})(**arguments)


def step(module, failing: bool = False):
    """The precision within and after a step."""
    callback, trainer = QuickProducts(), Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    callback.on_train_batch_start(trainer, module, None, 0)
    within = now()
    if failing:
        callback.on_exception(trainer, module, KeyboardInterrupt())
    else:
        callback.on_train_batch_end(trainer, module, None, None, 0)
    return within, now()


@pytest.mark.parametrize("failing", [False, True])
def test_a_step_on_cuda_is_quick_and_what_follows_is_exact(failing):
    assert step(on("cuda"), failing) == ("high", "highest")


@pytest.mark.parametrize("module", [on("cpu"), on("cuda", EASE, num_items=3)], ids=["cpu", "closed form"])
def test_elsewhere_nothing_rounds(module):
    assert step(module) == ("highest", "highest")


def test_a_precision_that_was_chosen_stays():
    torch.set_float32_matmul_precision("medium")
    assert step(on("cuda")) == ("medium", "medium")


def test_every_run_has_it(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(QuickProducts, "on_train_batch_end", lambda *_: seen.append(now()))
    run = build(["model/diffrec", "data/synthetic"], ["--trainer.max_epochs=1", "--model.dims=[8]"], tmp_path)
    fit(run)
    assert set(seen) == {"highest"}  # on a processor
