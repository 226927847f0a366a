"""`diffrec fit`, `validate`, `test`, `predict` as they are typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from diffrec.cli.main import main

SMALL = ["-c", "model/sasrec", "-c", "data/synthetic"]
SHORT = ["--trainer.max_epochs=2", "--model.embedding_size", "16", "--quiet"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder and gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str):
        code = main(list(words))
        return code, *capsys.readouterr()

    return run


def test_fit_then_test_validate_and_predict(call, tmp_path):
    code, out, err = call("fit", *SMALL, *SHORT)
    assert (code, err) == (0, "")
    run = Path("runs/sasrec-synthetic/version_0")
    match = re.fullmatch(
        r"best valid/ndcg@10 (0\.\d{4}) \(epoch 2 of 2, \d+ s\), synthetic, loo-full-masked@1\nrun (.*)\n"
        r"'diffrec zoo save \2' makes an entry of it for recommend, serve and export\n",
        out,
    )
    assert match
    assert match[2] == str(run)
    assert (run / "logs" / "version_0" / "metrics.csv").exists()

    best = str(run / "checkpoints" / "best.ckpt")
    code, out, err = call("validate", "--ckpt", best)
    assert code == 0, err
    assert out.startswith("SASRec on synthetic, loo-full-masked@1, validate: 200 cases\n")
    assert re.search(r"^  ndcg@10 +" + re.escape(match[1]), out, re.MULTILINE)

    code, tested, err = call("test", *SMALL, "--model.embedding_size=16", "--ckpt", best)
    assert code == 0, err
    assert call("test", "--ckpt", best)[1] == tested
    assert "validate" not in tested

    code, out, err = call("predict", "--ckpt", best, "--output", "lists.parquet")
    assert code == 0, err
    assert "2,000 rows" in out
    assert pq.read_metadata("lists.parquet").num_rows == 2000
    assert call("predict", "--ckpt", best, "-k", "3")[0] == 0
    assert pq.read_metadata(run / "predictions.parquet").num_rows == 600


def test_resume_auto_goes_on_with_the_newest_run(call):
    assert call("fit", *SMALL, *SHORT, "--resume", "auto")[0] == 0  # nothing there: from the start
    code, out, err = call("fit", *SMALL, *SHORT, "--trainer.max_epochs=3", "--resume", "auto")
    assert code == 0, err
    assert "of 3," in out
    assert [p.name for p in Path("runs/sasrec-synthetic").iterdir()] == ["version_0"]
    last = "runs/sasrec-synthetic/version_0/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 2
    code, out, err = call("fit", *SMALL, *SHORT, "--trainer.max_epochs=4", "--resume", last)
    assert code == 0, err
    assert "run runs/sasrec-synthetic/version_0" in out


EARLY = """
trainer:
  callbacks:
    - class_path: pytorch_lightning.callbacks.EarlyStopping
      init_args: {monitor: valid/ndcg@10, mode: max, patience: 1, min_delta: 1}
