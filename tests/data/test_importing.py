"""What comes in: good files whole, bad files counted with their lines or refused with the line named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffrec.data.catalogue import dataset_dir
from diffrec.data.importing import import_table
from diffrec.data.sources import load_dataset
from diffrec.errors import IntegrityError, NotFoundError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def bring(tmp_path):
    """`bring("a,b\\n1,2\\n", ...)`: import a file of that content under the name `x`."""

    def bring(content: str | bytes, suffix: str = "csv", **options):
        path = tmp_path / f"file.{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return import_table(path, name="x", force=True, **options)

    return bring


def histories(dataset):
    """{user id: [(item id, time or None), ...]}."""
    part = dataset.parts["all"]
    ids = dataset.vocabulary.item_ids
    times = part.timestamps or part.items
    return {
        str(user): [
            (ids[number - 1], int(time) if part.timestamps else None)
            for number, time in zip(part.items[row], times[row], strict=True)
        ]
        for row, user in enumerate(part.user_ids)
    }


PLAIN = {"1": [("20", 5), ("10", 6)], "2": [("10", 7)]}


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ("user_id,item_id,timestamp\n1,10,6\n2,10,7\n1,20,5\n", "csv"),
        ("\ufeffuser_id,item_id,timestamp\n1,10,6\n2,10,7\n1,20,5\n", "csv"),
        ("user_id,item_id,timestamp\r\n1,10,6\r\n2,10,7\r\n1,20,5\r\n", "csv"),
        ("user_id,item_id,timestamp\n1,10,6\n2,10,7\n1,20,5", "csv"),
        ('"user_id","item_id","timestamp"\n"1","10","6"\n"2","10","7"\n"1","20","5"\n', "csv"),
        ("\n\nuser_id,item_id,timestamp\n1,10,6\n\n2,10,7\n1,20,5\n\n", "csv"),
        ("user_id, item_id, timestamp\n1, 10, 6\n 2,10 ,7\n1,20, 5\n", "csv"),
        ("userId;movieId;time\n1;10;6\n2;10;7\n1;20;5\n", "csv"),
        ("reviewerID|asin|unixReviewTime\n1|10|6\n2|10|7\n1|20|5\n", "txt"),
        ("user_id:token\titem_id:token\ttimestamp:float\n1\t10\t6.0\n2\t10\t7.0\n1\t20\t5.0\n", "inter"),
        ("stars,when,Product ID,Customer_ID,date\n3,x,10,1,6\n1,x,10,2,7\n2,x,20,1,5\n", "csv"),
        (",user_id,item_id,timestamp\n0,1,10,6\n1,2,10,7\n2,1,20,5\n", "csv"),
        (gzip.compress(b"user_id,item_id,timestamp\n1,10,6\n2,10,7\n1,20,5\n", mtime=0), "csv.gz"),
        (gzip.compress(b"user_id\titem_id\ttimestamp\n1\t10\t6\n2\t10\t7\n1\t20\t5\n", mtime=0), "data"),
        ("user_id,item_id,timestamp\n1,10,6\n2,10,7\n1,20,5\n".encode("utf-16"), "csv"),
    ],
)
def test_one_table_in_many_clothes(bring, content, suffix):
    dataset, report = bring(content, suffix)
    assert histories(dataset) == PLAIN
    assert (report.rows_read, report.rows_kept, report.users, report.items) == (3, 3, 2, 2)
    assert (report.dropped, report.repeats, report.ties, report.reordered_users) == ((), 0, 0, 1)


@pytest.mark.parametrize(
    "content",
    [
        "1\t10\t3\t881250949\n2\t10\t4\t881250950\n1\t20\t1\t881250940\n",
        "1::10::3::881250949\n2::10::4::881250950\n1::20::1::881250940\n",
        "1,10,881250949,3\n2,10,881250950,4\n1,20,881250940,1\n",
        "1 10 3 881250949\n2 10 4 881250950\n1 20 1 881250940\n",
        "1,10,1997-12-04 15:55:49\n2,10,1997-12-04 15:55:50\n1,20,1997-12-04 15:55:40\n",
        "\ufeff1,10,881250949000\n2,10,881250950000\n1,20,881250940000\n",
    ],
)
def test_without_a_header_the_place_tells(bring, content):
    dataset, report = bring(content)
    assert histories(dataset) == {"1": [("20", 881250940), ("10", 881250949)], "2": [("10", 881250950)]}
    assert not report.header


def test_parquet_of_many_types(tmp_path):
    moment = datetime(2020, 5, 1, 12, tzinfo=UTC)
    seconds = int(moment.timestamp())
    users = [pa.array([1, None, 2]), pa.array([1.0, float("nan"), 2.0]), pa.array(["1", "", "2"]).dictionary_encode()]
    times = [
        pa.array([moment] * 3, pa.timestamp("ns", tz="UTC")),
        pa.array([moment.replace(tzinfo=None)] * 3, pa.timestamp("ms")),
        pa.array([seconds] * 3, pa.int32()),
        pa.array([float(seconds)] * 3),
        pa.array([moment.isoformat()] * 3),
    ]
    for user in users:
        for time in times:
            pq.write_table(pa.table({"uid": user, "item": [5, 5, 6], "ts": time}), tmp_path / "t.parquet")
            dataset, report = import_table(tmp_path / "t.parquet", name="x", force=True)
            assert histories(dataset) == {"1": [("5", seconds)], "2": [("6", seconds)]}
            assert [(drop.reason, drop.lines) for drop in report.dropped] == [("no user id", (2,))]


def test_dates_of_parquet(tmp_path):
    table = pa.table({"uid": [1], "item": [5], "date": pa.array([datetime(1970, 1, 3).date()])})
    pq.write_table(table, tmp_path / "t.parquet")
    assert histories(import_table(tmp_path / "t.parquet", name="x")[0]) == {"1": [("5", 2 * 86_400)]}


JSON_LINES = """{"user_id": 1, "item_id": "007", "time": 5, "extra": {"deep": [1]}}

