"""The list of the zoo: everything `zoo list` shows, from one file and without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from diffrec.errors import DiffrecError, IntegrityError, NotFoundError
from diffrec.zoo import save
from diffrec.zoo.entry import FILES, MANIFEST, sha256
from diffrec.zoo.finding import find_entry
from diffrec.zoo.index import read_index, rebuild_index


@pytest.fixture
def zoo(entry, popularity, dataset):
    """A zoo of two entries, its list written."""
    save(popularity, entry.parent / "popularity.synthetic", dataset=dataset, protocol="loo-full-masked@1",
         metrics={"ndcg@10": 0.125})  # fmt: skip
    rebuild_index(entry.parent)
    return entry.parent


def test_the_list_says_what_the_entries_say(zoo, dataset):
    rows = read_index(zoo)
    assert list(rows) == ["popularity.synthetic", "tiny.synthetic"]
    row = rows["tiny.synthetic"]
    assert row.revision == sha256((zoo / "tiny.synthetic" / MANIFEST).read_bytes())
    assert row.size == sum((zoo / "tiny.synthetic" / name).stat().st_size for name in FILES)
    assert (row.dataset, row.protocol, row.denoiser_calls) == ("synthetic", "loo-full-masked@1", 1)
    assert row.parameters == 101 * 4 + (4 * 2 + 2) + (4 * 3 + 3)
    assert row.metrics == {"ndcg@10": 0.25, "recall@10": 0.5}
    assert (row.dataset_sha256, row.terms, row.licence) == (dataset.sha256, dataset.info.licence, "Apache-2.0")
    assert (row.ms_per_user, row.device) == ({}, None)
    assert rebuild_index(zoo) == rows


def test_a_list_from_before_there_were_terms_is_read(zoo):
    rows, manifest = read_index(zoo), json.loads((zoo / MANIFEST).read_text())
    for name in ("dataset_sha256", "licence", "terms", "ms_per_user", "device", "sd"):
        del manifest["entries"]["tiny.synthetic"][name]
    (zoo / MANIFEST).write_text(json.dumps(manifest))
    assert read_index(zoo)["tiny.synthetic"].terms is None
    assert rebuild_index(zoo) == rows


def test_the_same_entries_give_the_same_bytes(zoo):
    before = (zoo / MANIFEST).read_bytes()
    (zoo / ".half-written").mkdir()
    (zoo / "README.md").touch()
    rebuild_index(zoo)
    assert (zoo / MANIFEST).read_bytes() == before


def test_a_damaged_entry_is_not_listed(zoo):
    before = (zoo / MANIFEST).read_bytes()
    weights = zoo / "tiny.synthetic" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        rebuild_index(zoo)
    assert (zoo / MANIFEST).read_bytes() == before


def test_a_list_that_cannot_be_written_leaves_the_old_one(zoo, monkeypatch):
    before = (zoo / MANIFEST).read_bytes()
    save_failure = OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(save_failure))
    with pytest.raises(DiffrecError, match="No space left on device"):
        rebuild_index(zoo)
    assert (zoo / MANIFEST).read_bytes() == before
    assert not [path for path in zoo.iterdir() if path.name.startswith(".")]


def test_without_a_list_the_zoo_is_empty(tmp_path):
    assert read_index(tmp_path) == {}
    with pytest.raises(NotFoundError, match="the zoo is empty"):
        find_entry("x", tmp_path)


HOSTILE = {
    "a name with a path": lambda m: m["entries"].update({"../x": m["entries"]["tiny.synthetic"]}),
    "an upper case name": lambda m: m["entries"].update({"Tiny": m["entries"]["tiny.synthetic"]}),
    "an extra key": lambda m: m["entries"]["tiny.synthetic"].update(url="http://example.org"),
    "a metric that is text": lambda m: m["entries"]["tiny.synthetic"]["metrics"].update({"ndcg@10": "1"}),
    "a metric that is True": lambda m: m["entries"]["tiny.synthetic"]["metrics"].update({"ndcg@10": True}),
    "a time that is text": lambda m: m["entries"]["tiny.synthetic"].update(ms_per_user={"1": "fast"}),
    "a spread that is text": lambda m: m["entries"]["tiny.synthetic"].update(sd={"ndcg@10": "wide"}),
    "an extra file": lambda m: m["entries"]["tiny.synthetic"]["files"].update(
        {"x.py": {"size": 1, "sha256": "0" * 64}}
    ),
    "another schema": lambda m: m.update(schema_version=2),
    "entries a list": lambda m: m.update(entries=[]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_list_is_refused(case, zoo):
    manifest = json.loads((zoo / MANIFEST).read_text())
    HOSTILE[case](manifest)
    (zoo / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError):
        read_index(zoo)


@pytest.mark.parametrize("field", ["revision", "files"])
def test_an_entry_must_be_the_one_in_the_list(field, zoo):
    manifest = json.loads((zoo / MANIFEST).read_text())
    entries = manifest["entries"]
    entries["tiny.synthetic"][field] = entries["popularity.synthetic"][field]
    (zoo / MANIFEST).write_text(json.dumps(manifest))
    find_entry("popularity.synthetic", zoo)
    with pytest.raises(IntegrityError, match="not the entry that the zoo lists"):
        find_entry("tiny.synthetic", zoo)


def test_reading_the_list_imports_nothing_heavy(zoo):
    code = (
        "import sys; from pathlib import Path; from diffrec.zoo.index import read_index;"
        f"assert len(read_index(Path({str(zoo)!r}))) == 2;"
        "print([name for name in ('torch', 'numpy', 'scipy', 'pyarrow', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
