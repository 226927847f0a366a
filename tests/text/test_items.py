"""Item texts: which columns are read, and that they belong to the item numbers."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec.errors import NotFoundError, UsageError
from diffrec.text.items import item_texts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Items 9 and 10 are in sequences, 11 is in the list of items only, 12 has sequences only."""
    monkeypatch.setenv("DIFFREC_DATA", str(tmp_path))
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shop"
    folder.mkdir()
    pq.write_table(pa.table({"user_id": [1, 2], "items": [[9, 10], [10, 12]]}), folder / "sequences.parquet")
    items = {
        "item_id": [11, 10, 9],
        "brand": ["none", "Acme", None],
        "title": ["never sold", " red shoe ", "blue hat"],
        "price": [1.0, 2.0, 3.0],
        "colour": ["x", "y", "z"],
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    return folder


def test_texts_are_in_the_order_of_the_item_numbers(folder):
    dataset, texts, fields = item_texts("shop")
    assert dataset.vocabulary.item_ids == ("9", "10", "12")
    assert texts == ("blue hat", "red shoe. Acme", "")
    assert fields == ("title", "brand")


def test_columns_can_be_chosen(folder):
    assert item_texts("shop", ["colour"])[1] == ("z", "y", "")
    assert item_texts("shop", ["brand", "title"])[1][1] == "Acme. red shoe"
    with pytest.raises(NotFoundError, match=r"no text column in .*'colours'.*did you mean 'colour'"):
        item_texts("shop", ["colours"])
    with pytest.raises(NotFoundError, match=r"no text column in .*'price'"):
        item_texts("shop", ["price"])


def test_a_dataset_without_words_is_refused(folder):
    pq.write_table(pa.table({"item_id": [9], "colour": ["x"]}), folder / "items.parquet")
    with pytest.raises(UsageError, match=r"no text that is known; name its columns, of colour"):
        item_texts("shop")
    (folder / "items.parquet").unlink()
    with pytest.raises(UsageError, match=r"no items\.parquet"):
        item_texts("shop")
    with pytest.raises(UsageError, match="synthetic says nothing"):
        item_texts("synthetic")


def test_a_changed_file_is_found_out(folder):
    (folder / "source.json").write_text(json.dumps({"files": {"items.parquet": {"sha256": "0" * 64}}}))
    with pytest.raises(Exception, match="sha256"):
        item_texts("shop")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("s3rec_beauty", ("text_id_idgenrec",)),
        ("s3rec_yelp", ("title", "categories")),
        ("collisiongenrec_scientific", ("title", "brand", "categories", "description")),
    ],
)
def test_real_datasets_have_words(name, fields, real_data):
    real_data(name)
    dataset, texts, found = item_texts(name)
    assert found == fields
    assert len(texts) == dataset.num_items
    assert sum(map(bool, texts)) > 0.99 * len(texts)
