"""What constructors refuse is found at once, each with its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from diffrec.errors import NotFoundError, UsageError
from diffrec.recommender import Recommender
from diffrec.training import config_values
from diffrec.training.build import build
from diffrec.training.config import compose, shipped_configs
from diffrec.training.config_check import flawless, import_class
from diffrec.training.yaml_tree import Node, read_yaml

SMALL = ["model/sasrec", "data/synthetic"]
MODELS = [name for name in shipped_configs() if name.startswith("model/")]


def told(*configs: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(UsageError) as caught:
        compose(configs, overrides, with_values=True)
    return str(caught.value).splitlines()


def test_mistakes_of_every_kind_are_told_at_once_with_their_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("first.yaml").write_text(
        "model:\n  init_args:\n    embeding_size: 64\n    num_blocks: two\n    num_heads: 0\n"
    )
    Path("second.yaml").write_text(
        "model: {init_args: {dropout: 7}}\n"
        "data:\n  batch_size: 0\n  protocol: loo-full-maskd@1\n"
        "trainer:\n  callbacks:\n"
        "  - class_path: pytorch_lightning.callbacks.EarlyStoping\n"
        "  - class_path: pytorch_lightning.callbacks.ModelCheckpoint\n"
        "    init_args: {save_top_k: -5, mode: mx}\n"
    )
    overrides = ["--model.lr=-1", "--trainer.callbacks.ModelCheckpiont.mode=min"]
    lines = told(*SMALL, "first.yaml", "second.yaml", overrides=overrides)
    assert [line.partition("; there are")[0].partition("; allowed are")[0] for line in lines] == [
        "first.yaml:3: key 'embeding_size' is not an argument of diffrec.models.SASRec; did you mean 'embedding_size'?",
        "first.yaml:4: num_blocks must be int, got 'two'",
        "first.yaml:5: num_heads must be a whole number from 1, got 0",
        "second.yaml:1: dropout must be a finite number from 0 to below 1, got 7.0",
        "second.yaml:3: batch_size must be a whole number from 1, got 0",
        "second.yaml:4: no protocol 'loo-full-maskd@1'",
        "second.yaml:7: class_path 'pytorch_lightning.callbacks.EarlyStoping' is not allowed",
        "second.yaml:9: `mode` can be min, max but got mx",
        "second.yaml:9: Invalid value for save_top_k=-5. Must be >= -1",
        "--trainer.callbacks.ModelCheckpiont.mode: 'ModelCheckpiont' is not one of EarlyStopping, ModelCheckpoint, "
        "EarlyStoping; did you mean 'ModelCheckpoint'?",
        "--model.lr: lr must be a finite number from 0, got -1.0",
    ]
    assert "did you mean 'loo-full-masked@1'?" in lines[5]
    assert "did you mean 'pytorch_lightning.callbacks.EarlyStopping'?" in lines[6]


def test_values_that_do_not_go_together_are_told_with_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("model:\n  init_args:\n    embedding_size: 30\n")
    message = "embedding_size must be a multiple of num_heads, got 30 and 4"
    assert told(*SMALL, "mine.yaml", overrides=["--model.num_heads=4"]) == [
        f"mine.yaml:3, --model.num_heads: {message}"
    ]


def test_what_comes_of_a_default_that_stands_in_is_not_told():
    """64, the default, is no multiple of 7; that the right size is none either nobody knows."""
    overrides = ["--model.embedding_size=wide", "--model.num_heads=7", "--model.dropout=1"]
    lines = told(*SMALL, overrides=overrides)
    assert [line.partition(":")[0] for line in lines] == ["--model.embedding_size", "--model.dropout"]


def test_what_decoding_asks_for_is_tried():
    overrides = ["--decoding.eta=2", "--decoding.scheduler=DDIM", "--decoding.guidance_scale=.inf"]
    lines = told("model/dreamrec", "data/synthetic", overrides=overrides)
    assert [line.partition(": ")[0] for line in lines] == [
        "--decoding.guidance_scale", "--decoding.scheduler", "--decoding.eta",
    ]  # fmt: skip


def test_a_name_of_nothing_is_not_found_unless_more_is_wrong():
    with pytest.raises(NotFoundError, match=r"^--data.dataset: no dataset 'synthetc'; .* mean 'synthetic'"):
        compose(SMALL, ["--data.dataset=synthetc"], with_values=True)
    with pytest.raises(NotFoundError, match=r"^no configuration 'nope'.*\nno configuration 'data/synthtic'; did you"):
        compose(["nope", "data/synthtic"])
    lines = told("nope", overrides=["--data.dataset=synthetc", "--model.lr=[1"])
    assert [line.partition("'")[0] for line in lines] == [
        "no configuration ",
        "--model.lr: this is not YAML: did not find expected ",
    ]


def test_a_composition_alone_builds_nothing():
    assert compose(SMALL, ["--model.dropout=7"])["model"]["init_args"]["dropout"] == 7


def test_an_error_of_the_construction_names_the_place(tmp_path):
    with pytest.raises(UsageError, match=r"^--model.dropout: .*dropout must be a finite number"):
        build(SMALL, ["--model.dropout=7"], tmp_path)
    with pytest.raises(UsageError, match=r"^--trainer.limit_val_batches: the configuration cannot be built: "):
        build(SMALL, ["--trainer.limit_val_batches=-1"], tmp_path)


def test_a_class_that_is_not_allowed_is_never_built(monkeypatch):
    """Its name is like an allowed one, so that what else is wrong is looked for."""
    built = []
    monkeypatch.setattr(config_values, "_callback", lambda cls, **arguments: built.append(cls.__name__))
    words = ["--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.ProgressBar}]", "--model.dropout=7"]
    assert [line.partition(": ")[0] for line in told(*SMALL, overrides=words)] == [
        "--trainer.callbacks", "--model.dropout",
    ]  # fmt: skip
    assert set(built) == {"EarlyStopping", "ModelCheckpoint"}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_tried(name):
    """Else a mistake in its arguments would be told alone, when the run is built."""
    path = shipped_configs()[name]
    model = read_yaml(path.read_text(), str(path)).get("model")
    cls = import_class(model.get("class_path").value)
    state = torch.get_rng_state()
    built = config_values._model(cls, **flawless(model.get("init_args") or Node({}, name), cls))
    assert isinstance(built, Recommender)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_is_far_too_large_is_not_tried():
    """DreamRec looks at its rate when it has everything else."""
    files, words = ("model/dreamrec", "data/synthetic"), ["--model.lr=-1", "--data.batch_size=0"]
    assert [line.partition(":")[0] for line in told(*files, overrides=words)] == ["--data.batch_size", "--model.lr"]
    too_large = ["--model.embedding_size=1000000000", *words]
    assert [line.partition(":")[0] for line in told(*files, overrides=too_large)] == ["--data.batch_size"]