{"item_id": "007", "time": 6}
{"user_id": 1, "item_id": null, "time": 6}
{}
{"user_id": 1, "item_id": "2014-07-23 18:00:00", "time": 4, "title": "B, \\u00fc"}
{"user_id": 2, "item_id": "007", "title": "A"}
{"user_id": 2, "item_id": "007", "title": "A", "time": 7.0}
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_json_lines(bring, compressed):
    dataset, report = bring(gzip.compress(JSON_LINES.encode()) if compressed else JSON_LINES, "jsonl")
    assert histories(dataset) == {"1": [("2014-07-23 18:00:00", 4), ("007", 5)], "2": [("007", 7)]}
    assert dataset.vocabulary.titles == ("A", "B, ü")
    assert {drop.reason: drop.lines for drop in report.dropped} == {
        "no user id": (3, 5),
        "no item id": (4,),
        "no time, or one that is not understood": (7,),
    }
    assert (report.form, report.rows_read, report.rows_kept) == ("JSON lines", 7, 3)


def test_json_lines_hold_times_and_ratings_as_other_tables_do(bring):
    lines = [
        {"who": "ann", "what": item, "when": f"2014-07-23T18:00:0{second}Z", "stars": stars}
        for item, second, stars in (("a", 2, 5), ("b", 1, 4.5), ("c", 3, 1))
    ]
    content = "".join(json.dumps(line) + "\r\n" for line in lines)
    dataset, report = bring(content, user="who", item="what", timestamp="when", rating="stars", min_rating=2.0)
    assert [item for item, _ in histories(dataset)["ann"]] == ["b", "a"]
    assert report.dropped[0].lines == (3,)
    with pytest.raises(UsageError, match=r"no column 'whom' for the user; it has: who, what.*did you mean 'who'\?"):
        bring(content, user="whom")


