"""Names are resolved in the stated order, and the published counts come out of the real folders."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec.baselines import Markov
from diffrec.bench.evaluate import evaluate
from diffrec.data.catalogue import check_new_name, dataset_dir, entries, find
from diffrec.data.datamodule import TrainingBatches
from diffrec.data.folders import Tables, save_folder
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import fetch, load_dataset
from diffrec.errors import NotFoundError, UsageError
from diffrec.paths import resource_dir


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty cache and a DIFFREC_DATA with one dataset, `tiny`, in it."""
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFREC_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1], "item_id": [7]}), tmp_path / "data" / "tiny" / "interactions.parquet")
    return tmp_path


def save(name: str, item: int) -> None:
    save_folder(dataset_dir(name), Tables(pa.table({"user_id": [1], "item_id": [item]})), {"kind": "imported"})


def test_a_folder_and_an_imported_dataset_are_found(places):
    save("mine", 9)
    assert load_dataset("tiny").vocabulary.item_ids == ("7",)
    assert load_dataset("mine").vocabulary.item_ids == ("9",)
    assert load_dataset("synthetic").num_users == 200
    origins = {name: entry.origin for name, entry in entries().items()}
    assert origins == {"ml-100k": "registered", "synthetic": "registered", "tiny": "folder", "mine": "imported"}


def test_a_folder_wins_over_an_imported_dataset(places):
    save("tiny", 9)
    assert load_dataset("tiny").vocabulary.item_ids == ("7",)


