"""Cells that were interrupted: the same result as if they had not been, and no mixture of two experiments."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from pytorch_lightning import Callback

from diffrec.bench import unfinished
from diffrec.bench.lock import holding
from diffrec.bench.result import TIMINGS
from diffrec.bench.runner import Folders, run_suite
from diffrec.bench.suite import load_suite
from diffrec.bench.unfinished import NOTE, begin, finish, finished, origin, run_folder
from diffrec.training.fit import FitResult

TRAINED = "  - {{name: sasrec, configs: [model/sasrec], overrides: [--model.embedding_size=8, --model.lr=1e-2{}]}}\n"
SHORT = ", --trainer.max_epochs=6"
EARLY = ", --trainer.max_epochs=40, --trainer.callbacks.EarlyStopping.patience=1"


class Stop(Callback):
    """Ctrl-C at the end of the fourth epoch, or of training; keeps the epochs that were begun."""

    def __init__(self, at: str | None, epochs: list[int]) -> None:
        self.at, self.epochs = at, epochs

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(trainer.current_epoch)

    def on_train_epoch_end(self, trainer, pl_module):
        if self.at == "epoch" and trainer.current_epoch == 3:
            raise KeyboardInterrupt

    def on_train_end(self, trainer, pl_module):
        if self.at == "end":
            raise KeyboardInterrupt


def lasting(result):
    """What may not differ between two runs."""
    return {key: value for key, value in asdict(result).items() if key not in TIMINGS}


def curve(log):
    with open(log, newline="") as file:
        return [(row["epoch"], row["valid/ndcg@10"]) for row in csv.DictReader(file) if row["valid/ndcg@10"]]


@pytest.mark.parametrize(("at", "words"), [("epoch", SHORT), ("end", SHORT), ("end", EARLY)])
def test_an_interrupted_cell_ends_as_if_it_had_never_stopped(at, words, suite_file, suite_text, tmp_path):
    suite = load_suite(suite_file(suite_text + TRAINED.format(words))).only(["sasrec"])
    (cell,) = suite.cells()
    folders, first, second, kept = Folders(tmp_path / "results", tmp_path / "runs"), [], [], []
    run_suite(suite, Folders(tmp_path / "whole", tmp_path / "whole-runs"), keep=kept.append)
    whole = kept.pop()
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, folders, progress=lambda monitor: Stop(at, first))
    assert not list(folders.results.rglob("*.json"))
    (folder,) = (folders.runs / cell.path.with_suffix("")).iterdir()
    spent = torch.load(folder / "checkpoints" / "last.ckpt")["callbacks"]["Stopwatch"]["seconds"]
    (outcome,) = run_suite(suite, folders, progress=lambda monitor: Stop(None, second), keep=kept.append)
    assert lasting(outcome.result) == lasting(whole.result)
    assert list(folder.parent.iterdir()) == [folder]
    assert not (folder / NOTE).exists()
    assert outcome.result.train_seconds > spent > 0
    if at == "end":
        assert (first, second) == (list(range(whole.result.epochs)), [])
    else:
        assert first == [0, 1, 2, 3]
        assert 0 < second[0] <= 4
        assert second[-1] == 5
    assert curve(kept[0].log) == curve(whole.log)
    assert len(curve(whole.log)) == whole.result.epochs


@pytest.fixture
def family(tmp_path):
    """Run folders of which the second one was left unfinished after an epoch."""
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_1" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, tmp_path / "version_1" / "checkpoints" / "last.ckpt")
    begin(tmp_path / "version_1", origin({"seed_everything": 0}), "data")
    return tmp_path


def taken(family, config=None, dataset="data"):
    with run_folder(family, origin(config or {"seed_everything": 0}), lambda: dataset) as folder:
        return folder.name


def test_an_unfinished_run_is_taken_up_until_it_is_finished(family):
    assert taken(family) == "version_1"
    assert taken(family) == "version_1"
    assert finished(family, origin({"seed_everything": 0}), lambda: "data") is None
    fitted = FitResult("valid/ndcg@10", 0.25, 3, 5, 1.5, None, 40)
    finish(family / "version_1", fitted)
    assert taken(family) == "version_2"
    best = family / "version_1" / "checkpoints" / "best.ckpt"
    assert finished(family, origin({"seed_everything": 0}), lambda: "data") is None  # there are no weights
    best.touch()
    assert finished(family, origin({"seed_everything": 0}), lambda: "data") == (
        family / "version_1",
        replace(fitted, checkpoint=best),
    )
    assert finished(family, origin({"seed_everything": 1}), lambda: "data") is None
    assert finished(family, origin({"seed_everything": 0}), lambda: "other data") is None


def test_another_experiment_starts_afresh(family, monkeypatch):
    assert taken(family, {"seed_everything": 1}) == "version_2"
    assert taken(family, dataset="other data") == "version_3"
    monkeypatch.setattr(unfinished, "packages", lambda: {"torch": "1.0"})
    assert taken(family) == "version_4"
    monkeypatch.undo()
    monkeypatch.setattr(unfinished, "code_sha256", lambda: "other code")
    assert taken(family) == "version_5"


def test_a_run_that_somebody_is_at_is_left_alone(family):
    with holding(family / "version_1" / ".lock"):
        assert taken(family) == "version_2"


def test_what_was_moved_or_damaged_starts_afresh(family, tmp_path):
    shutil.copytree(family, tmp_path / "copy")
    assert taken(tmp_path / "copy") == "version_2"
    last = family / "version_1" / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[:-10])
    assert taken(family) == "version_2"
    last.write_bytes(content)
    (family / "version_1" / NOTE).write_text("{")
    assert taken(family) == "version_3"