def test_json_that_is_nested_without_end_is_refused(bring):
    first = '{"user": "a", "item": 1, "title": "' + "[{" * 100 + '\\\\\\""}\n'
    for deep in ("[" * 200_000 + "]" * 200_000, "[" * 64 + "]" * 64):
        with pytest.raises(UsageError, match=r"file\.csv, line \d+: objects and lists more than 64 deep are not read"):
            bring(first + '{"user": "b", "item": 1, "more": ' + deep + "}\n")
    with pytest.raises(UsageError, match=r"file\.csv, line 2: not a JSON object .*\n100,001 of 100,002 lines are none"):
        bring(first + '{"user": "b", "item": 1, "more": ' + '{"a": [\n' * 100_000 + "}\n")
    assert bring(first + '{"user": "b", "item": 1, "more": ' + "[" * 63 + "]" * 63 + "}\n")[1].rows_kept == 2


def test_columns_that_are_named_win_over_guesses(bring):
    content = "user_id,item_id,who,what,when\n1,2,a,b,3\n"
    dataset, report = bring(content, user="who", item="what", timestamp="when")
    assert histories(dataset) == {"a": [("b", 3)]}
    assert report.columns == {"user": "who", "item": "what", "timestamp": "when"}


def test_times_without_a_usual_name_are_known_by_their_look(bring):
    rows = b"customer,product,stars,bought\na,x,5,2020-09-13 22:48\na,y,4,2020-09-12 18:39\na,z,3,2020-09-14 10:00\n"
    dataset, report = bring(rows)
    assert report.columns["timestamp"] == "bought"
    assert [item for item, _ in histories(dataset)["a"]] == ["y", "x", "z"]


def test_a_named_column_tells_the_header(bring):
    assert bring("who,what\na,b\n", user="who", item="what")[1].rows_read == 1
    assert bring("a,b\nc,d\n")[1].rows_read == 2
    assert bring("a,b\nc,d\n", has_header=True, user="a", item="b")[1].rows_read == 1
    assert histories(bring("5,6\n7,8\n", has_header=False, user="2", item="1")[0]) == {
        "6": [("5", None)],
        "8": [("7", None)],
    }


def test_the_delimiter_can_be_given(bring):
    dataset, _ = bring("user;item\na,b;c,d\n", delimiter=";")
    assert histories(dataset) == {"a,b": [("c,d", None)]}


def test_ids_stay_as_they_are_written(bring):
    dataset, _ = bring("user,item\n007,0x1\nü-7,日本\n007,1.0\n")
    assert histories(dataset) == {"007": [("0x1", None), ("1.0", None)], "ü-7": [("日本", None)]}


def test_latin_1_is_understood_and_reported(bring):
    dataset, report = bring("user,item,title\n1,9,Misérables\n".encode("latin-1"))
    assert report.encoding == "latin-1"
    assert dataset.vocabulary.titles == ("Misérables",)


def test_titles_are_the_first_that_is_given(bring):
    content = 'user,item,title\n1,b,\n1,a,"Quoted, ""with"" comma"\n2,b,Second\n3,b,Third\n3,c,\n'
    assert bring(content)[0].vocabulary.titles == ('Quoted, "with" comma', "Second", "")


def test_finer_times_than_seconds_decide_the_order(bring):
    dataset, report = bring("user,item,time\n1,a,1260759144900\n1,b,1260759144100\n1,c,1260759144500\n")
    assert [item for item, _ in histories(dataset)["1"]] == ["b", "c", "a"]
    assert report.ties == 0


def test_ties_keep_the_order_of_the_file_and_are_counted(bring):
    dataset, report = bring("user,item,time\n1,b,5\n1,a,5\n2,z,5\n1,c,4\n1,d,5\n")
    assert [item for item, _ in histories(dataset)["1"]] == ["c", "b", "a", "d"]
    assert (report.ties, report.reordered_users) == (3, 1)


