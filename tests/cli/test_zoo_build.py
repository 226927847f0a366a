"""`diffrec zoo build`: an entry from its recipe, twice the same bytes; half precision where it costs little."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffrec.bench.evaluate import mean_metrics
from diffrec.bench.result import read_result
from diffrec.cli import zoo_build
from diffrec.cli.main import main
from diffrec.data.protocol import get_protocol
from diffrec.data.synthetic import synthetic
from diffrec.errors import DiffrecError, NotFoundError, UsageError
from diffrec.models import DreamRec
from diffrec.testing.fuzzing import seal
from diffrec.zoo import load, save
from diffrec.zoo.entry import Entry
from diffrec.zoo.finding import find_entry
from diffrec.zoo.index import on_this_machine, read_index
from diffrec.zoo.saving import refresh, rounded
from diffrec.zoo.verifying import verify

SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - name: sasrec
    configs: [model/sasrec]
    overrides: [--trainer.max_epochs=1, --model.embedding_size=8, --model.num_blocks=1]
    seeds: [3, 4]
"""
NAME = "sasrec.synthetic"


def build(zoo, output, *words, name=NAME):
    """The exit code of a build, where the zoo of the project is the folder `zoo`."""
    (zoo.parent / "tiny.yaml").write_text(SUITE)
    suite = ["--suite", str(zoo.parent / "tiny.yaml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffrec.zoo.index.resource_dir", lambda name: zoo)
        return main(["zoo", "build", name, "--output", str(output), *suite, *words])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the zoo that holds NAME, and the folder `one` that it was built in."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "zoo").mkdir()
    assert build(folder / "zoo", folder / "one", "--replace") == 0
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_builds_on_one_machine_are_equal_in_bytes(built, tmp_path, monkeypatch, capsys):
    there = contents(built / "one" / NAME)
    assert contents(built / "zoo" / NAME) == there
    assert list(read_index(built / "zoo")) == [NAME]
    monkeypatch.chdir(tmp_path)
    assert build(built / "zoo", tmp_path / "two") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{NAME}: sasrec on synthetic, suite tiny, seed 3\n{tmp_path / 'two' / NAME}: ndcg@10 0.")
    assert out.endswith(f"byte for byte the entry in {built / 'zoo' / NAME}\n")
    assert contents(tmp_path / "two" / NAME) == there
    for name, data in there.items():
        assert str(built).encode() not in data, name
    assert json.loads(there["metrics.json"])["training"] == {
        "command": f"diffrec zoo build {NAME} --suite tiny --seed 3", "seed": 3, "epochs": 1, "seconds": None,
    }  # fmt: skip
    assert verify(Entry.open(built / "zoo" / NAME)).lists == 16


def test_another_entry_is_told_file_by_file(built, tmp_path, monkeypatch, capsys):
    there = contents(built / "zoo" / NAME)
    monkeypatch.setattr("diffrec.bench.measure.processor_name", lambda: "an abacus")
    assert build(built / "zoo", tmp_path / "two", "--seed", "4") == 1
    out = capsys.readouterr().out
    assert f"{NAME}: sasrec on synthetic, suite tiny, seed 4\n" in out
    assert f"not the entry in {built / 'zoo' / NAME}:\n" in out
    assert "  config.json        equal\n" in out
    size = len(there["model.safetensors"])
    assert f"  model.safetensors  {size:,} bytes there, {size:,} bytes here\n" in out
    assert "the metrics differ by at most " in out
    assert "  here is processor an abacus instead of " in out
    assert "same model" not in out
    assert contents(built / "zoo" / NAME) == there
    shutil.copytree(built / "zoo" / NAME, tmp_path / "other card")
    (tmp_path / "other card" / "card.md").write_text("made elsewhere")
    seal(tmp_path / "other card")
    assert zoo_build._compare(Entry.open(built / "zoo" / NAME), Entry.open(tmp_path / "other card")) == 1
    assert "  it is the same model: what differs is told about how it was made" in capsys.readouterr().out


def test_build_and_refresh_say_the_same_of_the_row(built, tmp_path, monkeypatch, capsys):
    quick = Path(__file__).parents[2] / "benchmarks" / "results" / "quick"
    metrics, place = read_index(built / "zoo")[NAME].metrics, ("tiny", "synthetic", synthetic().sha256)
    there = dict(zip(("suite", "dataset", "dataset_sha256"), place, strict=True))
    of = {"sasrec": {"metrics": dict(metrics)}, "popularity": {}}
    files = [quick / "ml-100k" / model / "seed0.json" for model in of]
    own, popularity = (replace(read_result(file), **there, **of[file.parent.name]) for file in files)
    records = [replace(own, seed=3), replace(own, seed=4, metrics=dict.fromkeys(metrics, 0.5)), popularity]
    records += [replace(own, seed=3, model="sasrec-other", role="control", control_of="sasrec")]
    monkeypatch.setattr("diffrec.bench.result.read_results", lambda *where: records)
    (tmp_path / "zoo").mkdir()
    assert build(tmp_path / "zoo", tmp_path / "one", "--replace") == 0
    entry = tmp_path / "zoo" / NAME
    said = json.loads((entry / "metrics.json").read_text())["benchmark"]
    assert (said["row"]["seeds"], list(said["controls"]), said["popularity"]["seeds"]) == (2, ["sasrec-other"], 1)
    assert said["ms_per_user"] == own.ms_per_user
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: tmp_path / "zoo")
    capsys.readouterr()
    assert main(["zoo", "refresh"]) == 0
    assert f"{NAME}: as it was, " in capsys.readouterr().out
    records[:] = [replace(own, seed=3), replace(own, seed=4), replace(own, seed=5)]
    assert main(["zoo", "refresh", "--check"]) == 1
    assert capsys.readouterr().out == f"{NAME}: metrics.json and card.md would be written anew\n"
    records.clear()  # on a machine without records, an entry keeps what it was told
    assert main(["zoo", "refresh", "--check"]) == 0
    assert build(tmp_path / "zoo", tmp_path / "two") == 0


