"""One construction for everybody: seeds, places of files, overrides, and what goes wrong while building."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from pytorch_lightning.accelerators import MPSAccelerator

from diffrec.baselines import Popularity
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import SASRec
from diffrec.training.build import _Lightning, build, decoded, last_checkpoint, new_run_dir, run_family
from diffrec.training.checkpoint_io import AtomicCheckpointIO

SMALL = ["model/sasrec", "data/synthetic"]


def test_builds_model_data_and_trainer_that_belong_together(tmp_path):
    run = build(SMALL, ["--model.embedding_size=16", "--data.batch_size=7"], tmp_path)
    assert isinstance(run.model, SASRec)
    assert run.model.num_items == run.data.num_items == 100
    assert run.model.items.table.weight.shape == (101, 16)
    assert run.data.batch_size == 7
    assert run.model.vocabulary is run.data.dataset.vocabulary
    assert isinstance(run.trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_the_seed_makes_the_model_and_the_order_of_the_data(tmp_path):
    def built(*words):
        return build(SMALL, words, tmp_path)

    def first_batch(run):
        run.data.examples = "next"
        return next(iter(run.data.train_dataloader())).history

    one, same, other = built(), built("--seed_everything=0"), built("--seed_everything=1")
    weights = [run.model.items.table.weight for run in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(first_batch(one), first_batch(same))
    assert first_batch(one).shape != first_batch(other).shape or not torch.equal(first_batch(one), first_batch(other))
    assert (one.data.seed, other.data.seed) == (0, 1)
    assert built("--seed_everything=1", "--data.seed=5").data.seed == 5


def test_everything_is_written_below_the_run_folder(tmp_path):
    run = build([*SMALL, "logger/wandb-offline"], run_dir=tmp_path / "run")
    folders = [callback.dirpath for callback in run.trainer.checkpoint_callbacks]
    folders += [logger.save_dir for logger in run.trainer.loggers] + [run.trainer.default_root_dir]
    assert len(folders) == 5
    assert all(Path(folder).resolve().is_relative_to(tmp_path / "run") for folder in folders)


def test_how_a_model_samples_is_a_word_of_decoding(tmp_path):
    files = ["model/dreamrec", "data/synthetic"]
    words = ["--decoding.scheduler=DDIMScheduler", "--decoding.eta=0", "--decoding.guidance_scale=1.5"]
    run = build(files, [*words, "--decoding.num_inference_steps=5", "--model.embedding_size=8"], tmp_path)
    measured = decoded(run.model, run.config)
    assert (run.model.eta, run.model.num_inference_steps) == (1.0, None)
    assert (measured.eta, measured.num_inference_steps, measured.guidance_scale) == (0, 5, 1.5)
    assert run.config["decoding"] == {
        "scheduler": "DDIMScheduler",
        "eta": 0,
        "guidance_scale": 1.5,
        "num_inference_steps": 5,
    }


@pytest.mark.parametrize(
    ("files", "words", "error", "message"),
    [
        ("model/dreamrec", ["--decoding.eta=2"], UsageError, "eta must lie from 0 to 1, got 2"),
        ("model/dreamrec", ["--decoding.scheduler=DDIM"], NotFoundError, "no scheduler 'DDIM'"),
        ("model/dreamrec", ["--decoding.eta=none"], UsageError, "--decoding.eta: eta must be float or null"),
        ("model/dreamrec", ["--decoding.schedular=DDIMScheduler"], UsageError, "did you mean 'scheduler'"),
        (
            "model/flowcf",
            ["--decoding.scheduler=DDIMScheduler"],
            UsageError,
            "FlowCF has no scheduler, so leave it out",
        ),
        ("model/diffrec", ["--decoding.dims=[9]"], UsageError, "decoding changes the weights, set dims below model"),
    ],
)
def test_decoding_that_cannot_be_is_told_before_training(files, words, error, message, tmp_path):
    with pytest.raises(error, match=message):
        build([files, "data/synthetic"], words, tmp_path)


def test_closed_forms_are_fitted_in_one_epoch(tmp_path):
    words = ["--trainer.max_epochs=9", "--trainer.check_val_every_n_epoch=3"]
    run = build(["model/popularity", "data/synthetic"], words, tmp_path)
    assert isinstance(run.model, Popularity)
    assert (run.trainer.max_epochs, run.trainer.check_val_every_n_epoch) == (1, 1)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--data.dataset=synthetc"], NotFoundError, "did you mean 'synthetic'"),
        (["--data.protocol=loo-full-maskd@1"], NotFoundError, "did you mean 'loo-full-masked@1'"),
        (["--trainer.accelerator=gpuu"], UsageError, "gpuu"),
        (["--trainer.callbacks.EarlyStopping.mode=mx"], UsageError, "`mode` can be min, max, got mx"),
        (["--trainer.limit_val_batches=-1"], UsageError, "limit_val_batches"),
        (["--trainer.max_time={days: 99999999999999999}"], UsageError, "cannot be built: .* too large"),
        (["--trainer.accelerator=tpu"], UsageError, "cannot be built: .*torch_xla"),
    ],
)
def test_wrong_values_are_errors_in_words_and_leave_no_folder(words, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        build(SMALL, words)
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_file_that_a_value_names_is_not_read(tmp_path):
    """jsonargparse would take a strategy from a file, which no check has seen."""
    evil = tmp_path / "evil.yaml"
    evil.write_text("class_path: pytorch_lightning.strategies.SingleDeviceStrategy\n")
    with pytest.raises(UsageError, match=r"evil\.yaml"):
        build(SMALL, [f"--trainer.strategy={evil}"], tmp_path / "run")


def test_run_folders_are_numbered_and_the_newest_checkpoint_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = build(SMALL).config
    family = run_family(config)
    assert family == Path("runs/sasrec-synthetic")
    assert [new_run_dir(family).name for _ in range(2)] == ["version_1", "version_2"]
    assert last_checkpoint(config) is None
    older, newer = (family / name / "checkpoints" / "last.ckpt" for name in ("version_2", "version_1"))
    for age, path in ((100, older), (200, newer)):
        path.parent.mkdir()
        path.touch()
        os.utime(path, (age, age))
    assert last_checkpoint(config) == newer
    assert last_checkpoint(config, family / "version_2") == older


@pytest.mark.parametrize(("there", "expected"), [(True, "cpu"), (False, "auto")])
def test_a_mac_trains_on_its_cpu(there, expected, tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        _Lightning, "parse_arguments", lambda self, parser, args: chosen.append(args["trainer"]) or exit()
    )
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: there))
    with pytest.raises(SystemExit):
        build(SMALL, run_dir=tmp_path)
    assert chosen[0]["accelerator"] == expected


@pytest.mark.parametrize("devices", ["1", "auto"])
def test_every_run_has_one_device(devices, tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(
        _Lightning, "parse_arguments", lambda self, parser, args: chosen.append(args["trainer"]) or exit()
    )
    with pytest.raises(SystemExit):
        build(SMALL, [f"--trainer.devices={devices}"], tmp_path)
    assert chosen[0]["devices"] == 1
