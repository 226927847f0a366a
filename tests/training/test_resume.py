"""A run that goes on: only the same experiment, and then bit for bit as if it had never stopped."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch.utils.data import DataLoader

from diffrec.cli.main import main
from diffrec.data.datamodule import InteractionDataModule
from diffrec.errors import IntegrityError, NotFoundError, UsageError
from diffrec.training.build import build
from diffrec.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from diffrec.training.fit import fit
from diffrec.training.resume import LastCheckpoint, RandomStates, checkpoint_to_go_on_from

SMALL = ["model/sasrec", "data/synthetic"]
MODELS = {
    "diffrec": ["--model.dims=[8]", "--model.lr=1e-2", "--model.stochastic=true"],
    "sasrec": ["--model.embedding_size=8", "--model.lr=1e-2"],
}
INSIDE = {
    **MODELS,
    "bpr-mf": ["--model.embedding_size=8"],
    "ldiffrec": [],
    "lightgcn": ["--model.embedding_size=8"],
}
OF_STEPS = [
    f"--trainer.callbacks.ModelCheckpoint.{word}"
    for word in ("every_n_train_steps=2", "save_top_k=-1", "filename=at{step}", "auto_insert_metric_name=false")
]


class Draws(Callback):
    """Uses the generators that torch does not seed, as a model might."""

    def __init__(self):
        self.drawn = []

    def on_train_batch_start(self, *args):
        self.drawn.append((np.random.standard_normal(), random.gauss()))


def trained(name, folder, epochs, *words, resume=None):
    """A run after `epochs` epochs with the weights, optimiser and draws of its last one."""
    run = build([f"model/{name}", "data/synthetic"], [*INSIDE[name], f"--trainer.max_epochs={epochs}", *words], folder)
    run.trainer.callbacks.append(draws := Draws())
    fit(run, resume)
    return read_checkpoint(folder / "checkpoints" / "last.ckpt"), draws.drawn


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_is_the_run_that_never_stopped(name, every, tmp_path):
    """200 losses an epoch fill the history of the five steps of time, so that their draws depend on it by then."""
    words = [f"--trainer.check_val_every_n_epoch={every}"]
    whole, draws = trained(name, tmp_path / "whole", 7, *words)
    trained(name, tmp_path / "parts", 3, *words)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    parts, later = trained(name, tmp_path / "parts", 7, *words, resume=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert_same(whole, parts)
    assert later == draws[-len(later) :]


def assert_same(whole, parts):
    """The checkpoints hold the same weights and states of the optimiser."""
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items())
    (one,), (other,) = whole["optimizer_states"], parts["optimizer_states"]
    assert one["param_groups"] == other["param_groups"]
    for key, state in one["state"].items():
        assert all(torch.equal(value, other["state"][key][part]) for part, value in state.items())
    assert whole["global_step"] == parts["global_step"]


def with_workers(monkeypatch):
    """Data loaders that read ahead in another process."""
    alone = InteractionDataModule.train_dataloader

    def train_dataloader(self):
        loader = alone(self)
        return DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=1)

    monkeypatch.setattr(InteractionDataModule, "train_dataloader", train_dataloader)


@pytest.mark.parametrize("name", INSIDE)
def test_a_run_resumed_inside_an_epoch_is_the_run_that_never_stopped(unchecked_types, name, tmp_path):
    words = ["--trainer.limit_train_batches=4", "--data.batch_size=45", *OF_STEPS]
    whole, draws = trained(name, tmp_path, 3, *words)
    parts, later = trained(name, tmp_path, 3, *words, resume=tmp_path / "checkpoints" / "at6.ckpt")
    assert_same(whole, parts)
    assert later == draws[6:]


@pytest.mark.parametrize("checkpoint", ["at6", "last"])
@pytest.mark.parametrize("name", MODELS)
def test_workers_that_read_ahead_change_nothing(unchecked_types, name, checkpoint, tmp_path, monkeypatch):
    words = ["--data.batch_size=50", *OF_STEPS]
    whole, draws = trained(name, tmp_path / "whole", 3, *words)
    with_workers(monkeypatch)
    trained(name, tmp_path / "parts", 2, *words)
    path = tmp_path / "parts" / "checkpoints" / f"{checkpoint}.ckpt"
    parts, later = trained(name, tmp_path / "parts", 3, *words, resume=path)
    assert_same(whole, parts)
    assert later == draws[-len(later) :]


@pytest.mark.parametrize("step", [6, 8])
def test_a_validation_that_was_done_is_not_done_again(unchecked_types, step, tmp_path):
    """Checkpoints from behind a validation inside an epoch and the one at its end."""
    words = ["--data.batch_size=50", "--trainer.val_check_interval=2", *OF_STEPS[1:]]
    whole, draws = trained("sasrec", tmp_path, 3, *words)
    parts, later = trained("sasrec", tmp_path, 3, *words, resume=tmp_path / "checkpoints" / f"at{step}.ckpt")
    assert_same(whole, parts)
    assert later == draws[step:]


def test_places_from_which_nothing_goes_on_are_told(tmp_path):
    trained("sasrec", tmp_path, 2, "--data.batch_size=50", *OF_STEPS)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    folder = tmp_path / "checkpoints"
    kept = read_checkpoint(folder / "at6.ckpt")
    batches = kept["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    gradients = kept["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["zero_grad"]

    def refused(name, words, **trainer):
        with pytest.raises(UsageError, match=rf"{name}\.ckpt {words}"):
            checkpoint_to_go_on_from({**config, "trainer": {**config["trainer"], **trainer}}, folder / f"{name}.ckpt")

    checkpoint_to_go_on_from(config, folder / "at6.ckpt")
    refused("at6", r"is inside epoch 2, and trainer\.max_epochs is 1; ask for more", max_epochs=1)
    refused("at8", "was written before the validation at the end of epoch 2; training goes on from between two batches")
    gradients["total"]["completed"] += 1
    torch.save(kept, folder / "added.ckpt")
    refused("added", "was written while gradients of several batches were added up, in the middle of epoch 2")
    batches["ready"] += 1
    torch.save(kept, folder / "batch.ckpt")
    refused("batch", "was written in the middle of a batch of epoch 2")


def test_a_run_of_steps_does_not_go_on_from_an_end_of_an_epoch(tmp_path):
    trained("sasrec", tmp_path, 1, "--data.batch_size=50", "--trainer.max_steps=4")
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint_to_go_on_from(config, last)
    stored = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(stored.replace("max_steps: 4", "max_steps: 9"))
    config["trainer"]["max_steps"] = 9
    with pytest.raises(UsageError, match=r"is at the end of epoch 1; a run with trainer\.max_steps goes on only from"):
        checkpoint_to_go_on_from(config, last)


def test_random_states_are_plain_data_and_come_back(tmp_path):
    run = build(SMALL, run_dir=tmp_path)
    (states,) = [callback for callback in run.trainer.callbacks if isinstance(callback, RandomStates)]
    torch.save(states.state_dict(), tmp_path / "states.pt")

    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random(), random.gauss()]

    first = draw()
    states.load_state_dict(torch.load(tmp_path / "states.pt", weights_only=True))
    states.on_fit_start(run.trainer, run.model)
    assert draw() == first


def test_another_experiment_is_refused_with_both_values(tmp_path):
    fit(build(SMALL, ["--trainer.max_epochs=1", "--model.embedding_size=8"], tmp_path))
    last, stored = tmp_path / "checkpoints" / "last.ckpt", (tmp_path / "config.yaml").read_bytes()
    words = ["--model.embedding_size=16", "--seed_everything=3", "--data.protocol=loo-full-unmasked@1"]
    words += ["--trainer.callbacks.EarlyStopping.patience=3", "--model.lr=1", "--data.seed=1"]
    run = build(SMALL, [*words, "--trainer.max_epochs=2"], tmp_path)
    with pytest.raises(UsageError) as caught:
        fit(run, last)
    assert str(caught.value) == (
        f"{last} is of another experiment: seed_everything is 3, was 0; trainer.callbacks.0.patience is 3, was 10; "
        "model.embedding_size is 16, was 8; model.lr is 1, was 0.001; data.protocol is loo-full-unmasked@1, was "
        "loo-full-masked@1; and 1 more. Only trainer.max_epochs, trainer.max_time, trainer.logger may differ in a run "
        "that goes on"
    )
    assert (tmp_path / "config.yaml").read_bytes() == stored
    assert read_checkpoint(last)["epoch"] == 0


def test_length_and_logger_may_change_and_are_what_changes_in_the_stored_configuration(tmp_path):
    fit(build(SMALL, ["--trainer.max_epochs=1", "--model.embedding_size=8"], tmp_path))
    before = yaml.safe_load((tmp_path / "config.yaml").read_text())
    words = ["--trainer.max_epochs=2", "--model.embedding_size=8", "--trainer.max_time=00:01:00:00"]
    fit(build(SMALL, [*words, "--trainer.logger=false"], tmp_path), tmp_path / "checkpoints" / "last.ckpt")
    after = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert after["trainer"] == {
        **before["trainer"], "max_epochs": 2, "max_time": "00:01:00:00", "logger": False,
    }  # fmt: skip
    assert {**after, "trainer": None} == {**before, "trainer": None}


def test_a_run_that_is_to_end_before_its_checkpoint_is_refused(tmp_path):
    fit(build(SMALL, ["--trainer.max_epochs=2", "--model.embedding_size=8"], tmp_path))
    last = tmp_path / "checkpoints" / "last.ckpt"
    shorter, same = (
        build(SMALL, [f"--trainer.max_epochs={epochs}", "--model.embedding_size=8"], tmp_path).config
        for epochs in (1, 2)
    )
    with pytest.raises(UsageError, match=r"is at the end of epoch 2, and trainer\.max_epochs is 1; ask for more"):
        checkpoint_to_go_on_from(shorter, last)
    checkpoint_to_go_on_from(same, last)


def test_the_command_refuses_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "-c", "model/sasrec", "-c", "data/synthetic", "--model.embedding_size=8", "--quiet"]
    assert main([*words, "--trainer.max_epochs=1"]) == 0
    assert main([*words, "--trainer.max_epochs=2", "--seed_everything=1", "--resume", "auto"]) == 2
    assert "is of another experiment: seed_everything is 1, was 0. Only" in capsys.readouterr().err


def test_what_is_needed_to_go_on_is_named(tmp_path):
    fit(build(SMALL, ["--trainer.max_epochs=1", "--model.embedding_size=8"], tmp_path))
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(NotFoundError, match=r"no checkpoint .*lst\.ckpt; did you mean 'last\.ckpt'"):
        checkpoint_to_go_on_from({}, last.with_name("lst.ckpt"))
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(NotFoundError, match=r"there is no .*config\.yaml"):
        checkpoint_to_go_on_from({}, last)
    last.write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"last\.ckpt"):
        checkpoint_to_go_on_from({}, last)


@pytest.mark.parametrize(
    ("share", "words", "written"),
    [
        (0, ["--trainer.max_epochs=3"], [0, 1, 2]),
        (1e9, ["--trainer.max_epochs=3"], [0, 2]),
        (1e9, ["--trainer.max_epochs=-1", "--trainer.max_steps=2"], [0, 1]),
    ],
)
def test_writing_takes_a_share_of_the_time_and_the_last_epoch_is_written(share, words, written, tmp_path, monkeypatch):
    epochs, save = [], AtomicCheckpointIO.save_checkpoint

    def saving(self, checkpoint, path, storage_options=None):
        if str(path).endswith("last.ckpt"):
            epochs.append(checkpoint["epoch"])
        save(self, checkpoint, path)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", saving)
    monkeypatch.setattr(LastCheckpoint, "_SHARE", share)
    words = [*words, "--model.embedding_size=8", "--trainer.check_val_every_n_epoch=100", "--data.batch_size=200"]
    fit(build(SMALL, words, tmp_path))
    assert epochs == written