def test_an_entry_knows_its_recipe(built, monkeypatch):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: built / "zoo")
    asked = []
    monkeypatch.setattr(
        zoo_build, "find_cell", lambda *recipe: asked.append(recipe) or (_ for _ in ()).throw(UsageError)
    )
    for words in ([], ["--seed", "4"], ["--suite", "quick"]):
        main(["zoo", "build", NAME, *words])
    assert asked == [(NAME, "tiny", 3), (NAME, "tiny", 4), (NAME, "quick", 3)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sasrec.ml-100k"], 2, "may come from demo, every-model, quick or temporal; say which with --suite"),
        (["sasrek.ml-100k"], 4, "did you mean 'sasrec.ml-100k'?"),
        (["sasrec.ml-100k", "--suite", "quik"], 4, "did you mean 'quick'?"),
        (["Sasrec"], 2, "the name 'Sasrec' must be made of"),
        (["sasrec.ml-100k", "--seed", "-1"], 2, "--seed must be a whole number from 0, got -1"),
    ],
)
def test_names_that_no_recipe_has(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: tmp_path)
    assert main(["zoo", "build", *words]) == code
    assert message in capsys.readouterr().err


def test_every_entry_of_the_zoo_has_a_recipe():
    for name in (name for name, here in on_this_machine(read_index()).items() if here):
        suite, seed = zoo_build.recipe_of(find_entry(name, offline=True))
        cell = zoo_build.find_cell(name, suite, seed)
        assert (f"{cell.model.name}.{cell.dataset.name}", cell.suite, cell.seed) == (name, suite, seed)


# half precision


def test_half_precision_is_measured_and_stated(built, tmp_path, capsys):
    name, zoo = f"{NAME}.float16", tmp_path / "zoo"
    zoo.mkdir()
    assert build(zoo, tmp_path, "--dtype", "float16", "--replace", name=name) == 0
    assert build(zoo, tmp_path / "again", name=name) == 0
    assert "byte for byte the entry" in capsys.readouterr().out
    tensors = load_file(tmp_path / name / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    model, exact = load(tmp_path / name), load(built / "zoo" / NAME).state_dict()
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, exact[key].half().float()) for key, tensor in model.state_dict().items())
    assert verify(Entry.open(tmp_path / name)).lists == 16
    measured = json.loads((tmp_path / name / "metrics.json").read_text())
    assert measured["float32"] == read_index(built / "zoo")[NAME].metrics
    dataset, protocol = synthetic(), get_protocol("loo-full-masked@1")
    again = mean_metrics(model, protocol.apply(dataset).test, protocol.cutoffs, 3, 1)
    assert again == pytest.approx(measured["metrics"], abs=1e-6)
    card = (tmp_path / name / "card.md").read_text()
    assert f"weights in float16 | 1 | {measured['metrics']['ndcg@10']:.4f} |" in card
    assert f"in float32 | 1 | {measured['float32']['ndcg@10']:.4f} |" in card
    assert not refresh(Entry.open(tmp_path / name))


@pytest.fixture
def model():
    return DreamRec(100, embedding_size=8, num_inference_steps=2).eval()


def half(model, folder, after, before=0.2):
    return save(model, folder, dataset=synthetic(), protocol="loo-full-masked@1", dtype="float16",
                metrics={"ndcg@10": after}, float32=None if before is None else {"ndcg@10": before})  # fmt: skip


def test_half_precision_that_costs_accuracy_is_refused(model, tmp_path):
    with pytest.raises(
        UsageError, match=r"ndcg@10 is 0\.1990 instead of 0\.2000, 0\.50% less; less than 0\.5% is allowed"
    ):
        half(model, tmp_path / "entry", 0.199)
    with pytest.raises(UsageError, match="float16 needs a protocol and metrics"):
        half(model, tmp_path / "entry", 0.2, None)
    with pytest.raises(NotFoundError, match="no dtype 'float8'"):
        rounded(model, "float8")
    with torch.no_grad():
        model.space.table.weight[1, 1] = 1e5
    with pytest.raises(DiffrecError, match=r"float16 does not hold the numbers of space\.table\.weight"):
        half(model, tmp_path / "entry", 0.2)
    assert list(tmp_path.iterdir()) == []


def test_half_precision_that_costs_less_is_kept(model, tmp_path):
    for number, value in enumerate((0.1991, 0.2, 0.3)):
        folder = half(model, tmp_path / str(number), value)
        best, again = (m.recommend(torch.tensor([[1, 2]]), seed=1) for m in (rounded(model, "float16"), load(folder)))
        assert torch.equal(best.scores, again.scores)
    whole = save(model, tmp_path / "whole")
    tensors = [load_file(entry / "model.safetensors").values() for entry in (folder, whole)]
    sizes = [sum(tensor.nbytes for tensor in part) for part in tensors]
    assert 2 * sizes[0] == sizes[1]