def test_every_row_left_out_has_a_reason_and_a_line(bring):
    content = (
        "user,item,time,rating\n"  # 1
        "1,a,10,5\n"
        ",a,10,5\n"  # 3: no user
        '"q\nr",a,10,5\n'.replace('"q\nr"', "NaN")  # 4: no user
        + "1, ,11,5\n"  # 5: no item
        "\n"
        "1,null,11,5\n"  # 7: no item
        "1,b,soon,5\n"  # 8: no time
        "1,b,,5\n"  # 9: no time
        "1,b,-1,5\n"  # 10: before 1970
        "1,b,12,2.5\n"  # 11: low
        "1,b,12,good\n"  # 12: no rating
        "1,a,10,4\n"  # 13: again
        "1,a,20,4\n"  # a repeat
        "1,b,30,4\n"
    )
    dataset, report = bring(content, min_rating=3.0)
    assert {drop.reason: (drop.rows, drop.lines) for drop in report.dropped} == {
        "no user id": (2, (3, 4)),
        "no item id": (2, (5, 7)),
        "no rating, or one that is not a number": (1, (12,)),
        "rating below 3": (1, (11,)),
        "no time, or one that is not understood": (2, (8, 9)),
        "time before 1970": (1, (10,)),
        "the same user, item and time as an earlier row": (1, (13,)),
    }
    assert histories(dataset) == {"1": [("a", 10), ("a", 20), ("b", 30)]}
    assert (report.rows_read, report.rows_kept, report.repeats) == (13, 3, 1)
    assert report.rows_read - sum(drop.rows for drop in report.dropped) == report.rows_kept


MANY = [(f"u{row % 20}", f"i{row * 7 % 37}", 1_600_000_000 + row) for row in range(700)]
RAGGED = {3: "u1,i2,9,2020-01-01 00:00", 20: "u1 x", 300: " ", 301: 'u1,"i, 2",5,9', 302: "u9", 303: "u8", 650: "u7"}


