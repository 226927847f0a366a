"""An average of the weights: it follows them, is what is validated and saved, and goes on in a resumed run."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from torch import nn

from diffrec.errors import UsageError
from diffrec.training.averaging import AveragedWeights, average_of
from diffrec.training.build import build
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.fit import fit

CONFIGS = ["model/sasrec", "data/synthetic", "averaged-weights"]
WORDS = ["--model.embedding_size=8", "--model.lr=1e-2", "--trainer.callbacks.AveragedWeights.decay=0.9"]


class ByHand(Callback):
    """The average worked out after every step, and what the model holds while it is validated."""

    def __init__(self):
        self.average, self.validated = None, []

    def on_train_batch_end(self, trainer, module, *args):
        now = {name: p.detach().clone() for name, p in module.named_parameters()}
        before = self.average or now
        self.average = {name: 0.9 * before[name] + 0.1 * p for name, p in now.items()}
        self.now = now

    def on_validation_start(self, trainer, module):
        self.trained = {name: p.detach().clone() for name, p in module.named_parameters()}

    def on_validation_batch_end(self, trainer, module, *args):
        self.validated.append({name: p.detach().clone() for name, p in module.named_parameters()})

    def on_validation_end(self, trainer, module):
        assert same(self.trained, dict(module.named_parameters()))


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def trained(folder, epochs, resume=None):
    """A run after `epochs` epochs, what was worked out by hand, and its last checkpoint."""
    run = build(CONFIGS, [*WORDS, f"--trainer.max_epochs={epochs}"], folder)
    run.trainer.callbacks.append(by_hand := ByHand())
    fit(run, resume)
    return run, by_hand, read_checkpoint(folder / "checkpoints" / "last.ckpt")


def test_the_average_is_validated_saved_and_left_behind(tmp_path):
    run, by_hand, last = trained(tmp_path, 2)
    for name, wanted in by_hand.average.items():
        torch.testing.assert_close(by_hand.validated[-1][name], wanted)
        torch.testing.assert_close(last["state_dict"][name], wanted)
        assert torch.equal(last["current_model_state"][name], by_hand.now[name])
    assert not same(by_hand.now, by_hand.average)
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert same(dict(run.model.named_parameters()), best["state_dict"])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.trainer.validate(run.model, run.data, verbose=False)  # nothing is put in its place any more
    assert same(before, run.model.state_dict())
    with torch.no_grad():
        run.model.items.table.weight.zero_()
    run.trainer.validate(run.model, run.data, verbose=False)
    assert not by_hand.validated[-1]["items.table.weight"].any(), "other weights are validated as they are"


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path):
    _, _, whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "parts", 2)
    torch.manual_seed(99)
    _, _, parts = trained(tmp_path / "parts", 4, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert same(whole[part], parts[part])


def test_a_checkpoint_that_is_only_measured_is_the_average(tmp_path):
    _, _, last = trained(tmp_path, 2)
    asked = build(CONFIGS, WORDS, tmp_path / "asked")
    path = tmp_path / "checkpoints" / "last.ckpt"
    asked.trainer.validate(asked.model, asked.data, ckpt_path=path, verbose=False, weights_only=True)
    assert same(last["state_dict"], asked.model.state_dict())
    assert not same(dict(asked.model.named_parameters()), last["current_model_state"])


def test_numbers_of_items_are_copied_not_averaged():
    model = nn.Linear(2, 1)
    model.register_buffer("items", torch.tensor([5, 7]))
    average = average_of(model, 0.999)
    average.update_parameters(model)
    model.items += 2
    with torch.no_grad():
        model.weight += 1
    before = average.module.weight.clone()
    average.update_parameters(model)
    assert average.module.items.tolist() == [7, 9]
    torch.testing.assert_close(average.module.weight, before + 0.001)


def test_the_average_is_kept_where_the_model_is(unchecked_types):
    """A checkpoint is read before the model goes to its device."""
    model = LightningModule()
    model.layer = nn.Linear(2, 1)
    callback = AveragedWeights()
    callback.on_fit_start(None, model)
    callback.on_fit_start(None, model.to("meta"))
    assert {p.device.type for p in callback._average_model.parameters()} == {"meta"}


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_share_is_below_one(decay):
    with pytest.raises(UsageError, match="decay must be a finite number from 0 to below 1"):
        AveragedWeights(decay)
