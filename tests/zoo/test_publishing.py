"""An entry as a repository of a hub: what the hub reads of it, and that it comes back as it was."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml

from diffrec import load
from diffrec.cli.main import main
from diffrec.zoo import save
from diffrec.zoo.entry import FILES, MANIFEST, Entry
from diffrec.zoo.finding import find_entry
from diffrec.zoo.verifying import verify

NAME = "tiny.synthetic"
HISTORIES = torch.tensor([[1, 2, 3], [50, 7, 100]])


def same_lists(model, other):
    (a, b), (c, d) = ((best.items, best.scores) for best in (model.recommend(HISTORIES), other.recommend(HISTORIES)))
    return torch.equal(a, c) and torch.equal(b, d)


@pytest.fixture
def hub(elsewhere, mirror, tmp_path, monkeypatch):
    """A hub without repositories, and a token for it."""
    pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    (tmp_path / "hub").mkdir()
    server = mirror(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return server


def publish(folder, to, *words):
    return main(["zoo", "publish", str(folder), "--to", str(to), *words])


def test_what_was_published_is_loaded_through_the_hub(hub, elsewhere, tiny, monkeypatch, capsys):
    assert publish(elsewhere / NAME, "hf://somebody") == 0
    revision = Entry.open(elsewhere / NAME).revision
    assert capsys.readouterr().out == (
        f"{hub.url}/somebody/{NAME}/commit/{'1' * 40}: revision {revision}\n"
        f"DIFFREC_ZOO_HUB=somebody lets everybody load {NAME}\n"
    )
    asked = [(path, told) for path, _, told in hub.requests if path.startswith(("/api/repos", "/api/models"))]
    steps = [f"/api/models/somebody/{NAME}/{step}/main" for step in ("preupload", "commit")]
    assert asked == [(path, "Bearer hf_secret") for path in ("/api/repos/create", *steps)]
    monkeypatch.setenv("DIFFREC_ZOO_HUB", "somebody")
    assert same_lists(load(NAME), tiny)
    assert verify(find_entry(NAME, offline=True)).lists == 16


def test_a_repository_of_another_name_is_another_name(hub, elsewhere, tiny, monkeypatch):
    assert publish(elsewhere / NAME, "hf://somebody/mine") == 0
    monkeypatch.setenv("DIFFREC_ZOO_HUB", "somebody")
    assert same_lists(load("mine"), tiny)
    readme = (hub.folder / "somebody" / "mine" / "resolve" / "main" / "README.md").read_text()
    assert 'With `DIFFREC_ZOO_HUB=somebody` set, `diffrec.load("mine")`' in readme


def test_the_hub_reads_licence_tags_and_metrics(hub, elsewhere):
    assert publish(elsewhere / NAME, "hf://somebody") == 0
    from huggingface_hub import ModelCard

    path = hub.folder / "somebody" / NAME / "resolve" / "main" / "README.md"
    data = ModelCard.load(path).data
    assert (data.license, data.library_name) == ("apache-2.0", "diffrec")
    assert data.tags == ["recommendation", "recommender-system", "tiny"]
    read = {(r.metric_type, r.metric_value) for r in data.eval_results}
    assert read == {("ndcg@10", 0.25), ("recall@10", 0.5)}
    assert {(r.dataset_type, r.dataset_config, r.dataset_split) for r in data.eval_results} == {
        ("synthetic", "loo-full-masked@1", "test")
    }
    text = path.read_text()
    assert (elsewhere / NAME / "card.md").read_text() in text
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == NAME


def test_a_folder_is_ready_for_a_hub_and_a_mirror(elsewhere, tiny, tmp_path, monkeypatch, capsys):
    there = tmp_path / "out"
    for _ in range(2):
        assert publish(elsewhere / NAME, there) == 0
    assert {path.name for path in (there / NAME).iterdir()} == {*FILES, MANIFEST, "README.md"}
    for name in (*FILES, MANIFEST):
        assert (there / NAME / name).read_bytes() == (elsewhere / NAME / name).read_bytes()
    assert same_lists(load(there / NAME), tiny)
    told = capsys.readouterr().out
    assert f"DIFFREC_ZOO_MIRRORS={there.as_uri()}, or where the folder is served, loads {NAME}\n" in told
    monkeypatch.setenv("DIFFREC_ZOO_MIRRORS", there.as_uri())
    assert same_lists(load(NAME), tiny)
    (there / NAME / "thesis.tex").touch()
    capsys.readouterr()
    assert publish(elsewhere / NAME, there) == 2
    assert "is there and holds other files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "to", ["hf://", "hf:somebody", "hf:///x", "hf://some body", "hf://a/b/c", "hf://a/Tiny", "https://example.org/a"]
)
def test_places_that_are_none(to, hub, elsewhere, capsys):
    assert publish(elsewhere / NAME, to) == 2
    assert f"{to!r} is no repository; write hf://OWNER or hf://OWNER/NAME" in capsys.readouterr().err
    assert hub.requests == []


def test_what_nobody_should_publish(hub, elsewhere, popularity, tiny, dataset, tmp_path, capsys):
    folder = save(popularity, tmp_path / "popularity.synthetic")
    assert publish(folder, "hf://somebody") == 2
    assert "its card says nothing about Data and terms, Training, Protocol, Metrics" in capsys.readouterr().err
    weights = elsewhere / NAME / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert publish(elsewhere / NAME, "hf://somebody") == 3
    assert hub.requests == []


def test_a_hub_that_is_not_there_for_us(hub, elsewhere, monkeypatch, capsys):
    hub.plan[:] = [403]
    assert publish(elsewhere / NAME, "hf://somebody") == 5
    assert f"somebody/{NAME} was not written to http" in capsys.readouterr().err
    hub.plan.clear()
    hub.requests.clear()
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert publish(elsewhere / NAME, "hf://somebody") == 5
        told = capsys.readouterr().err
        assert f"somebody/{NAME} was not written to http://127.0.0.1:9: " in told
        assert "Connection refused" in told
    with monkeypatch.context() as patch:
        patch.setattr("diffrec.zoo.publishing.hub_token", lambda: None)
        assert publish(elsewhere / NAME, "hf://somebody") == 2
        assert "no token: log in with 'hf auth login', or set HF_TOKEN" in capsys.readouterr().err
    for variable in ("HF_HUB_OFFLINE", "DIFFREC_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            assert publish(elsewhere / NAME, "hf://somebody") == 5
            assert "cannot be written while offline" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "huggingface_hub", None)
        assert publish(elsewhere / NAME, "hf://somebody") == 2
        assert "pip install 'diffrec[hub]'" in capsys.readouterr().err
    assert hub.requests == []
