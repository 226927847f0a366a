"""`diffrec bench probe`: what it takes from an entry, its tables, its JSON, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from diffrec.baselines import Popularity
from diffrec.bench.evaluate import evaluate
from diffrec.bench.probes import PROBES
from diffrec.cli import probe
from diffrec.cli.main import Parser
from diffrec.data.protocol import get_protocol
from diffrec.data.synthetic import synthetic
from diffrec.errors import IntegrityError, NotFoundError, UsageError
from diffrec.models import DreamRec
from diffrec.zoo import load, save

PROTOCOL = "loo-full-masked@1"


@pytest.fixture(scope="module")
def dreamrec(tmp_path_factory):
    """An entry with its dataset, its protocol and the seed of its training."""
    torch.manual_seed(0)
    dataset = synthetic()
    model = DreamRec(dataset.num_items, embedding_size=8, num_train_timesteps=20, num_inference_steps=4)
    folder = tmp_path_factory.mktemp("zoo") / "dreamrec.synthetic"
    return save(model, folder, dataset=dataset, protocol=PROTOCOL, training={"seed": 3})


@pytest.fixture(scope="module")
def popularity(tmp_path_factory):
    """An entry that says nothing of its data."""
    dataset = synthetic()
    model = Popularity(dataset.num_items)
    model.solve(dataset.parts["all"].items)
    return save(model, tmp_path_factory.mktemp("zoo") / "popularity.numbers")


def ask(*words):
    parser = Parser()
    probe.add_arguments(parser)
    return probe.run(parser.parse_args([str(word) for word in words]))


def told(capsys, *words):
    assert ask(*words, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_is_not_asked_what_it_was_trained_on(dreamrec):
    with pytest.raises(UsageError, match="trained on loo-full-masked@1 of synthetic; what temporal-811@1 asks may be"):
        ask(dreamrec, "--protocol", "temporal-811@1")


def test_each_probe_is_told_before_it_is_asked(dreamrec, capsys):
    assert ask(dreamrec, "--only", "slices,lists") == 0
    assert capsys.readouterr().err.splitlines() == ["1/2 slices", "2/2 lists"]
    assert ask(dreamrec, "--only", "lists", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_dataset_protocol_and_seed_are_those_of_the_entry(dreamrec, capsys):
    answer = told(capsys, dreamrec, "--only", "memorisation,lists")
    protocol = get_protocol(PROTOCOL)
    test = protocol.apply(synthetic()).test
    assert answer["metrics"] == evaluate(load(dreamrec), test, protocol.cutoffs, seed=3).metrics
    assert (answer["dataset"], answer["protocol"], answer["seed"]) == ("synthetic", PROTOCOL, 3)
    assert told(capsys, dreamrec, "--only", "lists", "--seed", 4)["metrics"] != answer["metrics"]
    other = told(capsys, dreamrec, "--only", "lists", "--protocol", "loo-full-unmasked@1")
    assert other["protocol"] == "loo-full-unmasked@1"
    assert other["metrics"] != answer["metrics"]


def test_the_json_holds_every_answer_and_where_it_comes_from(dreamrec, capsys):
    answer = told(capsys, dreamrec, "--steps", "1,4", "--window", 2)
    assert set(answer) == {
        "schema_version", "entry", "entry_revision", "model", "dataset", "dataset_sha256", "protocol", "headline",
        "seed", "batch_size", "code_version", "device", "threads", "test_cases", "metrics", *probe.NAMES,
    }  # fmt: skip
    assert (answer["schema_version"], answer["entry"], answer["model"]) == (1, str(dreamrec), "DreamRec")
    assert answer["dataset_sha256"] == synthetic().sha256
    assert [point["num_inference_steps"] for point in answer["steps"]] == [1, 4]
    assert answer["steps"][1]["metrics"] == answer["metrics"]
    assert answer["memorisation"]["window"] == 2
    one = told(capsys, dreamrec, "--only", "order")
    assert {name for name in probe.NAMES if one[name] is not None} == {"order"}
    assert one["order"] == answer["order"]


def test_the_tables_hold_the_same_in_80_columns(dreamrec, capsys):
    answer = told(capsys, dreamrec, "--steps", "1,4")
    assert ask(dreamrec, "--steps", "1,4") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.partition("  ")[0]: line.split() for line in lines}

    def shown(metrics):
        return [f"{metrics[name]:.4f}".removeprefix("0") for name in ("ndcg@10", "recall@10")]

    assert rows["as they are"][3:5] == shown(answer["order"]["metrics"])
    assert rows["all shuffled"][2:4] == shown(answer["order"]["whole"]["metrics"])
    assert rows["all shuffled"][4] == f"{100 * answer['order']['whole']['lost']:.1f}"
    seen = answer["memorisation"]["seen"]
    share = [str(seen["targets"]), f"{seen['targets'] / 2:.1f}", "%"]
    assert rows["rule seen"][2:] == [*share, *shown(seen["metrics"]), str(seen["hits"])]
    for part in answer["slices"]["popularity"]:
        cells = shown(part["metrics"]) if part["metrics"] else ["-", "-"]
        assert rows[part["name"]][-3:] == [*cells, str(part["hits"])]
    assert rows["gini"][1] == f"{answer['lists']['gini']:#.3g}"
    assert rows["4 (as set)"][3:6] == ["8", *shown(answer["metrics"])]
    assert "Of a history the model reads the last 10." in " ".join(out.split())
    assert "Guidance scale 3, which doubles the calls." in " ".join(out.split())


def test_what_the_entry_does_not_say_must_be_said(popularity, capsys):
    with pytest.raises(UsageError, match="does not say under which dataset it was measured; give --dataset"):
        ask(popularity)
    with pytest.raises(UsageError, match="give --protocol"):
        ask(popularity, "--dataset", "synthetic")
    words = [popularity, "--dataset", "synthetic", "--protocol", PROTOCOL]
    answer = told(capsys, *words)
    assert (answer["seed"], answer["steps"], answer["order"]["whole"]["lost"]) == (0, None, 0)
    with pytest.raises(UsageError, match="Popularity takes no steps"):
        ask(*words, "--only", "steps")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--only", "order,slice"], NotFoundError, "no probe 'slice'.*did you mean 'slices'"),
        (["--only", "order", "--steps", "1"], UsageError, "--steps belongs to the probe steps, which --only order"),
        (["--only", "order", "--window", "1"], UsageError, "--window belongs to the probe memorisation"),
        (["--only", "memorisation", "--window", "0"], UsageError, "window must be a whole number from 1"),
        (["--only", "steps", "--steps", "1,two"], UsageError, "'1,two' is no list of whole numbers such as 1,2,5"),
        (["--only", "steps", "--steps", "21"], UsageError, r"must be a whole number in 1\.\.20, got 21"),
        (["--batch-size", "0"], UsageError, "batch_size must be a whole number from 1, got 0"),
        (["--protocol", "loo-ful-masked@1"], NotFoundError, "did you mean 'loo-full-masked@1'"),
        (["--dataset", "synthetik"], NotFoundError, "did you mean 'synthetic'"),
    ],
)
def test_mistakes(words, error, message, dreamrec):
    with pytest.raises(error, match=message):
        ask(dreamrec, *words)


def test_a_dataset_that_changed_is_refused(dreamrec, monkeypatch):
    monkeypatch.setattr("diffrec.data.sources.synthetic", lambda: synthetic(seed=1))
    with pytest.raises(IntegrityError, match=r"the dataset synthetic here has sha256 \w{12}, the entry was trained on"):
        ask(dreamrec)


def test_names_are_those_of_the_probes():
    assert list(PROBES) == list(probe.NAMES)


def test_help_needs_no_torch():
    code = (
        "import argparse, sys; from diffrec.cli import probe; probe.add_arguments(argparse.ArgumentParser());"
        "sys.exit(bool({'torch', 'numpy', 'scipy', 'rich'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DIFFREC_DEBUG"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
