"""The demo on generated data; the real one differs in its suite only."""

from __future__ import annotations

import json

import pytest

from diffrec.bench.result import read_results
from diffrec.cli.main import main
from diffrec.data.sources import load_dataset
from diffrec.zoo import load

SUITE = """
name: small
version: 1
title: Generated data
without: {sasrec: the demo of this test is short, sequential-rules: the same}
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - {name: markov, configs: [model/markov]}
  - {name: item-knn, configs: [model/item-knn]}
  - {name: ease, configs: [model/ease]}
  - name: dreamrec
    configs: [model/dreamrec]
    overrides: [--trainer.max_epochs=1, --model.embedding_size=8, --model.num_inference_steps=2]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the demo of this module writes."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "small.yaml").write_text(SUITE)
    return folder


def demo(folder, *words):
    return main(["demo", "--suite", str(folder / "small.yaml"), "--output", str(folder / "out"), *words])


def test_the_whole_line(folder, capsys):
    assert demo(folder, "--history", "3, 1") == 0
    lines = capsys.readouterr().out.splitlines()
    titles = load_dataset("synthetic").vocabulary.titles
    assert titles is not None
    assert lines[:2] == ["Synthetic walks: 200 users, 100 items", "licence: generated, no restrictions"]
    assert "small · synthetic · loo-full-masked@1" in lines
    assert "lacks: sequential-rules (the same); sasrec (the demo of this test is short)" in lines
    start = lines.index(f"dreamrec recommends after {titles[2]}, {titles[0]}:")
    listed = [line.split(maxsplit=1) for line in lines[start + 1 : start + 11]]
    assert [place for place, _ in listed] == [str(place) for place in range(1, 11)]
    assert len({title for _, title in listed}) == 10
    assert {title for _, title in listed} <= set(titles) - {titles[2], titles[0]}
    paths = [line.strip() for line in lines[lines.index(f"written to {folder / 'out'}:") + 1 :]]
    out = folder / "out"
    assert paths == [
        str(out / name)
        for name in ("index.html", "leaderboard.md", "plots/accuracy.png", "plots/cost.png", "plots/training.png",
                     "zoo/dreamrec.synthetic", "results", "runs")
    ]  # fmt: skip
    assert [result.model for result in read_results(out / "results")] == [
        "dreamrec", "ease", "item-knn", "markov", "popularity",
    ]  # fmt: skip
    html = (out / "index.html").read_text()
    assert all(title in html for _, title in listed)
    assert html.count("data:image/png;base64,") == 3
    for name in ("accuracy", "cost", "training"):
        assert (out / "plots" / f"{name}.csv").exists()


def test_the_saved_model_is_the_one_that_was_measured(folder):
    model = load(folder / "out" / "zoo" / "dreamrec.synthetic")
    (result,) = [r for r in read_results(folder / "out" / "results") if r.model == "dreamrec"]
    metrics = json.loads((folder / "out" / "zoo" / "dreamrec.synthetic" / "metrics.json").read_text())
    assert metrics["metrics"] == result.metrics
    assert model.denoiser_calls == result.denoiser_calls
    assert sum(p.numel() for p in model.parameters()) == result.parameters


def test_a_second_demo_trains_nothing(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "results").rglob("*.json")}
    assert demo(folder, "--history", "5") == 0
    out = capsys.readouterr().out
    assert out.count("result was there") == 5
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "results").rglob("*.json")} == before


def test_a_lost_model_is_trained_again(folder, capsys):
    entry = folder / "out" / "zoo" / "dreamrec.synthetic"
    entry.rename(folder / "elsewhere")
    assert demo(folder, "--history", "5") == 0
    assert capsys.readouterr().out.count("result was there") == 4
    weights = [(place / "model.safetensors").read_bytes() for place in (entry, folder / "elsewhere")]
    assert weights[0] == weights[1]


def test_an_unknown_title_names_the_near_match_before_the_training(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SUITE)
    assert demo(tmp_path, "--history", "Item 7 (group)") == 4
    assert "did you mean 'Item 7 (group" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
