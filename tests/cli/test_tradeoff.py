"""`diffrec tradeoff`: its table, its files, entries and checkpoints, and what it refuses."""

from __future__ import annotations

import json
import re

import pytest
import torch

from diffrec.baselines import Popularity
from diffrec.cli.main import main
from diffrec.data.synthetic import synthetic
from diffrec.models import DreamRec
from diffrec.zoo import save

SMALL = ["--steps", "1,4", "--samplers", "ddim,dpm-solver++", "--guidance", "1,3", "--max-cases", "20"]


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    torch.manual_seed(0)
    dataset = synthetic()
    model = DreamRec(dataset.num_items, embedding_size=8, num_train_timesteps=20, num_inference_steps=4)
    folder = tmp_path_factory.mktemp("zoo") / "dreamrec.synthetic"
    return save(model, folder, dataset=dataset, protocol="loo-full-masked@1", training={"seed": 3})


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder and gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object):
        code = main(["tradeoff", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_table_and_files(call, entry, tmp_path):
    code, out, err = call(entry, *SMALL)
    assert code == 0
    told = err.splitlines()
    assert told[0] == "1/9 ddpm, 4 steps, guidance 3"
    assert re.fullmatch(r"2/9 ddim, 1 step, guidance 1; about \d+ s left", told[1])
    assert [line.split()[0] for line in told] == [f"{number}/9" for number in range(1, 10)]
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "DreamRec · synthetic, loo-full-masked@1, 20 validation cases, seed 3"
    assert lines[1].split() == ["sampler", "steps", "guidance", "calls", "NDCG@10", "±", "ms/user"]
    rows = [line.split() for line in lines[2:11]]
    assert rows[0][:4] == ["ddpm", "4", "3", "8"]
    assert "as set" in lines[2]
    assert "frontier: as few calls reach no more." in out
    assert "ms/user: 20 at a time" in " ".join(out.split())
    folder = tmp_path / "runs/tradeoff/dreamrec-synthetic"
    told = json.loads((folder / "tradeoff.json").read_text())
    assert (told["schema_version"], told["source"], told["split"], told["cases"]) == (1, str(entry), "validation", 20)
    assert [f"{point['value']:.4f}".removeprefix("0") for point in told["points"]] == [row[4] for row in rows]
    assert {path.name for path in folder.iterdir()} == {"tradeoff.json", "tradeoff.csv", "tradeoff.png"}


def test_test_cases_and_samples_have_to_be_asked_for(call, entry, tmp_path):
    assert call(entry, "--steps", 1, "--samplers", "ddim", "--test", "--samples", 2, "--out", tmp_path / "x")[0] == 0
    told = json.loads((tmp_path / "x" / "tradeoff.json").read_text())
    assert (told["split"], told["num_samples"]) == ("test", 2)
    assert [point["denoiser_calls"] for point in told["points"]] == [16, 2, 4]


def test_a_checkpoint(call, tmp_path):
    words = ["-c", "model/dreamrec", "-c", "data/synthetic", "--trainer.max_epochs=1", "--model.embedding_size=8",
             "--model.num_inference_steps=2", "--quiet", "--run-dir", "here"]  # fmt: skip
    assert main(["fit", *words]) == 0
    code, out, err = call("here/checkpoints/best.ckpt", "--steps", 1, "--samplers", "ddim", "--out", tmp_path / "x",
                          "--quiet")  # fmt: skip
    assert code == 0, err
    assert err == ""
    assert "200 validation cases, seed 0" in out
    code, _, err = call("here/checkpoints/bets.ckpt")
    assert (code, "no checkpoint here/checkpoints/bets.ckpt; did you mean 'best.ckpt'?" in err) == (4, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--steps", "one"], 2, "'one' is no list of whole numbers such as 1,4,16"),
        (["--guidance", "w"], 2, "'w' is no list of numbers such as 1,3.0"),
        (["--samplers", "dim"], 4, "there are: ddim, ddpm, dpm-solver++, euler,"),
        (["--out", __file__], 2, f"--out is a folder, and {__file__} is a file"),
        (["--samples", "0"], 2, "--samples must be a whole number from 1, got 0"),
        (["--max-cases", "0"], 2, "--max-cases must be a whole number from 1, got 0"),
        (["--batch-size", "0"], 2, "batch_size must be a whole number from 1, got 0"),
    ],
)
def test_what_it_refuses(call, entry, words, code, message):
    got, _, err = call(entry, *words)
    assert (got, message in err) == (code, True), err


def test_only_models_that_take_steps(call, tmp_path):
    dataset = synthetic()
    model = Popularity(dataset.num_items)
    model.solve(dataset.parts["all"].items)
    folder = save(model, tmp_path / "entry", dataset=dataset, protocol="loo-full-masked@1")
    code, _, err = call(folder)
    assert (code, "Popularity takes no steps" in err) == (2, True)
    code, _, err = call(folder, "--samples", "2")
    assert (code, "Popularity averages no samples" in err) == (2, True)
