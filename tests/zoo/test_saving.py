"""An entry appears whole or not at all, and the same facts give the same bytes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import diffrec.files
from diffrec.baselines import Popularity
from diffrec.errors import DiffrecError, IntegrityError, NotFoundError, UsageError
from diffrec.recommender import Recommender
from diffrec.zoo import load, save
from diffrec.zoo.benchmark import Benchmark, Score
from diffrec.zoo.config import Config, Evaluation, Measured
from diffrec.zoo.entry import FILES, MANIFEST, Entry
from diffrec.zoo.headings import unknown
from diffrec.zoo.index import Listing
from diffrec.zoo.saving import Known, outdated, refresh


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_and_what_they_say(entry, tiny, dataset):
    assert set(contents(entry)) == {*FILES, MANIFEST}
    config = json.loads((entry / "config.json").read_text())
    assert config == {
        "schema_version": 1,
        "class": "diffrec.models.Tiny",
        "init": {"num_items": 100, "width": 4, "widths": [2, 3], "scale": 1.0},
        "sampling": None,
        "dataset": {"name": "synthetic", "sha256": dataset.sha256},
        "protocol": "loo-full-masked@1",
        "parameters": 101 * 4 + (4 * 2 + 2) + (4 * 3 + 3),
        "denoiser_calls": 1,
    }
    measured = json.loads((entry / "metrics.json").read_text())
    assert measured["metrics"] == {"ndcg@10": 0.25, "recall@10": 0.5}
    assert measured["training"] == {"command": "diffrec fit", "seed": 3, "epochs": 2, "seconds": 1.5}
    vocabulary = json.loads((entry / "vocabulary.json").read_text())
    assert vocabulary == {"schema_version": 1, "item_ids": list(dataset.vocabulary.item_ids), "titles": None}


def test_the_card_tells_what_somebody_must_know(entry, dataset):
    card = (entry / "card.md").read_text()
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == [
        "What it is", "Paper", "Data and terms", "Training", "Protocol", "Metrics", "Popular items", "Steps",
        "Evidence", "Limits", "Licence",
    ]  # fmt: skip
    for fact in (
        'diffrec.load("tiny.synthetic")', "The mean of item vectors", "Tiny: a model for tests.", dataset.info.licence,
        dataset.sha256, "diffrec fit", "seed: 3", "loo-full-masked@1", "| this model, seed 3 | 1 | 0.2500 |",
        "| ndcg | 0.2500 |", "last 5 items",
        "no other seeds and no controls are known", "was not measured",
    ):  # fmt: skip
        assert fact in card
    assert unknown(card) == []


BENCHMARK = Benchmark(
    suite="quick",
    headline="ndcg@10",
    row=Score(3, 0.24, 0.015),
    controls={"tiny-noise-off": Score(1, 0.2, None, "noise 0, not 1")},
    popularity=Score(1, 0.05),
    sd={"ndcg@10": 0.015},
    draw_sd=0.004,
    lists={"coverage": 0.5, "gini": 0.75, "novelty": 9.25, "popularity": 30.0},
    popular_lists={"coverage": 0.1, "gini": 0.9, "novelty": 6.5, "popularity": 45.0},
    counts={"items": 100, "train_interactions": 1500, "test_users": 80, "test_targets": 80, "cold_test_targets": 4},
    ms_per_user={"1": 12.3, "512": 0.25},
    device="A GPU",
    processor="an abacus",
    threads=2,
)


def test_the_card_tells_what_records_say_of_the_row(tiny, dataset, tmp_path):
    metrics = {"ndcg@10": 0.25, "recall@10": 0.5, "hit_rate@10": 0.5}
    folder = save(tiny, tmp_path / "tiny.synthetic", dataset=dataset, protocol="loo-full-masked@1", metrics=metrics,
                  benchmark=BENCHMARK)  # fmt: skip
    assert Measured.parse((folder / "metrics.json").read_bytes(), "x").benchmark == BENCHMARK
    card = (folder / "card.md").read_text()
    assert max(map(len, card.splitlines())) <= 120
    text = " ".join(card.split())
    for fact in (
        "| its row in the suite quick | 3 | 0.2400 ± 0.0150 |",
        "| control tiny-noise-off: noise 0, not 1 | 1 | 0.2000 |",
        "| popularity, the same list for everybody | 1 | 0.0500 |",
        "± is the standard deviation over seeds; over draws of the sampling noise it is 0.0040.",
        "| ndcg | 0.2500 ± 0.0150 |", "| hit_rate, recall | 0.5000 |",
        "(coverage) | 50.0 % | 10.0 % |", "(Gini) | 0.750 | 0.900 |", "of a shown item | 30.0 | 45.0 |",
        "15.0 training interactions on average, a shown one 2.0 times as many, and 3.0 times in",
        "takes 12 ms alone and 0.25 ms a user in a batch of 512 (medians), on A GPU (an abacus), 2 threads.",
        "4 (5.0 %) have no training interaction", "80 test users with 80 true items",
    ):  # fmt: skip
        assert fact in text
    row = Listing.of(Entry.open(folder))
    assert (row.ms_per_user, row.device, row.licence) == (BENCHMARK.ms_per_user, "A GPU", "Apache-2.0")
    assert (row.dataset_sha256, row.terms) == (dataset.sha256, dataset.info.licence)
    assert row.sd == {"ndcg@10": 0.015}


def test_a_card_is_behind_until_it_is_refreshed(entry, tiny, dataset):
    assert outdated(Entry.open(entry), tiny) == []
    assert outdated(Entry.open(entry), tiny, Known(dataset=dataset)) == []
    known = Known(benchmark=BENCHMARK)
    assert outdated(Entry.open(entry), tiny, known) == ["metrics.json", "card.md"]
    weights = (entry / "model.safetensors").read_bytes()
    assert refresh(Entry.open(entry), known)
    assert outdated(Entry.open(entry), tiny, known) == outdated(Entry.open(entry), tiny) == []
    assert (entry / "model.safetensors").read_bytes() == weights
    type(tiny).__doc__, before = "Another model.", type(tiny).__doc__
    try:
        assert outdated(Entry.open(entry), tiny) == ["card.md"]
    finally:
        type(tiny).__doc__ = before


def test_the_same_model_and_facts_give_the_same_bytes(tiny, dataset, tmp_path):
    first, second = (
        contents(save(tiny, tmp_path / part / "tiny.synthetic", dataset=dataset, metrics=metrics))
        for part, metrics in (("a", {"x": 1.0, "y": 2.0}), ("b", {"y": 2.0, "x": 1.0}))
    )
    assert first == second


def test_a_loaded_model_is_saved_again_as_it_was(entry, dataset, tmp_path):
    again = save(load(entry), tmp_path / "again", dataset=dataset)
    for name in ("model.safetensors", "vocabulary.json"):
        assert (again / name).read_bytes() == (entry / name).read_bytes()


# what cannot be kept


ON = Evaluation(seed=3, draws=2, device="cpu", processor="an abacus", threads=2, packages={"torch": "2.13.0"})


def test_on_what_metrics_were_measured_is_kept(tiny, dataset, tmp_path):
    folder = save(tiny, tmp_path / "entry", dataset=dataset, metrics={"ndcg@10": 0.25}, evaluation=ON)
    assert Measured.parse((folder / "metrics.json").read_bytes(), "x").evaluation == ON
    text = " ".join((folder / "card.md").read_text().split())
    assert "measured with seed 3, the mean of 2 draws of the sampling noise, on an abacus, 2 threads: torch 2" in text
    load(folder)


HOSTILE = {
    "text for threads": {"threads": "2"},
    "no thread": {"threads": 0},
    "a million threads": {"threads": 10**6},
    "no draw": {"draws": 0},
    "a million draws": {"draws": 10**6},
    "True for a draw": {"draws": True},
    "a negative seed": {"seed": -1},
    "a huge seed": {"seed": 1 << 70},
    "versions that are numbers": {"packages": {"torch": 2}},
    "a package that is a list": {"packages": []},
    "an extra key": {"host": "example.org"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_account_of_measuring_is_refused(case, tiny, tmp_path):
    folder = save(tiny, tmp_path / "entry", evaluation=ON)
    measured = json.loads((folder / "metrics.json").read_text())
    measured["evaluation"].update(HOSTILE[case])
    with pytest.raises(IntegrityError, match="x: evaluation"):
        Measured.parse(json.dumps(measured).encode(), "x")
    with pytest.raises(IntegrityError, match="must be a number"):
        Measured.parse(json.dumps({**measured, "evaluation": None, "float32": {"ndcg@10": "1"}}).encode(), "x")


HOSTILE_BENCHMARKS = {
    "no row": {"row": None},
    "no run": {"row": {"seeds": 0, "mean": 0.1, "sd": None, "about": ""}},
    "a mean that is text": {"popularity": {"seeds": 1, "mean": "1", "sd": None, "about": ""}},
    "a control that is a list": {"controls": {"x": []}},
    "a control without seeds": {"controls": {"x": {"mean": 0.1, "sd": None, "about": ""}}},
    "half a user": {"counts": {"test_users": 0.5}},
    "fewer than no user": {"counts": {"test_users": -1}},
    "a batch that is none": {"ms_per_user": {"a": 1.0}},
    "time that runs backwards": {"ms_per_user": {"1": -1.0}},
    "spread that is True": {"sd": {"ndcg@10": True}},
    "an extra key": {"host": "example.org"},
}


@pytest.mark.parametrize("case", HOSTILE_BENCHMARKS)
def test_a_hostile_benchmark_is_refused(case):
    with pytest.raises(IntegrityError, match="x"):
        Benchmark.parse(BENCHMARK.plain() | HOSTILE_BENCHMARKS[case], "x")


@pytest.mark.parametrize("dtype", ["float8", "float32", 16, True, ["float16"]])
def test_types_that_files_do_not_have(dtype, entry):
    config = json.loads((entry / "config.json").read_text())
    with pytest.raises(IntegrityError, match=r"dtype"):
        Config.parse(json.dumps({**config, "dtype": dtype}).encode(), "x")


def test_an_entry_is_replaced_only_if_asked(entry, tiny):
    before = contents(entry)
    with pytest.raises(UsageError, match="exists"):
        save(tiny, entry)
    assert contents(entry) == before
    save(tiny, entry, metrics={"ndcg@10": 0.75}, overwrite=True)
    assert json.loads((entry / "metrics.json").read_text())["metrics"] == {"ndcg@10": 0.75}
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_a_folder_that_is_no_entry_is_never_replaced(tiny, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("words")
    (tmp_path / "file").write_text("words")
    for name in ("thesis", "file"):
        with pytest.raises(UsageError, match="not a zoo entry"):
            save(tiny, tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == (tmp_path / "file").read_text() == "words"


class Unexported(Recommender):
    """Not one of diffrec."""

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)


def test_models_that_could_not_be_loaded_are_not_saved(tmp_path, tiny_class, dataset):
    with pytest.raises(UsageError, match="Unexported is not a model of"):
        save(Unexported(3), tmp_path / "entry")
    with pytest.raises(UsageError, match="is not a plain value"):
        save(tiny_class(3, scale=nn.Identity()), tmp_path / "entry")
    with pytest.raises(UsageError, match="knows 3 items, synthetic has 100"):
        save(tiny_class(3), tmp_path / "entry", dataset=dataset)
    model = tiny_class(3)
    model.steps = model.steps.float()
    with pytest.raises(IntegrityError, match=r"steps is torch.float32 .* must be torch.int64"):
        save(model, tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_and_metrics_are_finite(value, tiny, tmp_path):
    with pytest.raises(UsageError, match="'ndcg@10' is"):
        save(tiny, tmp_path / "entry", metrics={"ndcg@10": value})
    with torch.no_grad():
        tiny.items.weight[5, 2] = value
    with pytest.raises(DiffrecError, match=r"items\.weight holds numbers that are not finite"):
        save(tiny, tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


def test_misspelt_facts_are_named(tiny, tmp_path):
    with pytest.raises(UsageError, match=r"no 'second'; allowed: .*; did you mean 'seconds'\?"):
        save(tiny, tmp_path / "entry", training={"second": 1.0})
    with pytest.raises(NotFoundError, match="did you mean 'loo-full-masked@1'"):
        save(tiny, tmp_path / "entry", protocol="loo-full-masked")


def test_weights_that_share_memory_or_are_strided_are_kept(tiny_class, tmp_path):
    model = tiny_class(3, width=3, widths=(3, 3)).eval()
    model.parts[1].weight = nn.Parameter(model.parts[0].weight.detach())
    model.parts[0].bias.data = torch.arange(6.0)[::2]
    loaded = load(save(model, tmp_path / "entry"))
    assert torch.equal(loaded.parts[1].weight, model.parts[0].weight)
    assert torch.equal(loaded.parts[0].bias, torch.tensor([0.0, 2.0, 4.0]))


# interruptions


class Crash(BaseException):
    """Like Ctrl-C: no Exception, so nothing may swallow it."""


STEPS = [("mkdir", 2), *[("fsync", n) for n in range(1, 10)], ("_swap", 1), ("rename", 1), ("rename", 2)]


@pytest.mark.parametrize("failure", [Crash, OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]} {step[1]}")
def test_an_interrupted_save_leaves_the_old_entry(step, failure, entry, tiny, monkeypatch):
    before, calls = contents(entry), dict.fromkeys(("fsync", "rename", "mkdir", "_swap"), 0)
    name, number = step

    def failing(real, what):
        def call(*args, **kwargs):
            calls[what] += 1
            if (what, calls[what]) == (name, number):
                raise failure
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync, "fsync"))
    monkeypatch.setattr(Path, "rename", failing(Path.rename, "rename"))
    monkeypatch.setattr(Path, "mkdir", failing(Path.mkdir, "mkdir"))
    monkeypatch.setattr(diffrec.files, "_swap", failing(lambda *names: False, "_swap"))
    with torch.no_grad():
        tiny.items.weight += 1
    after_exchange = step == ("fsync", 9)
    with pytest.raises(Crash if failure is Crash else DiffrecError):
        save(tiny, entry, overwrite=True)
    assert (contents(entry) == before) != after_exchange
    load(entry)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_there_is_nothing_where_a_first_save_fails(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffrec.zoo.saving.load", lambda folder: (_ for _ in ()).throw(IntegrityError("cannot be read"))
    )
    with pytest.raises(IntegrityError, match="cannot be read"):
        save(tiny, tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiffrecError, match="could not be written"):
        save(tiny, tmp_path / "file" / "entry")


def test_a_baseline_has_its_numbers_counted(popularity, tmp_path):
    folder = save(popularity, tmp_path / "popularity.synthetic")
    config = json.loads((folder / "config.json").read_text())
    assert (config["class"], config["parameters"]) == ("diffrec.baselines.Popularity", 100)
    assert isinstance(load(folder), Popularity)