def test_without_any_folder_the_registered_names_remain(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "nothing"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    assert set(entries()) == {"ml-100k", "synthetic"}


def test_an_unknown_name_lists_the_others_and_the_nearest(places):
    with pytest.raises(
        NotFoundError, match=r"(?s)no dataset 'tiyn'.*ml-100k, synthetic, tiny.*did you mean 'tiny'.*import"
    ):
        load_dataset("tiyn")


@pytest.mark.parametrize("name", ["../data/tiny", "/etc", "", ".", "tiny/", "TINY", "tiny\0"])
def test_names_are_never_paths(places, name):
    with pytest.raises(NotFoundError):
        load_dataset(name)


def test_folders_without_interactions_and_hidden_ones_are_not_datasets(places):
    for name in ("titles_only", ".tiny.half-written"):
        (places / "data" / name).mkdir()
    pq.write_table(pa.table({"item_id": [1]}), places / "data" / "titles_only" / "items.parquet")
    pq.write_table(pa.table({"user_id": [1]}), places / "data" / ".tiny.half-written" / "interactions.parquet")
    assert [name for name, entry in entries().items() if entry.origin == "folder"] == ["tiny"]


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", ".a", "a/b", "../a", "a\0", "é", "a" * 97, "ml-100k", "a\n"])
def test_names_that_an_import_may_not_have(name):
    with pytest.raises(UsageError):
        check_new_name(name)


@pytest.mark.parametrize("name", ["a", "9", "my-shop_2024.v1", "a" * 96])
def test_names_that_an_import_may_have(name):
    check_new_name(name)


def test_what_is_stated_of_the_registered_datasets_is_so(places):
    dataset = load_dataset("synthetic")
    assert fetch("synthetic") is None
    assert find("synthetic").counts == {
        "users": dataset.num_users, "items": dataset.num_items, "interactions": dataset.num_interactions
    }  # fmt: skip


# Users, items, interactions as published with each file.
WHOLE = {
    "s3rec_beauty": (22_363, 12_101, 198_502),
    "s3rec_sports": (35_598, 18_357, 296_337),
    "s3rec_toys": (19_412, 11_924, 167_597),
    "s3rec_yelp": (30_431, 20_033, 316_354),
    "diffurec_ml1m": (6_040, 3_706, 1_000_209),
    "fmrec_ml100k": (943, 1_682, 100_000),
    "letter_instruments": (24_772, 9_922, 206_153),
    "collisiongenrec_scientific": (8_317, 4_344, 58_492),
    "iba_microlens": (13_210, 5_312, 78_255),
    "ml100k": (943, 1_682, 100_000),
    "ml_latest_small": (671, 9_066, 100_004),
}
# Users, items, then the interactions of each part.
ALIGNED = {
    "diffrec_ml1m_clean": (5_949, 2_810, {"train": 403_277, "valid": 110_722, "test": 57_532}),
    "diffrec_ml1m_noisy": (5_949, 3_494, {"train": 429_993, "valid": 130_772, "test": 57_532}),
    "lightgcn_gowalla": (29_858, 40_981, {"train": 810_128 - 91_047, "valid": 91_047, "test": 217_242}),
    "lightgcn_yelp2018": (31_668, 38_048, {"train": 1_237_259 - 143_751, "valid": 143_751, "test": 324_147}),
    "kgat_amazon_book": (70_679, 24_915, {"train": 652_514, "test": 193_920}),
}
# Items, then the rows of each part.
ROWS = {
    "preferdiff_beauty": (12_101, {"train": 17_890, "valid": 2_236, "test": 2_237}),
    "preferdiff_sports": (18_357, {"train": 28_478, "valid": 3_559, "test": 3_561}),
    "preferdiff_toys": (11_921, {"train": 15_529, "valid": 1_941, "test": 1_942}),
    "dreamrec_zhihu": (4_838, {"train": 9_371, "valid": 8_160, "test": 7_911}),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", WHOLE)
def test_published_counts_of_whole_datasets(real_data, name):
    dataset = real_data(name)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == WHOLE[name]
    items = dataset.parts["all"].items.values
    assert np.array_equal(np.unique(items), np.arange(1, dataset.num_items + 1))


@pytest.mark.real_data
@pytest.mark.parametrize("name", ALIGNED)
def test_published_counts_of_split_datasets(real_data, name):
    dataset = real_data(name)
    sizes = {key: len(part.items.values) for key, part in dataset.parts.items()}
    assert (dataset.num_users, dataset.num_items, sizes) == ALIGNED[name]
    assert dataset.aligned
    if "valid" in sizes:
        train, valid = dataset.parts["train"].items, dataset.parts["valid"].items
        assert not train.contains(valid).any()


@pytest.mark.real_data
@pytest.mark.parametrize("name", ROWS)
def test_published_counts_of_datasets_split_by_user(real_data, name):
    dataset = real_data(name)
    lengths = {key: len(part.items) for key, part in dataset.parts.items()}
    assert (dataset.num_items, lengths) == ROWS[name]
    assert not dataset.aligned


@pytest.mark.real_data
def test_targets_of_zhihu_that_train_never_saw(real_data):
    parts = real_data("dreamrec_zhihu").parts
    targets = parts["test"].items.last(1).values
    assert (~np.isin(targets, parts["train"].items.values)).sum() == 569


@pytest.mark.real_data
def test_zhihu_as_its_configuration_describes_it(real_data):
    """The counts of the comment in configs/data/dreamrec_zhihu.yaml; no training item is counted twice."""
    comment = (resource_dir("configs") / "data" / "dreamrec_zhihu.yaml").read_text()
    dataset = real_data("dreamrec_zhihu")
    split = get_protocol("prefix-811@1").apply(dataset)
    empty = [int((cases.history.lengths == 0).sum()) for cases in (split.valid, split.test)]
    counts = [len(split.train), len(split.train.values), dataset.num_items, len(split.valid), len(split.test), *empty]
    assert counts == [9_371, 61_641, 4_838, 8_160, 7_911, 1_171, 1_172]
    assert all(f"{count:,}" in comment for count in counts)
    assert len(TrainingBatches(split.train, "prefix", None)) == 61_641 - 9_371
    assert len(TrainingBatches(split.train, "prefix-or-none", None)) == 61_641, "as published"
    model = Markov(dataset.num_items).eval()
    model.solve(split.train)
    assert 0 < evaluate(model, split.test, (20,)).metrics["recall@20"] < 0.1


@pytest.mark.real_data
def test_train_of_diffrec_keeps_the_order_of_the_file(real_data):
    dataset = real_data("diffrec_ml1m_clean")
    assert dataset.parts["train"].items[0][:3].tolist() == [1, 2, 3]
