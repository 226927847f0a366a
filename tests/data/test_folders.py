"""Folders of every shape become the datasets that a plain Python loop makes of them."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec.data.catalogue import entries
from diffrec.data.folders import Tables, read_folder, save_folder
from diffrec.errors import DiffrecError, IntegrityError

DAMAGED_DESCRIPTIONS = (
    "{", "[]", "1", '"x"', "null", "[" * 100_000, r'{"kind": "\ud800"}', '{"licence": 3}', '{"name": null}',
    '{"statistics": null}', '{"statistics": {"users": "x"}}', '{"sources": 1}', '{"sources": ["x"]}',
    '{"sources": [{"repo": 1}]}', '{"files": []}', '{"files": {"interactions.parquet": 1}}',
    '{"files": {"interactions.parquet": {"sha256": 1}}}',
)  # fmt: skip


def write(folder, **tables):
    folder.mkdir(exist_ok=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return read_folder(folder, folder.name)


def rows(dataset, part="all"):
    """Source ids of every row."""
    ids = dataset.vocabulary.item_ids
    items = dataset.parts[part].items
    return [[ids[number - 1] for number in items[row]] for row in range(len(items))]


def test_a_log_is_put_into_time_order_and_ties_keep_file_order(tmp_path):
    dataset = write(
        tmp_path / "log",
        interactions={
            "user_id": [7, 3, 7, 3, 7, 7],
            "item_id": [100, 20, 9, 100, 50, 30],
            "timestamp": [5, 1, 3, 0, 3, 3],
        },
    )
    assert dataset.vocabulary.item_ids == ("9", "20", "30", "50", "100")
    assert dataset.parts["all"].user_ids.tolist() == ["3", "7"]
    assert rows(dataset) == [["100", "20"], ["9", "50", "30", "100"]]
    assert dataset.parts["all"].timestamps.values.tolist() == [0, 1, 3, 3, 3, 5]
    assert dataset.parts["all"].items.values.dtype == np.int32


def test_text_ids_ascend_as_text_and_need_no_times(tmp_path):
    dataset = write(tmp_path / "log", interactions={"user_id": ["b", "a", "b"], "item_id": ["10", "9", "é"]})
    assert dataset.vocabulary.item_ids == ("10", "9", "é")
    assert rows(dataset) == [["9"], ["10", "é"]]
    assert dataset.parts["all"].timestamps is None


def test_titles_get_their_year_and_untouched_items_no_number(tmp_path):
    dataset = write(
        tmp_path / "log",
        interactions={"user_id": [1, 1, 1], "item_id": [5, 2, 3]},
        items={
            "item_id": [2, 3, 4, 5],
            "title": ["Alien", "unknown", "Nobody saw it", None],
            "year": ["1979", "unknown", "1999", "2000"],
        },
    )
    assert dataset.vocabulary.item_ids == ("2", "3", "5")
    assert dataset.vocabulary.titles == ("Alien (1979)", "unknown", "")
    assert dataset.vocabulary.label(3) == "5"


def test_sequences_keep_the_order_of_rows_and_items(tmp_path):
    dataset = write(tmp_path / "s", sequences={"user_id": [9, 4, 6], "items": [[3, 1], [], [1, 8, 1]]})
    assert rows(dataset) == [["3", "1"], [], ["1", "8", "1"]]
    assert dataset.parts["all"].user_ids.tolist() == ["9", "4", "6"]


def test_gaps_in_days_become_seconds_since_the_first_item(tmp_path):
    columns = {"user_id": [4, 2], "items": [[9, 8, 7], [8, 9]], "delta_days": [[0, 3, 0], [0, 10]]}
    pq.write_table(pa.table(columns), tmp_path / "sequences.parquet")
    part = read_folder(tmp_path, "gaps").parts["all"]
    assert part.timestamps is None, "nobody knows when a sequence began"
    assert [(part.times[row] // 86_400).tolist() for row in (0, 1)] == [[0, 3, 3], [0, 10]]
    assert part.take(np.array([1])).times[0].tolist() == [0, 864_000]


def test_pairs_share_their_users_over_all_parts(tmp_path):
    dataset = write(
        tmp_path / "p",
        train={"user_id": [2, 0, 2], "item_id": [5, 6, 4]},
        valid={"user_id": [1], "item_id": [4]},
        test={"user_id": [0], "item_id": [7]},
    )
    assert dataset.aligned
    assert list(dataset.parts) == ["train", "valid", "test"]
    assert rows(dataset, "train") == [["6"], [], ["5", "4"]]
    assert rows(dataset, "valid") == [[], ["4"], []]
    assert rows(dataset, "test") == [["7"], [], []]
    assert all(part.user_ids.tolist() == ["0", "1", "2"] for part in dataset.parts.values())


def test_a_named_hold_out_is_taken_out_of_train(tmp_path):
    dataset = write(
        tmp_path / "p",
        train={"user_id": [0, 0, 1, 1], "item_id": [1, 2, 1, 2]},
        valid_somebody={"user_id": [1, 0], "item_id": [1, 2]},
        test={"user_id": [0, 1], "item_id": [3, 3]},
    )
    assert rows(dataset, "train") == [["1"], ["2"]]
    assert rows(dataset, "valid") == [["2"], ["1"]]
    assert dataset.num_interactions == 6


def test_parts_without_validation(tmp_path):
    dataset = write(
        tmp_path / "p", train={"user_id": [0], "item_id": [1]}, test={"user_id": [0], "item_id": [2]}
    )  # fmt: skip
    assert list(dataset.parts) == ["train", "test"]


def test_rows_of_lists_are_other_users_in_every_part(tmp_path):
    part = {"row": [0, 1], "items": [[1, 2, 3], [4]]}
    dataset = write(tmp_path / "r", train=part, valid=part, test={"row": [0], "items": [[9, 1]]})
    assert not dataset.aligned
    assert dataset.num_users == 5
    assert dataset.num_items == 5
    assert rows(dataset, "test") == [["9", "1"]]


def test_prefixes_lose_their_padding_and_end_with_the_next_item(tmp_path):
    train = {"row": [0, 1, 2], "seq": [[9, 9, 9], [4, 9, 9], [4, 0, 7]], "seq_len": [1, 1, 3], "next": [4, 0, 8]}
    # The second row is cut by its length, not by padding alone.
    other = {"row": [0, 1], "seq": [[1, 2, 9], [3, 5, 6]], "seq_len": [2, 2], "next": [3, 1]}
    dataset = write(tmp_path / "z", train=train, valid=train, test=other)
    assert rows(dataset, "train") == [["4", "0"], ["4", "0", "7", "8"]]  # no row says what follows 4, 0
    assert rows(dataset, "valid") == [["4"], ["4", "0"], ["4", "0", "7", "8"]]
    assert rows(dataset, "test") == [["1", "2", "3"], ["3", "5", "1"]]
    assert "9" not in dataset.vocabulary.item_ids


def prefix_rows(sequences, width):
    """The rows in which DreamRec writes sequences; the padding is 99."""
    table = {"row": [], "seq": [], "seq_len": [], "next": []}
    for sequence in sequences:
        for stop, item in enumerate(sequence):
            seen = sequence[:stop][-width:]
            table["row"].append(len(table["row"]))
            table["seq"].append(seen + [99] * (width - len(seen)))
            table["seq_len"].append(max(len(seen), 1))
            table["next"].append(item)
    return table


def test_prefixes_of_a_training_sequence_are_one_sequence_again(tmp_path):
    """Also where the history is cut to a window, and where the next sequence begins with the same item."""
    sequences = [[1, 2, 3, 4, 5, 6], [1], [1, 2], [7, 7, 7, 7, 7], [2, 1, 3]]
    table = prefix_rows(sequences, width=3)
    dataset = write(tmp_path / "z", train=table, valid=table, test=table)
    assert rows(dataset, "train") == [[str(item) for item in sequence] for sequence in sequences]
    assert dataset.parts["train"].user_ids.tolist() == ["0", "6", "7", "9", "14"]
    cases = [[*sequence[:stop][-3:], item] for sequence in sequences for stop, item in enumerate(sequence)]
    for part in ("valid", "test"):
        assert rows(dataset, part) == [[str(item) for item in case] for case in cases]
        assert dataset.parts[part].user_ids.tolist() == [str(row) for row in range(17)]


def test_the_description_is_carried_over(tmp_path):
    (tmp_path / "d").mkdir()
    stated = {"name": "D", "licence": "research only", "published_by": "A, B", "sources": [{"repo": "example.org/d"}]}
    (tmp_path / "d" / "source.json").write_text(json.dumps(stated))
    info = write(tmp_path / "d", interactions={"user_id": [1], "item_id": [1]}).info
    assert (info.title, info.licence, info.citation) == ("D", "research only", "A, B")
    assert info.homepage == "https://example.org/d"


def test_a_folder_that_was_saved_is_read_back(tmp_path):
    tables = Tables(
        pa.table({"user_id": [1, 1], "item_id": ["b", "a"], "timestamp": [2, 1]}),
        pa.table({"item_id": ["a", "b"], "title": ["A", "B"]}),
    )
    save_folder(tmp_path / "x", tables, {"name": "X", "licence": "mine"})
    dataset = read_folder(tmp_path / "x", "x")
    assert rows(dataset) == [["a", "b"]]
    assert dataset.vocabulary.titles == ("A", "B")
    assert dataset.info.licence == "mine"
    assert sorted(os.listdir(tmp_path)) == ["x"]
    stated = json.loads((tmp_path / "x" / "source.json").read_text())["files"]["items.parquet"]["sha256"]
    assert stated == hashlib.sha256((tmp_path / "x" / "items.parquet").read_bytes()).hexdigest()


def test_saving_replaces_only_when_told(tmp_path):
    one, two = (Tables(pa.table({"user_id": [1], "item_id": [number]})) for number in (1, 2))
    save_folder(tmp_path / "x", one, {})
    save_folder(tmp_path / "x", two, {})
    assert read_folder(tmp_path / "x", "x").vocabulary.item_ids == ("1",)
    save_folder(tmp_path / "x", two, {}, replace=True)
    assert read_folder(tmp_path / "x", "x").vocabulary.item_ids == ("2",)
    assert sorted(os.listdir(tmp_path)) == ["x"]
    assert sorted(os.listdir(tmp_path / "x")) == ["interactions.parquet", "source.json"]


def test_remains_of_a_folder_are_replaced(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "source.json").write_text("{}")
    save_folder(tmp_path / "x", Tables(pa.table({"user_id": [1], "item_id": [1]})), {})
    assert read_folder(tmp_path / "x", "x").num_items == 1


def test_a_full_disk_keeps_the_old_dataset_and_says_so(tmp_path, monkeypatch):
    table = Tables(pa.table({"user_id": [1], "item_id": [1]}))
    save_folder(tmp_path / "x", table, {})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffrecError, match=r"x could not be written \(No space left on device\)"):
        save_folder(tmp_path / "x", table, {}, replace=True)
    assert read_folder(tmp_path / "x", "x").num_items == 1
    assert os.listdir(tmp_path) == ["x"]


def test_many_writers_leave_one_whole_folder(tmp_path):
    tables = [Tables(pa.table({"user_id": [number], "item_id": [number]})) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda table: save_folder(tmp_path / "x", table, {}), tables))
    assert read_folder(tmp_path / "x", "x").num_items == 1
    assert os.listdir(tmp_path) == ["x"]


def test_every_flipped_byte_is_noticed(tmp_path):
    save_folder(tmp_path / "x", Tables(pa.table({"user_id": [1, 2], "item_id": [3, 4]})), {})
    path = tmp_path / "x" / "interactions.parquet"
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(IntegrityError, match="sha256"):
            read_folder(tmp_path / "x", "x")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really", b"user_id,item_id\n1,2\n"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "interactions.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_folder(tmp_path / "x", "x")


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(IntegrityError, match="item_id"):
        write(tmp_path / "x", interactions={"user_id": [1], "product": [1]})


@pytest.mark.parametrize("text", DAMAGED_DESCRIPTIONS)
def test_a_damaged_description_is_named(tmp_path, text):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "source.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"source\.json"):
        write(tmp_path / "x", interactions={"user_id": [1], "item_id": [1]})


@pytest.mark.parametrize("text", DAMAGED_DESCRIPTIONS)
def test_a_damaged_description_does_not_hide_the_other_datasets(tmp_path, monkeypatch, text):
    monkeypatch.setenv("DIFFREC_DATA", str(tmp_path))
    for name in ("bad", "good"):
        write(tmp_path / name, interactions={"user_id": [1], "item_id": [1]})
    (tmp_path / "bad" / "source.json").write_text(text)
    (tmp_path / "good" / "source.json").write_text('{"kind": "log", "statistics": {"users": 1, "density": 0.5}}')
    found = entries()
    assert "source.json" in found["bad"].kind
    assert found["bad"].counts == {}
    assert (found["good"].kind, found["good"].counts) == ("log", {"users": 1})