def with_lines(lines, broken):
    """`lines` with those of `broken` put in, each to stand at its number."""
    lines = [*lines]
    for number, line in broken.items():
        lines.insert(number - 1, line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("delimiter", [",", "::"])
def test_ragged_lines_are_left_out_named_and_quoted(bring, header, delimiter):
    """Also among the first lines, by which the file is understood: dates have a blank in every row."""
    lines = [f"{user},{item},{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S}" for user, item, time in MANY]
    lines = [*["user,item,when"] * header, *lines]
    content = with_lines(lines, RAGGED).replace(",", delimiter)
    dataset, report = bring(content)
    (drop,) = report.dropped
    assert (drop.reason, drop.rows, drop.lines) == ("not the 3 cells of the others", 7, (3, 20, 300, 301, 302))
    assert drop.seen == tuple(
        text.replace(",", delimiter).replace('"', "") for text in [*RAGGED.values()][:5]
    )  # as it is understood
    assert (report.header, report.rows_read, report.rows_kept) == (header, 707, 700)
    assert sorted(histories(dataset)) == sorted({user for user, _, _ in MANY})
    _, report = bring(with_lines(content.splitlines(), {400: delimiter.join([" ", "i1", "2020-01-01"])}))
    assert report.dropped[1].lines == (400,), "lines below the ragged ones keep their number"


def test_lines_that_are_no_json_are_left_out_named_and_quoted(bring):
    lines = [json.dumps({"user": user, "item": item, "time": time}) for user, item, time in MANY]
    broken = {3: '{"user": "u1", "it', 20: "[1, 2]", 30: '{"user": NaN}', 301: '{"user": "a"} {}', 302: "x" * 99}
    dataset, report = bring(with_lines(lines, broken), "jsonl")
    (drop,) = report.dropped
    assert (drop.reason, drop.rows, drop.lines) == ("not a JSON object", 5, tuple(broken))
    assert drop.seen == (*[*broken.values()][:4], "x" * 37 + "...")
    assert (report.rows_read, report.rows_kept, dataset.num_users) == (705, 700, 20)
    _, report = bring(with_lines(lines, {**broken, 400: '{"item": "a"}'}))
    assert report.dropped[1].lines == (400,)


def test_lines_cut_short_do_not_pass_for_nested_ones(bring):
    lines = [json.dumps({"user": f"u{row}", "item": "i"}) for row in range(7000)]
    _, report = bring(with_lines(lines, dict.fromkeys(range(1, 71), '{"user": {"id": 1')))
    assert (report.dropped[0].rows, report.rows_kept) == (70, 7000)


def test_one_damaged_line_of_few_ends_no_import(bring):
    for content in ("user,item\n1,2\n1,2,3\n4,5\n", '{"user": 1, "item": 2}\n\n{"user": 1, "item"\n'):
        _, report = bring(content)
        assert [(drop.rows, drop.lines) for drop in report.dropped] == [(1, (3,))]


def test_a_quotation_mark_that_swallows_many_lines_ends_the_import(bring):
    lines = [f"u{row % 20},i{row % 7},{row}" for row in range(700)]
    lines[100] = 'u1,"i3,5'
    with pytest.raises(UsageError, match=r"line 102: 2 cells, expected 3; one goes on over several lines, as if"):
        bring("user,item,time\n" + "\n".join(lines) + "\n")


def test_texts_that_are_no_times_are_quoted(bring):
    _, report = bring("user,item,time\n1,a,10\n1,b,12/1/2010 8:26\n1,c,\n")
    assert (report.dropped[0].lines, report.dropped[0].seen) == ((3, 4), ("12/1/2010 8:26", ""))


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        ("timestamp,visitorid,event,itemid", ("visitorid", "itemid", "timestamp")),  # RetailRocket
        ("visitor,productcode,purchasedat", ("visitor", "productcode", "purchasedat")),
        ("InvoiceNo,StockCode,CustomerID,Country", ("CustomerID", "StockCode", None)),  # Online Retail
        ("user_id,anime_id,rating", ("user_id", "anime_id", None)),  # Anime of MyAnimeList
        ("User-ID,ISBN,Book-Rating", ("User-ID", "ISBN", None)),  # Book-Crossing
        ("session,aid,ts,type", ("session", "aid", "ts")),  # OTTO
        ("household_key,BASKET_ID,DAY,PRODUCT_ID", ("household_key", "PRODUCT_ID", None)),  # Dunnhumby
        ("t_dat,customer_id,article_id,price", ("customer_id", "article_id", "t_dat")),  # H&M
        ("user_id,item_id,last_watch_dt", ("user_id", "item_id", "last_watch_dt")),  # Kion
        ("Customer No,Article Number,Order-Date", ("Customer No", "Article Number", "Order-Date")),
    ],
)
def test_usual_names_of_public_logs(bring, names, roles):
    _, report = bring(names + "\n" + ",".join("5" if name in roles else "x" for name in names.split(",")) + "\n")
    assert tuple(report.columns.get(role) for role in ("user", "item", "timestamp")) == roles


def test_only_the_first_lines_are_named(bring):
    _, report = bring("user,item\n" + ",x\n" * 1000 + "1,x\n")
    assert report.dropped[0].rows == 1000
    assert report.dropped[0].lines == (2, 3, 4, 5, 6)


def test_lines_are_right_behind_cells_of_several_lines(bring):
    _, report = bring('user,item,title\n1,a,"two\nlines"\n,b,x\n')
    assert report.dropped[0].lines == (4,)


def test_without_times_repeats_are_kept(bring):
    dataset, report = bring("user,item\n1,a\n1,a\n1,b\n")
    assert [item for item, _ in histories(dataset)["1"]] == ["a", "a", "b"]
    assert (report.repeats, report.dropped) == (1, ())


