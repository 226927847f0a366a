"""`diffrec verify`: what each level finds, and what it says."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as bytes_of

from diffrec.bench import bundle as bundles
from diffrec.bench.bundle import lists_from_parquet, lists_to_parquet, read_bundle
from diffrec.bench.provenance import config_sha256, weights_sha256
from diffrec.bench.ranks import UserRanks, from_parquet, to_parquet
from diffrec.bench.rerun import scored, training_findings
from diffrec.bench.result import as_json, sha256_of
from diffrec.bench.runner import run_suite
from diffrec.bench.schedule import Folders
from diffrec.bench.suite import load_suite
from diffrec.bench.verify import numbers, places
from diffrec.cli.entries import entry_of, save_entry
from diffrec.cli.main import main
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.synthetic import synthetic
from diffrec.strict_json import to_json
from diffrec.zoo import load
from diffrec.zoo.entry import FILES, manifest_bytes

PROTOCOL = PROTOCOLS["loo-full-masked@1"]
SUITE = """
name: tiny
version: 1
title: Generated data
draws: 2
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: markov, configs: [model/markov]}
  - name: diffrec
    configs: [model/diffrec]
    overrides: ["--model.dims=[8]", --model.stochastic=true, --model.noise_scale=0.5, --trainer.max_epochs=1]
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """`markov` without, `diffrec` with its model."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tiny.yaml").write_text(SUITE)
    keep = lambda trained: save_entry(trained, entry_of(trained.cell, folder / "zoo"))  # noqa: E731
    run_suite(load_suite(folder / "tiny.yaml"), Folders(folder / "results", folder / "runs"), keep=keep)
    for model, words in (("markov", []), ("diffrec", ["--entry", str(folder / "zoo" / "diffrec.synthetic")])):
        record = folder / "results" / "tiny" / "synthetic" / model / "seed0.json"
        assert main(["submit", str(record), *words, "-o", str(folder / model)]) == 0
    return folder


@pytest.fixture
def diffrec(originals, tmp_path):
    """A copy to forge."""
    return Path(shutil.copytree(originals / "diffrec", tmp_path / "diffrec"))


def seal(folder: Path, **changes: object) -> None:
    """Change fields of the record and seal the bundle and the entry in it, so that no hash tells."""
    record = json.loads((folder / "result.json").read_text())
    del record["record_sha256"]
    record |= {"ranks_sha256": _sha256(folder / "ranks.parquet"), **changes}
    record["config_sha256"] = config_sha256(record["config"])
    record["record_sha256"] = sha256_of(record)
    (folder / "result.json").write_text(json.dumps(record))
    entry = folder / "model"
    there = [name for name in FILES if (entry / name).exists()]
    (entry / "manifest.json").write_bytes(manifest_bytes({name: (entry / name).read_bytes() for name in there}))
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in manifest["files"]:
        manifest["files"][name] = {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    (folder / "manifest.json").write_bytes(to_json(manifest))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reseal_lists(folder: Path, change) -> None:
    """Other ranks and lists, with every number of the record recomputed from them."""
    there = read_bundle(folder)
    ranks, lists = change(there.ranks, there.lists)
    split = PROTOCOL.apply(synthetic())
    again = numbers(ranks, lists, [places(draw, split.test.target) for draw in lists.draws], split, PROTOCOL, 100)
    (folder / "ranks.parquet").write_bytes(to_parquet(ranks))
    (folder / "lists.parquet").write_bytes(lists_to_parquet(lists))
    seal(folder, **{**vars(again), "bounds": vars(again.bounds)})


def verify(folder: Path, level: int, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["verify", str(folder), "--level", str(level)])
    out, err = capsys.readouterr()
    return code, err or out


def test_all_levels_of_honest_bundles(originals, capsys):
    code, text = verify(originals / "diffrec", 3, capsys)
    assert code == 0
    assert "the lists of 200 users in 2 draws" in text
    assert "it proves nothing about the model" in text
    assert "level 2 ok: the model, loaded from the bundle, gives these lists and metrics, exactly" in text
    assert "level 3 ok: trained again, ndcg@10 is" in text
    assert text.count("exactly (same code") == 2
    assert "never verified: suite, suite_version, model" in text
    code, text = verify(originals / "markov", 2, capsys)
    assert code == 0
    assert "solved again from the configuration" in text
    assert "not recomputed before a higher level: config, epochs" in text


def test_level_1_finds_a_number_and_exits_with_3(diffrec, capsys):
    record = read_bundle(diffrec).result
    seal(diffrec, beyond_accuracy={**record.beyond_accuracy, "gini@10": 0.5})
    code, text = verify(diffrec, 1, capsys)
    assert code == 3
    assert text.startswith("error: beyond_accuracy: gini@10 is 0.5, recomputed it is 0.")


def test_made_up_lists_pass_level_1_and_not_level_2(diffrec, capsys):
    """As the output of level 1 says."""

    def better(ranks, lists):
        target, draws = PROTOCOL.apply(synthetic()).test.target, []
        for draw in lists.draws:
            hidden = np.flatnonzero(~(draw.items == target.values[:, None]).any(1))
            draw.items[hidden, -1] = target.values[hidden]
            draws.append(draw)
        known = [places(draw, target) for draw in draws]
        values = [
            np.where(k.listed, 1 + k.greater + k.equal / 2, r.values) for k, r in zip(known, ranks.draws, strict=True)
        ]
        exact = tuple(type(r)(v.astype(np.float32), r.offsets) for v, r in zip(values, ranks.draws, strict=True))
        return UserRanks(ranks.users, exact), lists

    reseal_lists(diffrec, better)
    assert verify(diffrec, 1, capsys)[0] == 0
    code, text = verify(diffrec, 2, capsys)
    assert code == 3
    assert "draw 0: the list of user" in text
    assert "draw 1: a rank of user" in text


def test_level_2_finds_other_noise_and_exchanged_draws(originals, diffrec, tmp_path, capsys):
    model = load(originals / "diffrec" / "model")
    cases = PROTOCOL.apply(synthetic()).test

    def of_seed_1(ranks, lists):
        return scored(replace(read_bundle(diffrec).result, seed=1), model, cases, 2)

    reseal_lists(diffrec, of_seed_1)
    assert verify(diffrec, 1, capsys)[0] == 0
    assert verify(diffrec, 2, capsys)[0] == 3
    turned = Path(shutil.copytree(originals / "diffrec", tmp_path / "turned"))
    reseal_lists(turned, lambda *both: tuple(type(part)(part.users, part.draws[::-1]) for part in both))
    assert verify(turned, 1, capsys)[0] == 0
    assert "the model gives" in verify(turned, 2, capsys)[1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parameters": 7}, "parameters is 7, the model has"),
        ({"denoiser_calls": 7}, "denoiser_calls is 7, the model has 5"),
        ({"weights_sha256": "0" * 64}, "weights_sha256 is"),
        ({"deviations": ["none"]}, "the file of the model lists"),
        ("num_inference_steps", "selection.num_inference_steps is 3, the model has 5"),
        ("validation", "validation: mrr is"),
        ("lr", "config: lr is 1.0, the model was built with"),
        ("unknown", "config: wings is 2, the model was built with None"),
    ],
    ids=str,
)
def test_level_2_finds_what_the_model_contradicts(changes, told, diffrec, capsys):
    record = as_json(read_bundle(diffrec).result)
    if changes == "num_inference_steps":
        changes = {"selection": {**record["selection"], "num_inference_steps": 3}}
    elif changes == "validation":
        changes = {"validation": {**record["validation"], "mrr": 0.9}}
    elif isinstance(changes, str):
        record["config"]["model"]["init_args"][{"lr": "lr", "unknown": "wings"}[changes]] = (
            1.0 if changes == "lr" else 2
        )
        changes = {"config": record["config"]}
    seal(diffrec, **changes)
    assert verify(diffrec, 1, capsys)[0] == 0
    code, text = verify(diffrec, 2, capsys)
    assert code == 3
    assert told in text


def test_level_2_finds_other_weights(diffrec, capsys):
    path = diffrec / "model" / "model.safetensors"
    tensors = tensors_of(path.read_bytes())
    name = next(name for name, tensor in tensors.items() if name.endswith("weight"))
    tensors[name] = tensors[name] * 2
    path.write_bytes(bytes_of(tensors))
    seal(diffrec)
    assert "weights_sha256 is" in verify(diffrec, 2, capsys)[1]
    seal(diffrec, weights_sha256=weights_sha256(load(diffrec / "model")))
    code, text = verify(diffrec, 2, capsys)
    assert code == 3
    assert "the list of user" in text


def test_a_bundle_of_an_entry_without_golden_lists(diffrec, capsys):
    """As they were before there were any."""
    (diffrec / "model" / "golden.json").unlink()
    assert verify(diffrec, 1, capsys)[0] == 3
    manifest = json.loads((diffrec / "manifest.json").read_text())
    del manifest["files"]["model/golden.json"]
    (diffrec / "manifest.json").write_bytes(to_json(manifest))
    seal(diffrec)
    assert verify(diffrec, 2, capsys)[0] == 0


def test_a_damaged_entry_is_refused(diffrec, capsys):
    path = diffrec / "model" / "config.json"
    path.write_text(path.read_text().replace("diffrec.models.DiffRec", "os.system"))
    assert verify(diffrec, 1, capsys)[0] == 3
    seal(diffrec)
    code, text = verify(diffrec, 2, capsys)
    assert code == 3
    assert "os.system" in text


def test_level_3_finds_another_configuration(originals, tmp_path, capsys):
    forged = Path(shutil.copytree(originals / "diffrec", tmp_path / "forged"))
    record = as_json(read_bundle(forged).result)
    record["config"]["trainer"]["max_epochs"] = 2
    seal(forged, config=record["config"])
    assert verify(forged, 2, capsys)[0] == 0
    code, text = verify(forged, 3, capsys)
    assert code == 3
    assert "epochs is 1, trained again it is 2" in text


def test_hostile_configurations_are_refused_by_the_guard(diffrec, capsys):
    record = as_json(read_bundle(diffrec).result)
    record["config"]["trainer"]["callbacks"][0]["class_path"] = "os.system"
    seal(diffrec, config=record["config"])
    code, text = verify(diffrec, 3, capsys)
    assert code == 2
    assert "class_path 'os.system' is not allowed" in text


def test_on_another_machine_numbers_are_compared_within_what_is_stated(diffrec, capsys):
    seal(diffrec, processor="another one")
    code, text = verify(diffrec, 2, capsys)
    assert code == 0
    assert "within 0.0001 of the best score of a list, metrics within 0.001 (not exactly, for here is processor" in text
    record = read_bundle(diffrec).result
    near = replace(record, metrics={**record.metrics, "mrr": 1.04 * record.metrics["mrr"]}, epochs=9)
    far = replace(record, metrics={**record.metrics, "mrr": 1.06 * record.metrics["mrr"]})
    assert list(training_findings(record, near, exact=False)) == []
    assert "mrr is" in "".join(training_findings(record, far, exact=False))
    assert len(list(training_findings(record, near, exact=True))) == 2
    seal(diffrec, validation={**record.validation, "mrr": record.validation["mrr"] + 0.01})
    assert "validation: mrr" in verify(diffrec, 2, capsys)[1]
    lists = lists_from_parquet((diffrec / "lists.parquet").read_bytes(), "")
    lists.draws[0].scores[0] += np.linspace(10, 0, 50)  # falls as before; no number rests on it
    (diffrec / "lists.parquet").write_bytes(lists_to_parquet(lists))
    seal(diffrec, validation=dict(record.validation))
    assert verify(diffrec, 1, capsys)[0] == 0
    assert "draw 0: the list of user 0" in verify(diffrec, 2, capsys)[1]


def test_a_trained_row_needs_its_model(originals, tmp_path, capsys):
    folder = Path(shutil.copytree(originals / "diffrec", tmp_path / "bare"))
    shutil.rmtree(folder / "model")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"] = {name: manifest["files"][name] for name in manifest["files"] if "/" not in name}
    (folder / "manifest.json").write_bytes(to_json(manifest))
    assert verify(folder, 1, capsys)[0] == 0
    code, text = verify(folder, 2, capsys)
    assert code == 3
    assert "holds no model" in text


def test_a_dataset_that_is_not_here_is_not_fetched(diffrec, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    seal(diffrec, dataset="ml-100k")
    code, text = verify(diffrec, 1, capsys)
    assert code == 4
    assert "'diffrec data fetch ml-100k' gets it" in text
    seal(diffrec, dataset="ml-100kk")
    code, text = verify(diffrec, 1, capsys)
    assert code == 4
    assert "did you mean 'ml-100k'?" in text


def test_there_is_no_bundle(tmp_path, capsys):
    assert verify(tmp_path / "none", 1, capsys)[0] == 4
    assert verify(tmp_path, 1, capsys)[0] == 3
    assert main(["verify", str(tmp_path), "--level", "4"]) == 2


def test_a_bundle_knows_the_files_of_a_zoo_entry(originals):
    listed = {name for name in bundles._LARGEST if name.startswith("model/")}
    assert listed == {f"model/{name}" for name in (*FILES, "manifest.json")}
    assert {path.name for path in (originals / "diffrec" / "model").iterdir()} == {*FILES, "manifest.json"}
    assert from_parquet((originals / "diffrec" / "ranks.parquet").read_bytes(), "").users.tolist() == list(range(200))
