"""A checkpoint of other items, interactions or another training part is noticed before its weights are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffrec.cli.main import main
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.ragged import Ragged
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import IntegrityError, UsageError
from diffrec.training import learnt_from
from diffrec.training.learnt_from import refuse_other_data

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