def test_k_core_goes_on_until_nothing_changes(bring):
    # a and b make a 2-core; item z falls with user 3, which then falls with item z, and so on down a chain.
    chain = "3,z\n3,y\n4,y\n4,x\n5,x\n"
    dataset, report = bring("user,item\n1,a\n1,b\n2,a\n2,b\n" + chain, k_core=2)
    assert set(histories(dataset)) == {"1", "2"}
    assert [(drop.rows, drop.lines) for drop in report.dropped] == [(5, (6, 7, 8, 9, 10))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"file\.csv is empty: line 1"),
        ("\n\n  \n", r"file\.csv is empty: line 1"),
        ("user,item\n", r"file\.csv has no rows: line 1 is the header"),
        ("\n\nuser,item\n", "line 3 is the header"),
        ("user,item\n1,2,3\n", r"file\.csv, line 2: 3 cells, expected 2 \('1,2,3'\)\n.*cut at ',': --delimiter"),
        (
            "user,item\n1,2\n1,2,3\n\n7\n4,5\n",
            r"file\.csv, line 3: 3 cells, expected 2 \('1,2,3'\); line 5: 1 cells, expected 2 \('7'\)\n",
        ),
        ("user::item\n1::2\n7\n8\n", r"line 3: 1 cells, expected 2 \('7'\); line 4: .*\n.*cut at '::'"),
        ('user,item,title\n1,2,"a\nb"\n7,8\n7\n', r"line 4: 2 cells, expected 3"),
        (
            "user,item,time\n1,2,\n1,2,soon\n3,4,later\n",
            r"line 3: 'soon'; line 4: 'later'; nothing in column 'time' is a time\nAllowed are seconds",
        ),
        ("user,item,time\n1,2,\n3,4, \n", r"file\.csv has no time in column 'time': every cell is empty"),
        ('user,item,time\n1,"2,3\n4,5,6\n', r"line 2: 2 cells, expected 3; one goes on over several lines, as if"),
        ("user,item,item\n1,2,3\n", r"looks like the item: user, item \(column 2\), item \(column 3\); name it with"),
        ('user,item\n1,"2\n3,4\n', r"line 2: the item id goes on over several lines"),
        (
            "foo,bar\n1,2\n",
            r"looks like the user or the item: foo, bar; name them with --user COLUMN and --item COLUMN$",
        ),
        ("user,bar\n1,2\n", r"no column of file\.csv looks like the item: user, bar; name it with --item COLUMN$"),
        ("justone\nvalue\n", "looks like the user|looks like the item"),
        ("user,item\n,1\n2,\n", r"left \(1 rows: no user id, first in line 2; 1 rows: no item id, first in line 3\)"),
        (b"user,item\n1,\0\n", "neither text nor Parquet"),
        (b"PK\x03\x04 and so on", "zip archive or a spreadsheet"),
        ('[{"user": 1, "item": 2}]\n', r"holds a JSON array, which is not read; write one object a line"),
        ('[\n{"user": 1, "item": 2}\n]\n', r"holds a JSON array, which is not read; write one object a line"),
        (
            '{\n "user": 1,\n "item": 2\n}\n',
            r"file\.csv, line 1: not a JSON object \('\{'\); line 2: .*\n4 of 4 lines are none; write one object",
        ),
        ('{"user": 1, "item": 2}\n1,2\n3,4\n', r"file\.csv, line 2: .*'1,2'\); line 3: .*\n2 of 3 lines are none"),
        (
            '{"user": 1, "item": 2}\n{"user": "ann", "item": 2}\n',
            r"line 2: Column\(/user\) changed from number to string",
        ),
        ('{"user": 1, "item": 2, "item": 3}\n', r"line 1: Column\(/item\) was specified twice"),
        ('{"user": {"id": 1}, "item": 2}\n', r"column 'user' of type struct<id: int64> cannot be read as text"),
        ('{"user": [1], "item": 2}\n', r"column 'user' of type list<item: int64> cannot be read as text"),
        ('{"foo": 1, "bar": 2}\n', r"no column of file\.csv looks like the user or the item: foo, bar"),
        (
            '\n{"user": 1}\n{"item": 2}\n',
            r"left \(1 rows: no user id, first in line 3; 1 rows: no item id, first in line 2",
        ),
    ],
)
def test_files_that_are_refused(bring, content, message):
    with pytest.raises(UsageError, match=message):
        bring(content)
    assert not dataset_dir("x").exists()