"""


@pytest.mark.parametrize("more", [[], ["-c", "early.yaml", "--trainer.max_epochs=5"]], ids=["all epochs", "early"])
def test_a_run_with_nothing_left_says_so(call, more):
    Path("early.yaml").write_text(EARLY)
    code, first, err = call("fit", *SMALL, *SHORT, *more)
    assert code == 0, err
    assert "nothing is left" not in first
    code, out, err = call("fit", *SMALL, *SHORT, *more, "--resume", "auto")
    assert code == 0, err
    best = Path("runs/sasrec-synthetic/version_0/checkpoints/best.ckpt").resolve()
    assert out.startswith(f"nothing is left to train after epoch 2; the best weights are in {best}\n")
    without_seconds = [re.sub(r"\d+ s", "", line) for line in (out.partition("\n")[2], first)]
    assert without_seconds[0] == without_seconds[1]


def test_what_cannot_go_on_is_told_before_anything_begins(call):
    assert call("fit", *SMALL, *SHORT)[0] == 0
    code, _, err = call("fit", *SMALL, *SHORT, "--trainer.max_epochs=1", "--resume", "auto")
    last = "runs/sasrec-synthetic/version_0/checkpoints/last.ckpt"
    assert (code, err) == (2, f"error: {last} is at the end of epoch 2, and trainer.max_epochs is 1; ask for more\n")
    words = [word for word in (*SMALL, *SHORT) if word != "--quiet"]
    code, _, err = call("fit", *words, "--resume", "runs")
    assert (code, err) == (4, f"error: runs is a folder, no checkpoint; it has {last}\n")


def test_an_interrupted_run_says_how_it_goes_on(call, monkeypatch):
    from diffrec.training.resume import RandomStates

    def stop(self, trainer, model):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RandomStates, "on_train_epoch_start", stop)
    code, out, err = call("fit", *SMALL, *SHORT)
    last = "runs/sasrec-synthetic/version_0/checkpoints/last.ckpt"
    told = f"the same command goes on from {last} with --resume auto\ninterrupted\n"
    assert (code, out, err) == (130, "", told)


def test_a_refused_run_leaves_no_folder(call, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    rows = (f"u{user},{item},{time}\n" for user in range(9) for time, item in enumerate("abab"))
    (tmp_path / "again.csv").write_text("user,item,time\n" + "".join(rows))
    assert call("data", "import", "again.csv", "--name", "again")[0] == 0
    code, _, err = call("fit", "-c", "model/sasrec", "--data.dataset=again")
    assert code == 2
    assert "--data.protocol=loo-full-unmasked@1" in err
    assert not list(Path("runs").glob("*/*"))


def test_users_that_are_left_out_or_not_learnt_from_are_counted(call, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    rows = (f"u{user},{place},{place}\n" for user in range(40) for place in range(2 + min(user // 5, 3)))
    (tmp_path / "few.csv").write_text("user,item,time\n" + "".join(rows))
    assert call("data", "import", "few.csv", "--name", "few")[0] == 0
    told = "40 users: 5 left out with fewer than three items; {}35 asked for validation, 35 for test"
    words = ("fit", "--data.dataset=few", "--trainer.max_epochs=1", "-c")
    short = "5 training sequences of fewer than 2 items, not learnt from; "
    assert call(*words, "model/sasrec")[2].splitlines()[1] == told.format(short)
    assert call(*words, "model/popularity")[2].splitlines()[1] == told.format("")
    assert call(*words, "model/popularity", "--quiet")[2] == ""


def test_progress_and_run_folder(call):
    code, _, err = call("fit", *SMALL, "--trainer.max_epochs=2", "--run-dir", "here")
    assert code == 0
    lines = err.splitlines()
    assert re.fullmatch(r"SASRec, [\d,]+ parameters; synthetic under loo-full-masked@1: 200 .*, 100 items", lines[0])
    assert lines[1] == "writing to here"
    assert [line.partition(":")[0] for line in lines[2:]] == ["epoch 1", "epoch 2"]
    assert Path("here/checkpoints/best.ckpt").exists()


def test_a_closed_form_says_what_it_is_and_how_much_memory_it_needs(call):
    words = ("fit", "-c", "model/ease", "-c", "data/synthetic", "--run-dir", "here")
    code, _, err = call(*words)
    assert code == 0
    lines = err.splitlines()
    assert lines[0].startswith("EASE, solved without gradients; synthetic under loo-full-masked@1: 200 ")
    assert re.fullmatch(r"EASE on 100 items needs up to 0\.00 GB of memory, \d+\.\d\d GB are free", lines[2])
    assert call(*words, "--quiet")[2] == ""


def test_print_config_shows_what_would_be_built_and_builds_nothing(call):
    code, out, _ = call("fit", "-c", "dreamrec-ml-100k", "--model.embedding_size", "128", "--print-config")
    assert code == 0
    config = yaml.safe_load(out)
    assert config["model"]["init_args"]["embedding_size"] == 128
    assert config["data"]["dataset"] == "ml-100k"
    assert not list(Path().iterdir())


def test_help_lists_the_recipes(call):
    code, out, _ = call("fit", "--help")
    assert code == 0
    assert "dreamrec-ml-100k" in out
    assert "--resume" in out
    assert "averaged-weights" in out
    assert max(map(len, out.splitlines())) <= 110
    assert "--ckpt" not in out
    measuring = call("test", "--help")[1]
    assert measuring.startswith("usage: diffrec test --ckpt PATH")
    assert "dreamrec-ml-100k" not in measuring


def test_a_run_that_cannot_be_built_leaves_no_folder(call):
    assert call("fit", *SMALL, "--data.dataset=synthetc")[0] == 4
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fit"], 2, "needs a recipe"),
        (["fit", "-c", "dreamrec-ml100k"], 4, "did you mean 'dreamrec-ml-100k'"),
        (["fit", *SMALL, "--model.embeding_size=3"], 2, "did you mean 'embedding_size'"),
        (["fit", *SMALL, "--quite"], 2, "--quite"),
        (["fit", *SMALL, "--data.dataset=synthetc"], 4, "did you mean 'synthetic'"),
        (["fit", *SMALL, "--resume", "nowhere/checkpoints/last.ckpt"], 4, "no checkpoint"),
        (["fit", *SMALL, "--data.protocol=cf-lightgcn-refit@1"], 2, "train with --data.protocol=cf-lightgcn@1"),
        (["test", *SMALL], 2, "--ckpt"),
        (["test", *SMALL, "--ckpt", "none.ckpt"], 4, "no checkpoint none.ckpt"),
        (["test", "--ckpt", "a/b/none.ckpt"], 4, "no checkpoint a/b/none.ckpt"),
        (["test", "--ckpt", "text.ckpt"], 2, "there is no config.yaml; name the configuration of text.ckpt with -c"),
        (["test", "--ckpt", "."], 4, ". is a folder, no checkpoint\n"),
        (["test", *SMALL, "--ckpt", "text.ckpt"], 3, "text.ckpt"),
    ],
)
def test_errors_say_what_is_wrong(words, code, message, call):
    Path("text.ckpt").write_text("hello")
    found, out, err = call(*words)
    assert (found, out) == (code, "")
    assert message in err
    assert len(err.strip().splitlines()) <= 3
    assert not Path("runs").exists() or not list(Path("runs").glob("*/*"))


def test_all_that_is_wrong_with_a_configuration_is_told_at_once(call):
    Path("mine.yaml").write_text(
        "model:\n  init_args:\n    embeding_size: 64\n    dropout: 7\ndata: {batch_size: many}\n"
    )
    Path("last.ckpt").write_text("")
    for words in (
        ["fit"],
        ["fit", "--print-config"],
        *([stage, "--ckpt", "last.ckpt"] for stage in ("test", "predict")),
    ):
        code, out, err = call(*words, *SMALL, "-c", "mine.yaml", "--model.lr=-1", "--data.dataset=synthetc")
        assert (code, out) == (2, "")
        assert re.fullmatch(
            r"error: mine.yaml:3: key 'embeding_size' is not an argument .*did you mean 'embedding_size'\?\n"
            r"mine.yaml:4: dropout must be a finite number from 0 to below 1, got 7.0\n"
            r"mine.yaml:5: batch_size must be int, got 'many'\n"
            r"--data.dataset: no dataset 'synthetc'; .*did you mean 'synthetic'\?\n.*data import.*\n"
            r"--model.lr: lr must be a finite number from 0, got -1.0\n",
            err,
        )
        assert not Path("runs").exists()


def test_decoding_is_for_what_is_trained(call):
    files = ["-c", "model/dreamrec", "-c", "data/synthetic"]
    small = ["--model.embedding_size=8", "--model.num_train_timesteps=9", "--trainer.max_epochs=1", "--quiet"]
    code, _, err = call("fit", *files, *small, "--decoding.eta=0")
    assert (code, "decoding has no part in training" in err, Path("runs").exists()) == (2, True, False)
    assert call("fit", *files, *small, "--run-dir", "here")[0] == 0
    ways = ([], ["--decoding.scheduler=DDIMScheduler", "--decoding.eta=0"], ["--decoding.scheduler=DDPMScheduler"])
    own, ddim, ddpm = (call("test", "--ckpt", "here/checkpoints/best.ckpt", *words)[1] for words in ways)
    assert own == ddpm != ddim
    assert "DreamRec on synthetic" in ddim


def test_a_checkpoint_of_another_model_is_refused(call):
    assert call("fit", *SMALL, *SHORT)[0] == 0
    best = "runs/sasrec-synthetic/version_0/checkpoints/best.ckpt"
    code, _, err = call("test", *SMALL, "--ckpt", best)
    assert code == 3
    assert "does not belong to this SASRec" in err


@pytest.mark.slow
def test_weights_and_biases_logs_offline(tmp_path):
    """In a process of its own, for its service speaks through a socket; a dead proxy stands for the network."""
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "WANDB_SILENT": "true"}
    words = ["fit", *SMALL, "-c", "logger/wandb-offline", *SHORT, "--run-dir", str(tmp_path / "run")]
    result = subprocess.run(
        [sys.executable, "-m", "diffrec.cli.main", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    logs = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    assert logs[0].stat().st_size > 0
    assert (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
