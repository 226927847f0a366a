"""What a run shows: plain lines in a file, one bar on a terminal."""

from __future__ import annotations

import io
import re

from diffrec.training.build import build
from diffrec.training.fit import fit, monitored
from diffrec.training.progress import EpochBar, EpochLines, progress_for

SMALL = ["model/sasrec", "data/synthetic"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream, tmp_path, *words) -> str:
    run = build(SMALL, ["--trainer.max_epochs=4", "--model.embedding_size=8", *words], tmp_path)
    run.trainer.callbacks.append(progress_for(stream, monitored(run)))
    fit(run)
    assert set(run.trainer.progress_bar_metrics) == {"train/loss", monitored(run)}
    return stream.getvalue()


def test_a_file_gets_a_line_for_every_evaluation(tmp_path):
    lines = shown(io.StringIO(), tmp_path, "--trainer.check_val_every_n_epoch=2").splitlines()
    number = r"\d+(\.\d+)?"
    assert len(lines) == 2
    assert re.fullmatch(rf"epoch 2: loss {number}, valid/ndcg@10 {number}, \d+ s, at most \d+ s left", lines[0])
    assert re.fullmatch(rf"epoch 4: loss {number}, valid/ndcg@10 {number}, \d+ s", lines[1])


def test_a_terminal_gets_a_bar_with_loss_and_metric(tmp_path):
    text = shown(Terminal(), tmp_path)
    assert "epoch 4: loss" in text
    assert "valid/ndcg@10" in text


def test_the_metric_that_chooses_the_checkpoint_is_shown_and_no_other(tmp_path):
    text = shown(io.StringIO(), tmp_path, "--trainer.callbacks.ModelCheckpoint.monitor=valid/recall@20")
    assert re.match(r"epoch 1: loss [\d.]+, valid/recall@20 [\d.]+, \d+ s", text)
    assert "ndcg" not in text


def test_the_stream_decides():
    assert isinstance(progress_for(Terminal(), "x"), EpochBar)
    assert isinstance(progress_for(io.StringIO(), "x"), EpochLines)