@pytest.mark.parametrize(
    "content", [gzip.compress(b"user,item\n1,2\n" * 999, mtime=0)[:-9], b"\x1f\x8bxxxxxxxxxxxx", b"PAR1xxxx"]
)
def test_files_that_are_damaged(bring, content):
    with pytest.raises(IntegrityError, match=r"file\.csv is"):
        bring(content)


def test_a_very_long_line_is_read_or_named(bring):
    long = "x" * 10_000_000
    with pytest.raises(UsageError, match="line 2"):
        bring(f"user,item\n1,{long}\n")
    dataset, _ = bring("user,item,text\n" + "1,2,short\n" * 60 + f"1,3,{long}\n")
    assert dataset.num_items == 2


def test_wrong_options(bring, tmp_path):
    with pytest.raises(UsageError, match=r"no column 'usr' for the user; it has: user, item; did you mean 'user'\?"):
        bring("user,item\n1,2\n", user="usr")
    with pytest.raises(UsageError, match="min_rating needs a rating"):
        bring("user,item\n1,2\n", min_rating=3.0)
    with pytest.raises(UsageError, match="the same column, 'user'"):
        bring("user,item\n1,2\n", item="user")
    with pytest.raises(UsageError, match=r"no column '3'.*it has: 1, 2"):
        bring("5,6\n7,8\n", timestamp="3")
    with pytest.raises(NotFoundError, match="there is no file"):
        import_table(tmp_path / "nothing.csv", name="x")
    with pytest.raises(UsageError, match="is a folder; give one file"):
        import_table(tmp_path, name="x")


def test_a_gzip_file_that_unpacks_to_far_more_than_it_is_stays_packed(tmp_path):
    """100 MB in 100 kB: not one cell of it is looked at, and no more than the limit is held."""
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 25_000_000, compresslevel=1))
    with pytest.raises(UsageError, match=r"bomb.csv.gz holds more than \d[\d,]* bytes, \d+ times its size"):
        import_table(path, name="bomb")


def test_a_gzip_file_with_much_of_the_same_is_read(bring):
    """1,000 times smaller, but small: a limit is for what fills the memory."""
    content = b"user,item\n" + b"1,2\n" * 100_000
    packed = gzip.compress(content)
    assert len(packed) * 200 < len(content)
    _, report = bring(packed, "csv.gz")
    assert report.rows_read == 100_000


def test_ratings_that_nothing_asks_for_are_reported(bring):
    content = "user,item,stars\n1,a,5\n1,b,-1\n"
    dataset, report = bring(content)
    assert report.unused_rating == "stars"
    assert dataset.num_items == 2
    dataset, report = bring(content, min_rating=3.0)
    assert report.unused_rating is None
    assert dataset.num_items == 1


def test_names_are_not_taken_twice(tmp_path, monkeypatch):
    path = tmp_path / "f.csv"
    path.write_text("user,item\n1,2\n")
    import_table(path, name="mine")
    path.write_text("user,item\n1,3\n")
    with pytest.raises(UsageError, match="'mine' exists already"):
        import_table(path, name="mine")
    assert load_dataset("mine").vocabulary.item_ids == ("2",)
    import_table(path, name="mine", force=True)
    assert load_dataset("mine").vocabulary.item_ids == ("3",)
    with pytest.raises(UsageError, match="registered"):
        import_table(path, name="ml-100k", force=True)
    with pytest.raises(UsageError, match="not allowed"):
        import_table(path, name="../x", force=True)
    monkeypatch.setenv("DIFFREC_DATA", str(dataset_dir()))
    with pytest.raises(UsageError, match="folder of DIFFREC_DATA"):
        import_table(path, name="mine", force=True)


def test_one_of_two_columns_of_a_name_is_chosen_by_its_place(bring):
    content = "user,item,item,note,note\n1,2,3,a,b\n"
    dataset, report = bring(content, item="item (column 3)")
    assert dataset.vocabulary.item_ids == ("3",)
    assert report.columns == {"user": "user", "item": "item (column 3)"}
    with pytest.raises(UsageError, match=r"no column 'item' for the item; it has: user, item \(column 2\), item"):
        bring(content, item="item")


