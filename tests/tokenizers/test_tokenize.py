"""Codes of a dataset: what is kept, what is published, and mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffrec.data.ragged import Ragged
from diffrec.data.sources import load_dataset
from diffrec.data.synthetic import synthetic
from diffrec.errors import NotFoundError, UsageError
from diffrec.nn.artefacts import hash_of_texts, write_artefact
from diffrec.tokenizers.rqvae import Training
from diffrec.tokenizers.tokenize import (
    Tokenizer,
    codes_of,
    import_codes,
    published_codes,
    read_codes,
    tokenize,
    vectors_of,
)
from diffrec.tokenizers.tokens import report_card

ITEMS = list(range(10, 70))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """60 items, of which items.parquet lists one more, in another order."""
    monkeypatch.setenv("DIFFREC_DATA", str(tmp_path))
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = [rng.choice(ITEMS, 12, replace=False).tolist() for _ in range(40)] + [ITEMS[:30], ITEMS[30:]]
    pq.write_table(pa.table({"user_id": list(range(42)), "items": rows}), folder / "sequences.parquet")
    codes = {"item_id": [99, *ITEMS[::-1]], "sid": [f"<a_{i % 7}> <b_{i // 7}>" for i in range(61)]}
    pq.write_table(pa.table(codes), folder / "items.parquet")
    return folder


def small(**changes) -> Tokenizer:
    return Tokenizer(**{"vectors": "collaborative", "levels": 2, "size": 6, "width": 8, **changes})


@pytest.mark.parametrize("method", ["residual-k-means", "rq-vae", "pq", "opq"])
def test_codes_lie_in_the_cache_with_their_report_card(shop, method):
    how = small(method=method, training=Training(epochs=2))
    path, made = tokenize("shop", how)
    codes, facts = read_codes(f"shop/{path.stem}")
    assert path.stem == f"{method}-2x6-extra-collaborative-seed0"
    assert codes.shape == (60, 3)
    assert facts["card"]["collisions"] == 0
    assert facts["before"]["sizes"] == [6, 6]
    assert {**report_card(codes, facts["card"]["sizes"]), "lost": facts["card"]["lost"]} == facts["card"]
    again = tokenize("shop", how, force=True)[1]
    assert torch.equal(again.tensors["codes"], made.tensors["codes"])
    assert again.sha256 == made.sha256


def test_what_is_there_is_read(shop):
    path, made = tokenize("shop", small())
    before = path.stat().st_mtime_ns
    assert tokenize("shop", small())[1].sha256 == made.sha256
    assert path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="--force replaces it"):
        tokenize("shop", small(seed=1), path.stem)
    assert tokenize("shop", small(seed=1), path.stem, force=True)[1].sha256 != made.sha256


def test_options_of_the_rq_vae_change_codes_and_are_kept_where_they_are_not_the_default(shop):
    how = small(method="rq-vae", training=Training(epochs=2))
    plain = tokenize("shop", how, "plain")[1]
    changes = {"hidden": [16, 8], "commitment": 1.0, "unit_norm": True, "estimator": "rotation"}
    assert not changes.keys() & plain.facts["how"].keys()  # as in files from before there were such options
    for name, value in changes.items():
        changed = small(method="rq-vae", training=Training(epochs=2), **{name: (16, 8) if name == "hidden" else value})
        made = tokenize("shop", changed, name.replace("_", "-"))[1]
        assert made.facts["how"] == {**plain.facts["how"], name: value}
        assert made.facts["card"]["lost"] != plain.facts["card"]["lost"]
        assert tokenize("shop", changed, name.replace("_", "-"))[1].sha256 == made.sha256  # read, not refused


def test_collaborative_vectors_know_of_training_only():
    """With other items in the places that the protocol asks for later, the vectors are the same."""
    whole, how = synthetic(num_users=40, num_items=60), small(protocol="loo-full-unmasked@1")
    part = whole.parts["all"]
    late = part.items.position_of_entry >= part.items.lengths[part.items.row_of_entry] - 2
    items = Ragged(np.where(late, 61 - part.items.values, part.items.values).astype(np.int32), part.items.offsets)
    other = replace(whole, parts={"all": replace(part, items=items)})
    assert np.array_equal(vectors_of(whole, how)[0], vectors_of(other, how)[0])


def test_vectors_by_name_must_be_of_these_items(shop, tmp_path):
    vectors = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    ids = load_dataset("shop").vocabulary.item_ids
    write_artefact(
        tmp_path / "cache/vectors/shop/v.safetensors", {"vectors": vectors}, {"items_sha256": hash_of_texts(ids)}
    )
    path, made = tokenize("shop", small(vectors="shop/v", resolve="sinkhorn", size=16))
    assert path.stem == "residual-k-means-2x16-sinkhorn-v-seed0"
    assert made.facts["card"]["sizes"] == [16, 16]
    write_artefact(tmp_path / "other.safetensors", {"vectors": vectors}, {"items_sha256": "0"})
    with pytest.raises(UsageError, match="holds 60 vectors of other items"):
        tokenize("shop", small(vectors=str(tmp_path / "other.safetensors")))


def test_published_codes_are_in_the_order_of_the_item_numbers(shop):
    found = published_codes("shop")
    assert found.keys() == {"sid"}
    assert found["sid"].tolist() == [[i % 7, i // 7] for i in range(60, 0, -1)]
    path, made = import_codes("shop", "sid")
    assert np.array_equal(read_codes(path)[0], found["sid"])
    assert made.facts["card"]["distinct"] == 60
    with pytest.raises(NotFoundError, match=r"no codes 'side'; there are: sid; did you mean 'sid'"):
        import_codes("shop", "side")


def test_all_report_cards_side_by_side(shop):
    tokenize("shop", small())
    import_codes("shop", "sid")
    cards = codes_of("shop")
    made = "residual-k-means-2x6-extra-collaborative-seed0"
    assert list(cards) == ["sid", f"{made}, unresolved", made]
    assert cards[f"{made}, unresolved"]["collisions"] > cards[made]["collisions"] == 0
    assert published_codes("synthetic") == {}


def test_texts_that_are_no_codes_are_refused(shop):
    pq.write_table(pa.table({"item_id": ITEMS, "sid_x": ["<a_1>", "one"] * 30}), shop / "items.parquet")
    with pytest.raises(UsageError, match="column sid_x holds texts that are no codes"):
        published_codes("shop")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "kmeans"}, "no method 'kmeans'; there are: opq, pq, residual-k-means, rq-vae"),
        ({"resolve": "extras"}, "no resolution 'extras'.*did you mean 'extra'"),
        ({"levels": 0}, "levels must be a whole number from 1"),
        ({"estimator": "rotate"}, "no estimator 'rotate'; there are: rotation, straight-through"),
        ({"hidden": (8, 0)}, r"hidden\[1\] must be a whole number from 1"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises((UsageError, NotFoundError), match=message):
        small(**changes)


def test_other_files_are_no_codes(shop, tmp_path):
    write_artefact(tmp_path / "x.safetensors", {"codes": torch.rand(3, 2)}, {})
    with pytest.raises(UsageError, match=r"needs a tensor 'codes' \(items, levels\) of whole numbers"):
        read_codes(tmp_path / "x.safetensors")


@pytest.mark.real_data
def test_published_codes_of_beauty(real_data):
    real_data("s3rec_beauty")
    cards = {name: report_card(codes, (256,) * 4) for name, codes in published_codes("s3rec_beauty").items()}
    distinct = {name: card["distinct"] for name, card in cards.items()}
    assert distinct == {
        "sid_letter": 12_088, "sid_rqvae_native": 11_499, "sid_rqvae_zcr": 12_101, "sid_rkmeans_native": 10_527,
        "sid_rkmeans_zcr": 12_101, "sid_letter_native": 12_015, "sid_mql4grec": 12_101,
    }  # fmt: skip
