"""A checkpoint of other items, interactions or another training part is noticed before its weights are used."""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from diffrec.baselines import BASELINES
from diffrec.bench.provenance import weights_sha256
from diffrec.cli.main import main
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.ragged import Ragged
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import IntegrityError, UsageError
from diffrec.models import MODELS, TIGER, DreamRec, LDiffRec
from diffrec.nn.artefacts import artefact_path, write_artefact
from diffrec.training import learnt_from
from diffrec.training.learnt_from import read_by, refuse_other_data
from diffrec.zoo import save

PATH = Path("last.ckpt")


@pytest.fixture(scope="module")
def dataset():
    return synthetic(num_users=40, num_items=20)


def data_of(dataset, protocol="loo-full-masked@1"):
    return InteractionDataModule.of(dataset, protocol)


@pytest.fixture
def checkpoint(dataset):
    return {learnt_from._KEY: learnt_from._facts(data_of(dataset))}  # what the callback keeps


def renamed(dataset):
    ids = dataset.vocabulary.item_ids
    return replace(dataset, vocabulary=Vocabulary((*ids[1:], ids[0])))


def longer(dataset):
    """The same items, every user with the first item once more."""
    everybody = dataset.parts["all"]
    rows = [[*everybody.items[row].tolist(), int(everybody.items[row][0])] for row in range(len(everybody))]
    return replace(dataset, parts={"all": replace(everybody, items=Ragged.from_rows(rows), timestamps=None)})


@pytest.mark.parametrize("resuming", [False, True])
def test_the_same_data_are_taken(checkpoint, dataset, resuming):
    refuse_other_data(checkpoint, data_of(dataset), PATH, resuming=resuming)
    refuse_other_data(checkpoint, data_of(dataset, "loo-full-unmasked@1"), PATH, resuming=resuming)
    refuse_other_data({}, data_of(renamed(dataset)), PATH, resuming=resuming)  # from before this was kept


def test_other_items_behind_the_numbers_are_refused(checkpoint, dataset):
    with pytest.raises(IntegrityError, match=r"was trained on the items of synthetic.*the dataset has changed"):
        refuse_other_data(checkpoint, data_of(renamed(dataset)), PATH)
    with pytest.raises(UsageError, match=r"those of shop here have .*'diffrec fit --init-from' takes a model over"):
        refuse_other_data(checkpoint, data_of(replace(renamed(dataset), name="shop")), PATH)


def test_new_interactions_may_be_asked_and_are_nothing_to_go_on_with(checkpoint, dataset):
    refuse_other_data(checkpoint, data_of(longer(dataset), "loo-full-unmasked@1"), PATH)
    with pytest.raises(IntegrityError, match="was trained on the interactions of synthetic"):
        refuse_other_data(checkpoint, data_of(longer(dataset), "loo-full-unmasked@1"), PATH, resuming=True)


def test_another_training_part_is_refused(checkpoint, dataset):
    with pytest.raises(UsageError, match="trained on loo-full-masked@1 of synthetic; what temporal-811@1 asks may be"):
        refuse_other_data(checkpoint, data_of(dataset, "temporal-811@1"), PATH)


def test_a_run_whose_dataset_was_replaced_is_neither_measured_kept_nor_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))

    def bring(names):
        lines = [f"u{user},{names[(user + step) % 6]},{step}" for user in range(12) for step in range(5)]
        Path("log.csv").write_text("\n".join(["user,item,timestamp", *lines]) + "\n")
        assert main(["data", "import", "log.csv", "--name", "shop", "--force"]) == 0

    fit = ["fit", "-c", "model/sasrec", "--data.dataset=shop", "--model.embedding_size=8", "--quiet"]
    bring([f"item {letter}" for letter in "abcdef"])
    assert main([*fit, "--trainer.max_epochs=1"]) == 0
    bring([f"item {letter}" for letter in "uvwxyz"])
    checkpoint = "runs/sasrec-shop/version_0/checkpoints/last.ckpt"
    for words in (
        ["test", "--ckpt", checkpoint],
        ["predict", "--ckpt", checkpoint],
        ["zoo", "save", "runs/sasrec-shop/version_0"],
        [*fit, "--trainer.max_epochs=2", "--resume", checkpoint],
    ):
        capsys.readouterr()
        assert main(words) == 3, words
        assert "the dataset has changed; train again" in capsys.readouterr().err
    assert not Path("runs/sasrec-shop/version_0/entry").exists()


def asked(**arguments):
    return {"model": {"class_path": "x", "init_args": arguments}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path))
    return tmp_path


def test_vectors_and_codes_are_named_by_the_hash_of_their_tensors(cache):
    for cls, argument, kind in ((DreamRec, "item_vectors", "vectors"), (TIGER, "codes", "codes")):
        (read,) = read_by(cls, asked(**{argument: "shop/text"})).values()
        assert not read.is_kept
        path = artefact_path(kind, "shop/text")
        kept = write_artefact(path, {kind: torch.arange(12.0).view(4, 3)}, {})
        assert read.is_kept
        (by_path,) = read_by(cls, asked(**{argument: str(path)})).values()
        assert read.sha256() == by_path.sha256() == kept.sha256
        assert not by_path.is_kept
        write_artefact(path, {kind: torch.ones(4, 3)}, {})
        assert read.sha256() != kept.sha256


def test_a_model_that_is_learnt_from_is_named_by_the_hash_of_its_weights(dataset, tmp_path):
    teacher = DreamRec(dataset.num_items, embedding_size=4)
    save(teacher, tmp_path / "teacher", dataset=dataset)
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "last.ckpt")
    for name in ("teacher", "last.ckpt"):
        callback = {"class_path": learnt_from._DISTILLATION, "init_args": {"teacher": str(tmp_path / name)}}
        told = read_by(DreamRec, {**asked(item_vectors=None), "trainer": {"callbacks": [callback]}})
        assert {key: read.sha256() for key, read in told.items()} == {
            "trainer.callbacks.Distillation.teacher": weights_sha256(teacher)
        }
    (source,) = read_by(LDiffRec, asked(item_vectors=str(tmp_path / "teacher"))).values()
    assert source.sha256() == weights_sha256(teacher)


@pytest.mark.parametrize(
    "config",
    [{}, {"model": 3}, asked(item_vectors=3), {"model": {}, "trainer": {"callbacks": "x"}},
     {"trainer": {"callbacks": [3, {"class_path": learnt_from._DISTILLATION, "init_args": []}]}}],
)  # fmt: skip
def test_a_configuration_that_names_nothing_reads_nothing(config):
    assert read_by(DreamRec, config) == {}


def test_every_model_tells_which_arguments_it_reads():
    for path in {**MODELS, **BASELINES}.values():
        module, name = path.split(":")
        cls = getattr(import_module(module), name)
        taken = {"item_vectors", "codes"} & inspect.signature(cls).parameters.keys()
        assert {argument for argument, _ in cls.reads} == taken, name