def test_two_columns_of_a_name_in_parquet_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1])] * 3, names=["user", "item", "item"])
    pq.write_table(table, tmp_path / "file.parquet")
    with pytest.raises(UsageError, match=r"file\.parquet has two columns called 'item'; rename one"):
        import_table(tmp_path / "file.parquet", name="x")


def test_a_failed_import_leaves_the_old_dataset(bring):
    bring("user,item\n1,2\n")
    with pytest.raises(UsageError):
        bring("user,item\n1,2,3\n")
    assert load_dataset("x").vocabulary.item_ids == ("2",)


def test_an_imported_dataset_is_loaded_with_its_story(bring):
    dataset, report = bring("user,item,time,title\n1,2,3,T\n")
    again = load_dataset("x")
    assert again.sha256 == dataset.sha256
    assert again.vocabulary == dataset.vocabulary
    stored = json.loads((dataset_dir("x") / "source.json").read_text())
    assert stored["statistics"] == {"users": 1, "items": 1, "interactions": 1}
    assert stored["import"]["columns"] == report.columns


ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=6).filter(
    lambda text: text.lower() not in ("nan", "null", "none")
) | st.integers(-20, 20).map(str)  # fmt: skip
events = st.lists(st.tuples(ids, ids, st.integers(0, 4_000_000_000)), min_size=1, max_size=30, unique=True)


def written(rows, path, form):
    """Write `rows` (user, item, time) in one of the forms that people use."""
    if form == "parquet":
        user, item, time = zip(*rows, strict=True)
        pq.write_table(pa.table({"user": user, "item": item, "time": time}), path)
        return
    if form == "json lines":
        objects = ({"user": user, "item": item, "time": time} for user, item, time in rows)
        path.write_text("".join(json.dumps(line) + "\n" for line in objects))
        return
    delimiter = {"tsv": "\t", "semicolon": ";"}.get(form, ",")
    quoting = csv.QUOTE_ALL if form == "quoted" else csv.QUOTE_MINIMAL
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\r\n" if form == "bom" else "\n")
    writer.writerow(["user", "item", "time"])
    writer.writerows([user, item, time * 1000 + 10**12 if form == "ms" else time] for user, item, time in rows)
    content = text.getvalue().encode("utf-8-sig" if form == "bom" else "utf-8")
    path.write_bytes(gzip.compress(content) if form == "gzip" else content)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["ml100k", "ml_latest_small"])
def test_a_real_log_is_the_same_whichever_way_it_comes(real_data, tmp_path, name):
    dataset = real_data(name)
    table = pq.read_table(Path(os.environ["DIFFREC_DATA"]) / name / "interactions.parquet")
    arrow_csv.write_csv(table, tmp_path / "log.csv")
    imported, report = import_table(tmp_path / "log.csv", name="x")
    assert imported.sha256 == dataset.sha256
    assert (report.rows_read, report.rows_kept) == (dataset.num_interactions, dataset.num_interactions)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.sampled_from(["csv", "tsv", "semicolon", "quoted", "bom", "ms", "gzip", "json lines", "parquet"]))
def test_what_is_written_comes_back(tmp_path, monkeypatch, rows, form):
    # A cache of its own for each example, and no waiting for the disk.
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / uuid.uuid4().hex))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    written(rows, tmp_path / "file", form)
    expected = defaultdict(list)
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        expected[user].append((item, time + 10**9 if form == "ms" else time))
    dataset, report = import_table(tmp_path / "file", name="x")
    assert histories(dataset) == expected
    assert (report.rows_kept, report.dropped) == (len(rows), ())
    for seen in (list(dataset.vocabulary.item_ids), dataset.parts["all"].user_ids.tolist()):
        whole = all(text.lstrip("-").isascii() and text == str_int(text) for text in seen)
        assert seen == sorted(set(seen), key=int if whole else str)


def str_int(text):
    try:
        return str(int(text))
    except ValueError:
        return None
