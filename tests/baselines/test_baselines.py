"""What holds for every baseline: found by name, saved and loaded, configured, fitted by Lightning."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from safetensors.torch import load_file, save_file

import diffrec.baselines
from diffrec.baselines import BASELINES
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.sources import load_dataset
from diffrec.paths import resource_dir
from diffrec.recommender import ClosedFormRecommender


def baseline_class(name: str) -> type[ClosedFormRecommender]:
    return getattr(diffrec.baselines, BASELINES[name].partition(":")[2])


@pytest.fixture(params=BASELINES)
def name(request):
    return request.param


def test_classes_are_exported(name):
    assert issubclass(baseline_class(name), ClosedFormRecommender)
    assert baseline_class(name).__name__ in dir(diffrec.baselines)
    with pytest.raises(AttributeError, match="no attribute 'Ease'"):
        _ = diffrec.baselines.Ease


def test_the_list_of_baselines_imports_no_torch():
    code = "import sys, diffrec.baselines; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_saved_model_scores_the_same(name, closed_forms, tmp_path):
    model = baseline_class(name)(closed_forms.num_items)
    model.prepare_on(closed_forms.split)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    loaded = type(model)(**model.init_args)
    assert not torch.equal(loaded.score(closed_forms.history), model.score(closed_forms.history))
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.score(closed_forms.history), model.score(closed_forms.history))


def test_loading_replaces_what_was_solved_before(name, closed_forms):
    model, other = (baseline_class(name)(closed_forms.num_items) for _ in range(2))
    model.prepare_on(closed_forms.split)
    shorter = {"train": closed_forms.sequences.drop_last(4), "times": closed_forms.split.times.drop_last(4)}
    other.prepare_on(replace(closed_forms.split, **shorter))
    expected = model.score(closed_forms.history)
    assert not torch.equal(other.score(closed_forms.history), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.score(closed_forms.history), expected)


def test_scores_do_not_depend_on_the_batch(name, closed_forms):
    model = baseline_class(name)(closed_forms.num_items)
    model.prepare_on(closed_forms.split)
    one_by_one = [model.checked_scores(row[row > 0][None], None) for row in closed_forms.history]
    assert torch.equal(torch.cat(one_by_one), model.checked_scores(closed_forms.history, None))


def test_the_configuration_names_this_class(name):
    config = yaml.safe_load((resource_dir("configs") / "model" / f"{name}.yaml").read_text())
    assert config.keys() - {"controls"} == {"model", "trainer"}
    assert config["trainer"] == {"max_epochs": 1}
    assert config["model"]["class_path"] == f"diffrec.baselines.{baseline_class(name).__name__}"
    arguments = config["model"].get("init_args", {})
    built = baseline_class(name)(num_items=7, **arguments)
    assert arguments.items() <= built.init_args.items()
    assert built.init_args == baseline_class(name)(num_items=7).init_args  # it shows the defaults


def test_lightning_solves_and_validates(name, tmp_path):
    data = InteractionDataModule.of(load_dataset("synthetic"), "loo-full-masked@1")
    model = baseline_class(name)(data.num_items)
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    solved = baseline_class(name)(data.num_items)
    solved.prepare_on(data.split)
    history = torch.from_numpy(data.split.test.history.padded(np.arange(20)))
    assert torch.equal(model.score(history), solved.score(history))
    assert float(trainer.callback_metrics["valid/ndcg@10"]) > 0
