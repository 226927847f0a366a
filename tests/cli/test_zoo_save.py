"""`diffrec zoo save`: from a run of one's own to an entry that is used like any other."""

from __future__ import annotations

import json
import os
import re
import shlex

import pytest

import diffrec
from diffrec.cli.main import main
from diffrec.zoo.config import Measured
from diffrec.zoo.entry import METRICS
from diffrec.zoo.finding import find_entry

WORDS = ["-c", "model/sasrec", "-c", "data/synthetic", "--trainer.max_epochs=1", "--model.embedding_size=8", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    assert main(["fit", *WORDS, "--run-dir", str(folder)]) == 0
    return folder


def test_a_run_becomes_an_entry(run, tmp_path, capsys):
    assert main(["recommend", str(run), "--history", "1"]) != 0
    assert f"'diffrec zoo save {run}' makes an entry" in capsys.readouterr().err
    assert main(["recommend", str(run / "checkpoints" / "best.ckpt"), "--history", "1"]) != 0
    assert "it is a checkpoint, of which 'diffrec zoo save" in capsys.readouterr().err
    assert main(["zoo", "save", str(run)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(run / "entry")
    assert main(out[1].removeprefix("diffrec ").split()) == 0
    model = diffrec.load(run / "entry")
    assert model.vocabulary.item_ids
    assert Measured.parse(find_entry(str(run / "entry")).read(METRICS), "").metrics == {}
    assert main(["zoo", "save", str(run)]) != 0, "an entry is there"
    assert "--overwrite" in capsys.readouterr().err


def test_what_is_printed_works_for_a_folder_here_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["zoo", "save", str(run.resolve()), "--output", "my entry"]) == 0
    folder, command = capsys.readouterr().out.splitlines()
    assert folder == "my entry"
    assert main(shlex.split(command)[1:]) == 0
    assert main(["zoo", "save", str(run), "--output", "mine"]) == 0
    capsys.readouterr()
    assert main(["zoo", "info", "./mine"]) == 0
    card = capsys.readouterr().out
    (call,) = re.findall(r"diffrec\.load\((.*)\)", card)
    assert diffrec.load(json.loads(call)).vocabulary.item_ids


def test_with_metrics_of_the_test_cases(run, tmp_path, capsys):
    checkpoint, entry = run / "checkpoints" / "best.ckpt", tmp_path / "entry"
    assert main(["zoo", "save", str(checkpoint), "--output", str(entry), "--test", "--include-titles"]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told.startswith("ndcg@10 0.")
    assert told.endswith("on the test cases of synthetic, loo-full-masked@1")
    assert main(["zoo", "verify", str(entry), "--evaluate"]) == 0
    assert "metrics come out again" in capsys.readouterr().out


def test_the_folder_of_all_runs_names_the_newest(tmp_path, capsys):
    for age, version in enumerate(("version_9", "version_10", "version_11")):
        (checkpoints := tmp_path / "sasrec-mine" / version / "checkpoints").mkdir(parents=True)
        if version != "version_11":  # which was stopped before it had one
            (checkpoints / "best.ckpt").touch()
            os.utime(checkpoints / "best.ckpt", (age, age))
    assert main(["zoo", "save", str(tmp_path / "sasrec-mine")]) == 4
    newest = f"the newest run with one is {tmp_path / 'sasrec-mine' / 'version_10'}\n"
    assert capsys.readouterr().err.endswith(f"sasrec-mine holds no checkpoints/best.ckpt; {newest}")


def test_what_is_no_run(tmp_path, capsys):
    assert main(["zoo", "save", str(tmp_path)]) == 4
    assert "holds no checkpoints/best.ckpt" in capsys.readouterr().err
    assert main(["zoo", "save", str(tmp_path / "x.ckpt")]) == 4
    assert "no checkpoint" in capsys.readouterr().err
