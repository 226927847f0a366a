"""`diffrec zoo`: list, info, verify, index."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch

from diffrec.baselines import EASE, Popularity
from diffrec.bench.evaluate import mean_metrics
from diffrec.bench.provenance import setup
from diffrec.cli import zoo
from diffrec.data.catalogue import find
from diffrec.data.protocol import get_protocol
from diffrec.data.synthetic import synthetic
from diffrec.errors import IntegrityError, NotFoundError, UsageError
from diffrec.models import DreamRec
from diffrec.zoo import save, table
from diffrec.zoo.config import Evaluation
from diffrec.zoo.entry import FILES, manifest_bytes
from diffrec.zoo.index import read_index, rebuild_index


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A zoo with four entries under two protocols."""
    dataset = synthetic()
    rows = {
        "popularity.synthetic": (Popularity, "loo-full-masked@1", {"ndcg@10": 0.1, "recall@10": 0.9}),
        "ease.synthetic": (EASE, "loo-full-masked@1", {"ndcg@10": 0.2, "recall@10": 0.3}),
        "ease.synthetic.unmasked": (EASE, "loo-full-unmasked@1", {"ndcg@10": 0.15}),
        "popularity.alone": (Popularity, None, {}),
    }
    for name, (kind, protocol, metrics) in rows.items():
        model = kind(dataset.num_items)
        model.solve(dataset.parts["all"].items)
        save(model, tmp_path / name, dataset=dataset if protocol else None, protocol=protocol, metrics=metrics)
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: tmp_path)
    rebuild_index()
    return tmp_path


def output(capsys, *words, code=0):
    parser = argparse.ArgumentParser()
    zoo.add_arguments(parser)
    assert zoo.run(parser.parse_args(words)) == code
    return capsys.readouterr().out


def names(out):
    return [line.split()[0] for line in out.splitlines() if "." in line.split()[0]]


def test_the_table_is_sorted_inside_dataset_and_protocol(root, capsys):
    out = output(capsys, "list")
    assert names(out) == ["popularity.alone", "ease.synthetic", "popularity.synthetic", "ease.synthetic.unmasked"]
    lines = [line.split() for line in out.splitlines()]
    masked = lines.index(["dataset", "synthetic,", "protocol", "loo-full-masked@1"])
    assert lines[masked + 1][:4] == ["terms", "of", "the", "data:"]
    assert lines[masked + 2] == ["name", "NDCG@10", "params", "size", "calls", "ms", "here"]
    assert lines[masked + 3][:3] == ["ease.synthetic", "0.2000", "10.1k"]
    assert lines[masked + 4][:2] == ["popularity.synthetic", "0.1000"]
    assert lines[masked + 4][-3:] == ["1", "-", "yes"]
    assert "licence of the models: Apache-2.0" in out
    assert lines[masked + 5] == ["dataset", "synthetic,", "protocol", "loo-full-unmasked@1"]
    assert max(map(len, out.splitlines())) <= 80


