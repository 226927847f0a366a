"""The first loss, gradient or weight that is no number stops the run, with the weights as they were before."""

from __future__ import annotations

import math

import pytest
import torch

from diffrec.errors import DiffrecError
from diffrec.training.build import build
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.fit import fit

SMALL = ["model/sasrec", "data/synthetic"]  # 200 sequences in batches of 64: four steps an epoch


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_at_the_first_loss_that_is_no_number(value, tmp_path, monkeypatch):
    run = build(SMALL, ["--trainer.max_epochs=5", "--model.lr=0.01"], tmp_path)
    calls, weights = [], []
    good = run.model.training_loss

    def broken(batch):
        calls.append(1)
        weights[:] = [run.model.items.table.weight.detach().clone()]
        return good(batch) * (value if len(calls) == 7 else 1)

    monkeypatch.setattr(run.model, "training_loss", broken)
    with pytest.raises(DiffrecError) as caught:
        fit(run)
    text = str(caught.value)
    assert f"the loss is {value} at step 6 (epoch 2, batch 2) with learning rate 0.01" in text
    assert text.endswith(f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last.ckpt'}")
    assert len(calls) == 7
    assert torch.equal(run.model.items.table.weight, weights[0])


def test_says_when_there_is_no_checkpoint_yet(tmp_path, monkeypatch):
    run = build(SMALL, run_dir=tmp_path)
    good = run.model.training_loss
    monkeypatch.setattr(run.model, "training_loss", lambda batch: good(batch) * math.nan)
    with pytest.raises(DiffrecError, match=r"at step 0 .* no checkpoint was written before"):
        fit(run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_at_a_gradient_that_is_no_number(value, tmp_path, monkeypatch):
    run = build(SMALL, ["--trainer.max_epochs=5", "--model.lr=0.01"], tmp_path)
    calls, weights = [], {}
    good = run.model.training_loss

    def broken(batch):
        calls.append(1)
        if len(calls) == 7:
            run.model.position.weight.register_hook(lambda gradient: gradient * value)
        weights.update({name: tensor.clone() for name, tensor in run.model.state_dict().items()})
        return good(batch)

    monkeypatch.setattr(run.model, "training_loss", broken)
    with pytest.raises(
        DiffrecError, match=r"the norm of the gradient is (nan|inf) at step 6 \(epoch 2, batch 2\) with"
    ):
        fit(run)
    assert len(calls) == 7
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model.state_dict().items())


def test_a_checkpoint_without_numbers_is_not_written(tmp_path, monkeypatch):
    run = build(SMALL, ["--trainer.max_epochs=2", "--model.max_history_length=200"], tmp_path)
    good = run.model.training_loss

    def broken(batch):
        if run.trainer.current_epoch == 1:
            run.model.position.weight.data[0] = math.nan  # no history is this long, so no loss knows
        return good(batch)

    monkeypatch.setattr(run.model, "training_loss", broken)
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(
        DiffrecError, match=r"(best|last)\.ckpt is not written: position\.weight .* after epoch 2 \(step 8\)"
    ):
        fit(run)
    assert read_checkpoint(last)["epoch"] == 0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_where_nothing_may_wait_the_optimiser_passes_over_the_step(where, tmp_path, monkeypatch):
    monkeypatch.setattr("diffrec.training.guards._ASYNCHRONOUS", ("cpu",))
    run = build(SMALL, ["--trainer.max_epochs=5", "--model.lr=0.01"], tmp_path)
    calls, weights = [], []
    good = run.model.training_loss

    def broken(batch):
        calls.append(1)
        weights.append(run.model.items.table.weight.detach().clone())
        if len(calls) == 6 and where == "gradient":
            run.model.position.weight.register_hook(lambda gradient: gradient * math.nan if len(calls) == 6 else None)
        return good(batch) * (math.nan if len(calls) == 6 and where == "loss" else 1)

    monkeypatch.setattr(run.model, "training_loss", broken)
    name = "loss" if where == "loss" else "norm of the gradient"
    with pytest.raises(
        DiffrecError, match=rf"the {name} is nan at step 5 \(epoch 2, batch 1\) with learning rate 0.01"
    ):
        fit(run)
    assert len(calls) == 8, "the last step of the epoch, at whose end all numbers are looked at"
    assert torch.equal(weights[5], weights[6])
    assert not torch.equal(weights[6], weights[7])
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())
