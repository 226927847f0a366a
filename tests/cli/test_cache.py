"""`diffrec cache`: what is listed, what damage is found, and that nothing goes but what should."""

from __future__ import annotations

import argparse
import re
import shutil

import pytest
import torch

from diffrec.baselines import Popularity
from diffrec.cli import cache, zoo
from diffrec.data.synthetic import synthetic
from diffrec.errors import NetworkError, NotFoundError, UsageError
from diffrec.nn.artefacts import write_artefact
from diffrec.zoo import save
from diffrec.zoo.cache import ZooCache
from diffrec.zoo.finding import fetch_entry
from diffrec.zoo.lease import lease

NAMES = ("popularity.one", "popularity.two")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache with two models that came from a mirror; one of them also in an older revision."""
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    model = Popularity(100)
    model.solve(synthetic().parts["all"].items)
    monkeypatch.setattr("diffrec.zoo.index.resource_dir", lambda name: here)
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFREC_ZOO_MIRRORS", there.as_uri())
    monkeypatch.delenv("DIFFREC_ZOO_HUB", raising=False)
    for metrics in ({"ndcg@10": 0.1}, {"ndcg@10": 0.2}):
        save(model, there / NAMES[0], metrics=metrics, overwrite=True)
        fetch_entry(NAMES[0])
    save(model, there / NAMES[1])
    fetch_entry(NAMES[1])
    return tmp_path / "cache" / "zoo"


def output(capsys, *words, module=cache, code=0):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert module.run(parser.parse_args([str(word) for word in words])) == code
    return capsys.readouterr().out.splitlines()


def revisions(root, name=NAMES[0]):
    return {path.name for path in (root / name).iterdir() if path.is_dir()}


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_ls_names_models_states_and_datasets_with_sizes(root, capsys):
    current = (root / NAMES[0] / "current").read_text().strip()
    [old] = revisions(root) - {current}
    part = root / NAMES[1] / ("0" * 64 + ".part")
    part.mkdir()
    (part / "card.md").write_bytes(b"x" * 1234)
    data = root.parent / "datasets" / "mine"
    data.mkdir(parents=True)
    (data / "interactions.parquet").write_bytes(b"x" * 5678)
    lines = [line.split(maxsplit=1) for line in output(capsys, "ls")]
    told = {text: int(size.replace(",", "")) for size, text in lines}
    total = told.pop(f"bytes in {root.parent}")
    assert total == sum(told.values())
    assert told[f"model {NAMES[0]}  {current[:12]}"] == size_of(root / NAMES[0] / current)
    assert told[f"model {NAMES[0]}  {old[:12]} no name means it any more"] == size_of(root / NAMES[0] / old)
    assert told[f"model {NAMES[1]}  {'0' * 12} not finished"] == 1234
    assert told["dataset mine"] == 5678
    with lease(ZooCache(root).lease(NAMES[1], "0" * 64)):
        assert any("is being downloaded" in line for line in output(capsys, "ls"))


@pytest.fixture
def made(root):
    """Vectors and codes of one name, vectors of another; their paths."""
    paths = [
        root.parent / kind / "shop" / f"{name}.safetensors"
        for kind, name in (("vectors", "other"), ("vectors", "text"), ("codes", "text"))
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_artefact(path, {path.parent.parent.name: torch.arange(12.0).reshape(4, 3)}, {"dataset": "shop"})
    return paths


def test_vectors_and_codes_are_listed_and_counted(made, root, capsys):
    told = output(capsys, "ls")
    names = ["vectors shop/other", "vectors shop/text", "codes shop/text"]
    assert told[-4:-1] == [f"{path.stat().st_size:>13,}  {name}" for path, name in zip(made, names, strict=True)]
    sizes = [int(line.split()[0].replace(",", "")) for line in told]
    assert sizes[-1] == sum(sizes[:-1])


def test_verify_reads_vectors_and_codes_and_leaves_them(made, root, capsys):
    assert output(capsys, "verify")[-3:] == ["vectors shop/other: ok", "vectors shop/text: ok", "codes shop/text: ok"]
    for path, content in zip(made[1:], (made[1].read_bytes()[:-1] + b"\x01", b"nothing"), strict=True):
        path.write_bytes(content)
    for words in (("verify",), ("verify", "--remove")):
        _, vectors, codes = output(capsys, *words, code=3)[-3:]
        assert re.fullmatch(
            r"vectors shop/text: .* sha256 .*; 'diffrec data embed' makes it anew with --force", vectors
        )
        assert re.fullmatch(r"codes shop/text: .* is no safetensors .*'diffrec data tokenize' makes it anew .*", codes)
    assert all(path.exists() for path in made)


def test_prune_takes_vectors_and_codes_only_where_they_are_named(made, root, capsys):
    output(capsys, "prune")
    output(capsys, "prune", "--all")
    assert all(path.exists() for path in made)
    with pytest.raises(NotFoundError, match=r"no model, vectors or codes in the cache 'shop/txt'.*mean 'shop/text'"):
        output(capsys, "prune", "shop/txt")
    sizes = [path.stat().st_size for path in made]
    for words, there in (((), [True, False, False]), (("--dry-run",), [True, True, True])):
        if words:
            write_artefact(made[1], {"vectors": torch.arange(12.0).reshape(4, 3)}, {"dataset": "shop"})
            write_artefact(made[2], {"codes": torch.arange(12.0).reshape(4, 3)}, {"dataset": "shop"})
        told = output(capsys, "prune", "shop/text", *words)
        assert [line.split(maxsplit=1)[1] for line in told[:2]] == ["vectors shop/text", "codes shop/text"]
        assert int(told[2].split()[0].replace(",", "")) == sum(sizes[1:])
        assert [path.exists() for path in made] == there


def test_vectors_behind_a_link_are_none_of_ours(made, root, tmp_path, capsys):
    (root.parent / "vectors" / "linked").symlink_to(made[0].parent)
    assert "linked" not in "".join(output(capsys, "ls"))


def test_an_empty_cache(tmp_path, capsys):
    assert output(capsys, "ls", "--cache-dir", tmp_path / "nothing") == [
        f"            0  bytes in {tmp_path / 'nothing'}"
    ]
    assert output(capsys, "verify", "--cache-dir", tmp_path / "nothing") == [f"no models in {tmp_path}/nothing/zoo"]
    assert not (tmp_path / "nothing").exists()


def test_verify_finds_damage_and_removes_it_if_asked(root, capsys):
    assert [line.split(": ")[1] for line in output(capsys, "verify")] == ["ok"] * 3
    [only] = revisions(root, NAMES[1])
    weights = root / NAMES[1] / only / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    told = output(capsys, "verify", code=3)
    assert [line.endswith(": ok") for line in told] == [True, True, False]
    assert told[2].startswith(f"{NAMES[1]} {only[:12]}: ")
    assert weights.exists()
    assert output(capsys, "verify", "--remove")[2].endswith("; removed")
    assert not (root / NAMES[1]).exists()
    assert len(output(capsys, "verify")) == 2


def test_an_entry_under_the_name_of_another_revision_is_damage(root, capsys):
    [only] = revisions(root, NAMES[1])
    (root / NAMES[1] / only).rename(root / NAMES[1] / ("1" * 64))
    assert "is not the revision that it is named after" in output(capsys, "verify", code=3)[2]


def test_prune_takes_what_no_name_means(root, capsys):
    current = (root / NAMES[0] / "current").read_text().strip()
    for name in NAMES:
        (root / name / ("0" * 64 + ".part")).mkdir()
    before = sorted(root.rglob("*"))
    with lease(ZooCache(root).lease(NAMES[0], "0" * 64)):
        told = output(capsys, "prune", "--dry-run")
        assert len(told) == 3
        assert told[-1].endswith("bytes would be removed")
        assert [path for path in before if not path.exists()] == []
        assert output(capsys, "prune")[-1].endswith("bytes removed")
    assert revisions(root) == {current, "0" * 64 + ".part"}
    assert len(revisions(root, NAMES[1])) == 1
    assert ".part" not in "".join(revisions(root, NAMES[1]))


def test_prune_takes_models_by_name_or_all(root, capsys):
    with pytest.raises(
        NotFoundError, match=r"no model, vectors or codes in the cache 'popularity.tow'.*did you mean 'popularity.two'"
    ):
        output(capsys, "prune", "popularity.tow")
    with pytest.raises(UsageError, match="names, or --all"):
        output(capsys, "prune", "--all", NAMES[0])
    output(capsys, "prune", NAMES[0])
    assert not (root / NAMES[0]).exists()
    assert (root / NAMES[1]).exists()
    output(capsys, "prune", "--all")
    assert list(root.iterdir()) == []


def test_nothing_outside_goes_through_a_link(root, tmp_path, capsys):
    precious = tmp_path / "precious"
    shutil.copytree(root / NAMES[1], precious)
    shutil.rmtree(root / NAMES[1])
    (root / NAMES[1]).symlink_to(precious)
    (root / NAMES[0] / ("2" * 64)).symlink_to(precious)
    output(capsys, "prune", "--all")
    assert len(list(precious.iterdir())) == 2


def test_download_says_where_it_went(root, capsys, monkeypatch):
    shutil.rmtree(root)
    lines = output(capsys, "download", *NAMES, module=zoo)
    assert [line.split(":")[0] for line in lines] == [*NAMES]
    [only] = revisions(root, NAMES[1])
    assert lines[1].endswith(f" bytes in {root / NAMES[1] / only}")
    other = root.parent / "other"
    assert output(capsys, "download", NAMES[1], "--revision", only, "--cache-dir", other, module=zoo)[0].endswith(only)
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    monkeypatch.setenv("DIFFREC_ZOO_MIRRORS", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="while offline"):
        output(capsys, "download", NAMES[0], module=zoo)