def test_the_spread_over_seeds_stands_beside_its_value(root, capsys):
    assert "±" not in output(capsys, "list")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["entries"]["ease.synthetic"]["sd"] = {"ndcg@10": 0.01234}
    long = "e" * 38
    manifest["entries"][long] = manifest["entries"]["ease.synthetic"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    out = output(capsys, "list", "--dataset", "synthetic", "--protocol", "loo-full-masked@1")
    assert max(map(len, out.splitlines())) <= 80
    assert len({line.index("0.") for line in out.splitlines() if "0." in line}) == 1
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["ease.synthetic"][1:4] == ["0.2000", "±0.0123", "10.1k"]
    assert rows["popularity.synthetic"][1:3] == ["0.1000", "100"]
    assert "±: standard deviation over the seeds of its row; the value is that of this model" in out.splitlines()
    assert "±" not in output(capsys, "list", "--sort", "recall@10")
    assert "| .2000 ±.0123 | .3000 |" in table.table(read_index())


def test_another_metric_can_be_shown_and_sorted_by(root, capsys):
    out = output(capsys, "list", "--sort", "recall@10")
    assert names(out) == ["popularity.alone", "popularity.synthetic", "ease.synthetic", "ease.synthetic.unmasked"]
    assert "0.9000" in out
    with pytest.raises(NotFoundError, match=r"no metric or cost 'ndgc@10'.*did you mean 'ndcg@10'\?"):
        output(capsys, "list", "--sort", "ndgc@10")


def test_the_list_as_json(root, capsys):
    rows = json.loads(output(capsys, "list", "--json"))
    assert [row["name"] for row in rows][:2] == ["popularity.alone", "ease.synthetic"]
    ease = rows[1]
    assert ease["metrics"] == {"ndcg@10": 0.2, "recall@10": 0.3}
    assert ease["size"] == sum(file["size"] for file in ease["files"].values())
    assert (ease["dataset"], ease["protocol"], ease["denoiser_calls"]) == ("synthetic", "loo-full-masked@1", 1)


def test_listing_is_quick_and_without_torch(root):
    code = (
        "import argparse, sys;"
        "import diffrec.zoo.index; from pathlib import Path;"
        f"diffrec.zoo.index.resource_dir = lambda name: Path({str(root)!r});"
        "from diffrec.cli import zoo; parser = argparse.ArgumentParser(); zoo.add_arguments(parser);"
        "zoo.run(parser.parse_args(['list']));"
        "print(sorted({'torch', 'numpy', 'scipy', 'pyarrow', 'lightning'} & set(sys.modules)))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    assert done.stdout.splitlines()[-1] == "[]"
    assert "ease.synthetic.unmasked" in done.stdout


def test_an_empty_zoo_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: tmp_path)
    assert "the zoo is empty" in output(capsys, "list")


def test_info_shows_the_card_and_the_files(root, capsys):
    (root / "ease.synthetic" / "card.md").write_text("\x1b[2Jcard")
    with pytest.raises(IntegrityError, match=r"card\.md"):
        output(capsys, "info", "ease.synthetic")
    out = output(capsys, "info", "popularity.synthetic")
    assert "# popularity.synthetic" in out
    assert "loo-full-masked@1" in out
    assert "model.safetensors: " in out
    with pytest.raises(NotFoundError, match=r"did you mean 'popularity\.synthetic'"):
        output(capsys, "info", "popularity.sinthetic")


def test_verify_names_what_is_damaged_and_goes_on(root, capsys):
    assert output(capsys, "verify").count(": ok, ") == 4
    weights = root / "ease.synthetic" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    lines = output(capsys, "verify", code=3).splitlines()
    assert len(lines) == 4
    assert [": ok, " in line for line in lines] == [False, True, True, True]
    assert "model.safetensors is not the file its manifest lists" in lines[0]
    assert output(capsys, "verify", "popularity.synthetic") == "popularity.synthetic: ok, 100 parameters, 16 lists\n"
    assert "no zoo entry 'x'" in output(capsys, "verify", "x", code=4)


def test_refresh_writes_what_save_writes_today(root, capsys):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    refresh = ["refresh", "--results", str(root / "no-records")]
    assert output(capsys, *refresh).count(": as it was, ") == 4
    assert output(capsys, *refresh, "--check").count(": up to date\n") == 4
    with pytest.raises(UsageError, match="--check writes nothing"):
        output(capsys, *refresh, "--check", "--dtype", "float16")
    (root / "ease.synthetic" / "golden.json").unlink()
    names = [name for name in FILES if name != "golden.json"]
    contents = {name: (root / "ease.synthetic" / name).read_bytes() for name in names}
    (root / "ease.synthetic" / "manifest.json").write_bytes(manifest_bytes(contents))
    output(capsys, "index")
    assert "ease.synthetic: ok, 10,101 parameters, no lists to compare" in output(capsys, "verify", "ease.synthetic")
    assert "ease.synthetic: written again, " in output(capsys, *refresh, "ease.synthetic")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.fixture
def measured(root):
    """`measured(noise=0.0)`: an entry of DreamRec with its metrics from this machine, moved by `noise`."""

    def make(noise=0.0, **on):
        dataset = synthetic()
        protocol = get_protocol("loo-full-masked@1")
        model = DreamRec(dataset.num_items, embedding_size=8, num_inference_steps=2).eval()
        metrics = mean_metrics(model, protocol.apply(dataset).test, protocol.cutoffs, seed=4, draws=2)
        here = setup(torch.device("cpu"))
        machine = {name: here.pop(name) for name in ("device", "processor", "threads")}
        evaluation = Evaluation(4, 2, **{**machine, "packages": here, **on})
        moved = {name: value + noise for name, value in metrics.items()}
        save(model, root / "dreamrec.synthetic", dataset=dataset, protocol=protocol.id, metrics=moved,
             training={"seed": 4}, evaluation=evaluation, overwrite=True)  # fmt: skip
        rebuild_index()
        return "dreamrec.synthetic"

    return make


def test_metrics_are_measured_again(measured, capsys):
    out = output(capsys, "verify", measured(), "--evaluate")
    assert "loo-full-masked@1: within 1e-06, as on the machine that measured" in out
    assert out.endswith("dreamrec.synthetic: 21 metrics come out again\n")
    assert max(map(len, out.splitlines())) <= 80
    out = output(capsys, "verify", measured(1e-5), "--evaluate", code=3)
    assert "ndcg@10, ndcg@20" in out
    assert out.endswith("did not come out again within 1e-06\n")


def test_another_machine_may_round_otherwise(measured, capsys):
    out = output(capsys, "verify", measured(5e-4, processor="an abacus"), "--evaluate")
    assert "loo-full-masked@1: within 0.001, for here is" in out
    assert "instead of an abacus" in out
    assert "did not come out again within 0.001" in output(
        capsys, "verify", measured(2e-3, processor="an abacus"), "--evaluate", code=3
    )


def test_what_cannot_be_measured_again(root, measured, capsys, monkeypatch):
    assert "it states no metrics under a protocol" in output(capsys, "verify", "popularity.alone", "--evaluate", code=2)
    out = output(capsys, "verify", "ease.synthetic", "--evaluate", code=3)
    assert "within 0.001, for here is\n  an entry that does not say on what it was measured" in out
    measured()
    monkeypatch.setattr("diffrec.cli.submit.local_dataset", lambda name: synthetic(num_items=100, seed=5))
    assert "the dataset synthetic here has sha256" in output(
        capsys, "verify", "dreamrec.synthetic", "--evaluate", code=3
    )


def test_a_shipped_entry_is_measured_again(capsys):
    if find("ml-100k").folder is None:
        pytest.skip("needs the dataset ml-100k: 'diffrec data fetch ml-100k'")
    assert "sasrec.ml-100k: 21 metrics come out again" in output(capsys, "verify", "sasrec.ml-100k", "--evaluate")


def test_refresh_rounds_the_weights_where_that_costs_little(root, measured, capsys):
    refresh = ["refresh", "--results", str(root / "no-records"), "--dtype", "float16", measured(processor="an abacus")]
    folder = root / "dreamrec.synthetic"
    exact = (folder / "model.safetensors").stat().st_size
    assert "dreamrec.synthetic: written again, " in output(capsys, *refresh)
    assert (folder / "model.safetensors").stat().st_size < 0.7 * exact
    stated = json.loads((folder / "metrics.json").read_text())
    assert stated["float32"].keys() == stated["metrics"].keys()
    assert stated["evaluation"]["processor"] != "an abacus"
    assert "weights in float16" in (folder / "card.md").read_text()
    out = output(capsys, "verify", "dreamrec.synthetic", "--evaluate")
    assert "dreamrec.synthetic: ok, " in out
    assert "within 1e-06, as on the machine that measured" in out
    assert "dreamrec.synthetic: as it was, " in output(capsys, *refresh)


def test_refresh_rounds_nothing_whose_metrics_are_wrong(root, measured, capsys):
    refresh = ["refresh", "--results", str(root / "no-records"), "--dtype", "float16", measured(2e-3)]
    output(capsys, *refresh[:-3], refresh[-1])
    before = (root / "dreamrec.synthetic" / "manifest.json").read_bytes()
    with pytest.raises(IntegrityError, match=r"did not come out again within 0\.001"):
        output(capsys, *refresh)
    assert (root / "dreamrec.synthetic" / "manifest.json").read_bytes() == before


def test_index_lists_the_folders(root, capsys):
    (root / "manifest.json").unlink()
    assert "lists 4 models\n" in output(capsys, "index")
    assert output(capsys, "verify").count(": ok") == 4


def test_costs_sort_from_the_least(root, capsys):
    masked = names(output(capsys, "list", "--sort", "params", "--protocol", "loo-full-masked@1"))
    assert masked == ["popularity.synthetic", "ease.synthetic"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--where", "ndcg@10>=0.15"], ["ease.synthetic", "ease.synthetic.unmasked"]),
        (["--where", "ndcg@10>0.15"], ["ease.synthetic"]),
        (["--where", "recall@10 < 1", "--where", "params<=100"], ["popularity.synthetic"]),
        (["--where", "calls=1", "--dataset", "synthetic", "--protocol", "loo-full-unmasked@1"],
         ["ease.synthetic.unmasked"]),
        (["--dataset", "synthetic", "--where", "ndcg@10>1"], []),
    ],
)  # fmt: skip
def test_filters(words, expected, root, capsys):
    assert names(output(capsys, "list", *words)) == expected


