"""Training through Lightning: best weights come back, closed forms pass, runs continue, Ctrl-C gets through."""

from __future__ import annotations

import csv
import signal
import warnings

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback

from diffrec.training.build import build
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.fit import fit

SMALL = ["model/sasrec", "data/synthetic"]


class _Watch(Callback):
    def __init__(self, act):
        self.act = act

    def on_train_epoch_start(self, trainer, pl_module):
        self.act(trainer, pl_module)


def metrics_of(run) -> list[dict[str, str]]:
    with (run.run_dir / "logs" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["valid/ndcg@10"]]


def measured(run) -> float:
    run.trainer.logger = None
    return run.trainer.validate(run.model, run.data, verbose=False)[0]["valid/ndcg@10"]


def test_the_best_weights_come_back(tmp_path):
    """The item table is thrown away after epoch 6, so the last epoch cannot be the best one."""

    def wreck(trainer, model):
        if trainer.current_epoch == 6:
            torch.nn.init.normal_(model.items.table.weight)

    run = build(SMALL, ["--trainer.max_epochs=8", "--model.embedding_size=16", "--model.lr=0.01"], tmp_path)
    run.trainer.callbacks.append(_Watch(wreck))
    result = fit(run)
    history = [float(row["valid/ndcg@10"]) for row in metrics_of(run)]
    assert len(history) == result.epochs == 8
    assert result.metric == "valid/ndcg@10"
    assert result.best == pytest.approx(max(history))
    assert result.epoch == history.index(max(history)) + 1 <= 6
    assert result.checkpoint == tmp_path / "checkpoints" / "best.ckpt"
    assert measured(run) == pytest.approx(max(history))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == run.config


def test_the_same_seed_gives_the_same_run(tmp_path):
    words = ["--trainer.max_epochs=2", "--model.embedding_size=16"]
    runs = [build(SMALL, words, tmp_path / str(i)) for i in range(2)]
    assert fit(runs[0]).best == fit(runs[1]).best
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_early_stopping_counts_evaluations(tmp_path):
    words = [
        "--trainer.max_epochs=50",
        "--model.embedding_size=8",
        "--model.lr=0",
        "--trainer.check_val_every_n_epoch=2",
    ]
    run = build(SMALL, [*words, "--trainer.callbacks.EarlyStopping.patience=3"], tmp_path)
    result = fit(run)
    assert (result.epoch, result.epochs) == (2, 8)


@pytest.mark.parametrize("model", ["popularity", "markov", "sequential-rules", "item-knn", "ease"])
def test_closed_forms_are_fitted_saved_and_read_again(model, tmp_path):
    configs = [f"model/{model}", "data/synthetic"]
    run = build(configs, run_dir=tmp_path / "run")
    result = fit(run)
    assert (result.epoch, result.epochs) == (1, 1)
    fresh = build(configs, run_dir=tmp_path / "fresh")
    fresh.model.load_state_dict(read_checkpoint(result.checkpoint)["state_dict"])
    assert measured(fresh) == pytest.approx(result.best)
    history = run.data.split.test.history.padded(np.arange(20))
    lists = [r.model.recommend(torch.from_numpy(history)).items for r in (run, fresh)]
    assert torch.equal(*lists)


def test_closed_forms_warn_of_nothing_that_is_meant_so(tmp_path, recwarn):
    warnings.simplefilter("always")
    fit(build(["model/popularity", "data/synthetic"], run_dir=tmp_path))
    told = [str(warning.message) for warning in recwarn]
    assert not [text for text in told if "optimizer" in text or "LeafSpec" in text or "training_step" in text]


def test_a_fast_dev_run_writes_nothing(tmp_path):
    result = fit(build(SMALL, ["--trainer.fast_dev_run=true"], tmp_path))
    assert result.checkpoint is None
    assert not list(tmp_path.iterdir())


def test_resume_continues_where_the_run_stopped(tmp_path):
    short = build(SMALL, ["--trainer.max_epochs=2", "--model.embedding_size=8"], tmp_path)
    fit(short)
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert state["epoch"] == 1
    run = build(SMALL, ["--trainer.max_epochs=4", "--model.embedding_size=8"], tmp_path)
    seen = []
    run.trainer.callbacks.append(_Watch(lambda trainer, model: seen.append(trainer.current_epoch)))
    result = fit(run, tmp_path / "checkpoints" / "last.ckpt")
    assert seen == [2, 3]
    assert (result.epochs, run.trainer.global_step) == (4, 2 * state["global_step"])
    assert len(list((tmp_path / "logs").iterdir())) == 2, "the log of the first part is kept"


def test_ctrl_c_comes_through_and_the_last_checkpoint_is_there(tmp_path):
    def interrupt(trainer, model):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    run = build(SMALL, ["--trainer.max_epochs=4", "--model.embedding_size=8"], tmp_path)
    run.trainer.callbacks.append(_Watch(interrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0