@pytest.mark.parametrize("condition", ["ndcg@10", ">=0.1", "ndcg@10>=x", "ndcg@10!=1", "ndcg@10>=1e", ""])
def test_conditions_that_are_none(condition, root, capsys):
    with pytest.raises(UsageError, match="is no condition such as"):
        output(capsys, "list", "--where", condition)
    with pytest.raises(NotFoundError, match=r"no metric or cost 'ndgc@10'.*did you mean 'ndcg@10'"):
        output(capsys, "list", "--where", "ndgc@10>0")
    with pytest.raises(NotFoundError, match=r"no metric or cost 'recall10'.*did you mean 'recall@10'"):
        output(capsys, "list", "--where", "recall10>0")


def test_datasets_and_protocols_that_no_model_has(root, capsys):
    with pytest.raises(NotFoundError, match=r"of the dataset 'syntetic'.*did you mean 'synthetic'"):
        output(capsys, "list", "--json", "--dataset", "syntetic")
    with pytest.raises(NotFoundError, match=r"of the protocol 'loo-full'; there are: .*loo-full-masked@1"):
        output(capsys, "list", "--protocol", "loo-full")
    (root / "manifest.json").unlink()
    assert names(output(capsys, "list", "--dataset", "synthetic")) == []


def test_what_lies_elsewhere_is_listed_until_it_is_forgotten(root, tmp_path, capsys):
    away = tmp_path.parent / f"{tmp_path.name}-away"
    away.mkdir()
    (root / "ease.synthetic").rename(away / "ease.synthetic")
    (root / "manifest.json").unlink()
    assert "lists 3 models" in output(capsys, "index")
    assert "lists 4 models" in output(capsys, "index", "--elsewhere", str(away))
    assert "lists 4 models" in output(capsys, "index")
    here = {row["name"]: row["here"] for row in json.loads(output(capsys, "list", "--json"))}
    assert [name for name, there in here.items() if not there] == ["ease.synthetic"]
    assert "ease.synthetic: not on this machine" in output(capsys, "verify")
    said = output(capsys, "info", "ease.synthetic")
    assert "| `ease.synthetic` | loo-full-masked@1 | .2000 |" in said
    assert "'diffrec zoo build ease.synthetic' trains it" in said
    assert "model.safetensors: " in said
    assert "lists 3 models" in output(capsys, "index", "--forget", "ease.synthetic")


def test_the_table_of_the_readme_follows_the_list(root, capsys):
    rows = read_index()
    text = table.filled("before\n<!-- zoo -->\nold\n<!-- end of zoo -->\nafter", rows)
    lines = text.splitlines()
    assert (lines[0], lines[1], lines[-2], lines[-1]) == ("before", "<!-- zoo -->", "<!-- end of zoo -->", "after")
    assert "| `ease.synthetic` | loo-full-masked@1 | .2000 | .3000 | 1 |  | 10.1k |" in text
    assert [line.split("`")[1] for line in lines if "`" in line] == names(output(capsys, "list"))
    assert table.filled("nothing to fill", rows) == "nothing to fill"
    assert [line.split("`")[1] for line in table.table(rows, ["ease.synthetic"]).splitlines() if "†" in line] == [
        "ease.synthetic"
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (12_345, "12.3k"), (999_999, "1.0M"), (123_456_789, "123M")],
)
def test_short_numbers(count, text):
    assert table.short(count) == text
