"""`diffrec data`, called as the command calls it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from diffrec.cli.data import add_arguments, run
from diffrec.data.catalogue import dataset_dir
from diffrec.data.folders import Tables, save_folder
from diffrec.data.movielens import DESCRIPTION, IN_WHEEL
from diffrec.errors import NotFoundError, UsageError

CSV = "user,item,time\nann,[red] fox,5\nbob,[red] fox,4\n,x,3\nann,\x1bowl,9\n"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFREC_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "log[1].csv").write_text(CSV)
    return tmp_path


@pytest.fixture
def call(capsys):
    """`call("list")` -> what it printed."""

    def call(*words):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        assert run(parser.parse_args([str(word) for word in words])) == 0
        return capsys.readouterr().out

    return call


def test_list_shows_names_and_counts(call, places):
    call("import", places / "log[1].csv", "--name", "mine")
    lines = {line.split()[0]: line.split() for line in call("list").splitlines() if line.strip()}
    assert lines["ml-100k"] == ["ml-100k", "registered,", "to", "fetch", "943", "1,682", "100,000"]
    assert lines["synthetic"] == ["synthetic", "registered", "200", "100", "3,011"]
    assert lines["mine"] == ["mine", "imported", "2", "2", "3"]


def test_list_tells_licences_once(call, places):
    for name in ("mine", "yours"):
        call("import", places / "log[1].csv", "--name", name)
    text = call("list")
    assert "\n  mine, yours: that of the imported file\n" in text
    assert "\n  synthetic: generated, no restrictions\n" in text
    assert "ml-100k: GroupLens usage licence: research use" in text
    assert max(map(len, text.splitlines())) <= 80


def test_list_as_json(call):
    found = {entry["name"]: entry for entry in json.loads(call("list", "--json"))}
    assert found["synthetic"] == {
        "name": "synthetic", "origin": "registered", "kind": "", "ready": True,
        "users": 200, "items": 100, "interactions": 3011, "licence": "generated, no restrictions",
    }  # fmt: skip
    assert not found["ml-100k"]["ready"]


def test_info_tells_what_is_in_it(call):
    facts = json.loads(call("info", "synthetic", "--json"))
    assert (facts["users"], facts["items"], facts["interactions"]) == (200, 100, 3011)
    assert facts["items_per_user"]["mean"] == pytest.approx(3011 / 200)
    assert facts["times"][0] < facts["times"][1]
    assert len(facts["sha256"]) == 64
    text = call("info", "synthetic")
    assert "3,011" in text
    assert facts["sha256"] in text
    assert max(map(len, text.splitlines())) <= 80


def test_info_of_an_unknown_name_names_the_nearest(call):
    with pytest.raises(NotFoundError, match="did you mean 'synthetic'"):
        call("info", "sinthetic")


def test_info_downloads_nothing(call, monkeypatch):
    monkeypatch.setattr("diffrec.data.movielens.fetch_ml_100k", lambda folder: pytest.fail("would be downloaded"))
    with pytest.raises(
        NotFoundError, match="ml-100k is not on this machine; 'diffrec data fetch ml-100k' downloads it"
    ):
        call("info", "ml-100k")


def test_info_says_where_a_copy_was_fetched(call):
    tables = Tables(pa.table({"user_id": [1], "item_id": [7]}))
    save_folder(dataset_dir("ml-100k"), tables, {**DESCRIPTION, "fetched_from": IN_WHEEL})
    assert f"fetched from {IN_WHEEL}" in " ".join(call("info", "ml-100k").split())
    assert json.loads(call("info", "ml-100k", "--json"))["fetched_from"] == IN_WHEEL
    assert "fetched from" not in call("info", "synthetic")


def test_import_reports_and_the_dataset_is_there(call, places):
    text = call("import", places / "log[1].csv", "--name", "mine")
    assert "log[1].csv" in text
    assert "1: no user id (line 4)" in text
    assert "3 of 2 users and 2 items" in text
    assert json.loads(call("info", "mine", "--json"))["interactions"] == 3
    assert "2 users, 2 items, 3 interactions" in call("fetch", "mine")


def test_import_of_json_lines_names_lines(call, places):
    (places / "log.jsonl").write_text('{"user": "ann", "item": 1}\n\n{"item": 1}\n')
    text = " ".join(call("import", places / "log.jsonl", "--name", "mine").split())
    assert "log.jsonl (utf-8, JSON lines)" in text
    assert "1: no user id (line 3)" in text


def test_import_quotes_the_lines_that_are_no_rows(call, places):
    rows = [f"u{row % 5},[red] {row % 7},2020-01-{row % 28 + 1:02}" for row in range(300)]
    rows[8:8] = ["u1,\x1b[31mx", "u1"]
    rows[50] = "u1,x,soon"
    (places / "o.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    text = " ".join(call("import", places / "o.csv", "--name", "o").split())
    assert "2: not the 3 cells of the others (line 10: 'u1,\\x1b[31mx', 11: 'u1')" in text
    assert "1: no time, or one that is not understood (line 52: 'soon')" in text
    assert "rows read 302" in text


def test_import_says_how_to_train_on_what_comes_back(call, places):
    path = places / "again.csv"
    path.write_text("user,item,time\nu,a,2\nu,b,1\nu,a,3\n")
    text = " ".join(call("import", path, "--name", "again").split())
    assert "1 (a user comes back to an item; kept; train with --data.protocol=loo-full-unmasked@1)" in text
    assert "1 users were not in time order in the file and are now" in text
    path.write_text("user,item,time\nu,a,1\nu,b,2\n")
    text = " ".join(call("import", path, "--name", "again", "--force").split())
    assert "0 (a user comes back to an item; kept) time order as in the file; 0 rows share" in text


def test_import_names_the_columns_it_does_not_use_and_doubts_what_can_hardly_be_meant(call, places):
    path = places / "wide.csv"
    path.write_text("user,item,colour,size\nu,a,red,1\nu,b,red,2\n,c,red,3\n,d,red,3\n,e,red,3\n")
    text = " ".join(call("import", path, "--name", "wide").split())
    assert "not used colour, size" in text
    assert "look again 3 of 5 rows were left out" in text
    assert "look again no user has three events, so that none can be held out" in text
    path.write_text("user,item,time\nu,a,1\nu,b,2\nu,c,3\n")
    text = call("import", path, "--name", "wide", "--force")
    assert "look again" not in text
    assert "not used" not in text


def test_import_hands_its_options_on(call, places):
    path = places / "o.txt"
    path.write_text("1;9;a;2;T\n1;8;a;5;T\n")
    words = ["--user", "3", "--item", "2", "--timestamp", "1", "--rating", "4", "--title", "5", "--min-rating", "3"]
    report = json.loads(
        call("import", path, "--name", "o", *words, "--k-core", "1", "--delimiter", ";", "--no-header", "--json")
    )
    assert report["columns"] == {"user": "3", "item": "2", "timestamp": "1", "rating": "4", "title": "5"}
    assert (report["rows_kept"], report["header"], report["delimiter"]) == (1, False, ";")
    with pytest.raises(UsageError, match="--force"):
        call("import", path, "--name", "o")
    call("import", path, "--name", "o", "--force")


def test_tab_can_be_written_as_a_word(call, places):
    path = places / "o.txt"
    path.write_text("user\titem\na b,c\td e,f\n")
    assert json.loads(call("import", path, "--name", "o", "--delimiter", "tab", "--json"))["delimiter"] == "\t"


def test_embed_makes_vectors_of_the_titles(call, places):
    path = places / "t.csv"
    path.write_text(
        "user,item,title\n" + "".join(f"u{i % 3},i{i},{'red' if i % 2 else 'blue'} hat {i % 5}\n" for i in range(20))
    )
    call("import", path, "--name", "hats")
    words = ("embed", "hats", "--encoder", "tf-idf", "--width", "3", "--unit-norm")
    made = json.loads(call(*words, "--json"))
    assert (made["name"], made["width"], made["distinct"], made["empty"]) == ("hats/tf-idf-3-unit", 3, 10, 0)
    assert Path(made["file"]).is_file()
    text = call(*words)
    assert "20, 10 of them different, 0 empty; of title" in text
    assert made["sha256"] in text.replace("\n", "").replace(" ", "")
    made = json.loads(call("tokenize", "hats", "--vectors", "tf-idf-3-unit", "--levels", "2", "--size", "4", "--json"))
    assert made["how"]["vectors"].startswith("hats/tf-idf-3-unit, sha256 ")
    assert json.loads(
        call("tokenize", "hats", "--vectors", "hats/tf-idf-3-unit", "--levels", "2", "--size", "4", "--json")
    )
    with pytest.raises(NotFoundError, match="tf-idf-9"):
        call("tokenize", "hats", "--vectors", "tf-idf-9")
    with pytest.raises(UsageError, match="was made otherwise"):
        call("embed", "hats", "--encoder", "tf-idf", "--width", "4", "--as", "tf-idf-3-unit")
    with pytest.raises(UsageError, match="synthetic says nothing"):
        call("embed", "synthetic")


def test_tokenize_makes_codes_and_lists_them(call):
    words = ("tokenize", "synthetic", "--levels", "2", "--size", "8", "--width", "16", "--as", "mine")
    made = json.loads(call(*words, "--json"))
    assert (made["name"], made["card"]["collisions"], made["before"]["sizes"]) == ("synthetic/mine", 0, [8, 8])
    assert "synthetic/mine" in call(*words)
    assert json.loads(call("tokenize", "synthetic", "--list", "--json"))["mine"] == made["card"]
    assert "mine" in call("tokenize", "synthetic", "--list")
    name = "a-name-that-is-longer-than-any-column-of-a-terminal-of-eighty-characters-can-hold-whole-1"
    text = call("tokenize", "synthetic", "--levels", "4", "--size", "8", "--width", "16", "--as", name)
    assert text.splitlines()[:3:2] == ["codes", "unresolved"]
    assert text.splitlines()[4] == name
    assert name in call("tokenize", "synthetic", "--list").splitlines()
    with pytest.raises(NotFoundError, match="no codes 'sid'; there are: none"):
        call("tokenize", "synthetic", "--published", "sid")
    learned = ("--method", "rq-vae", "--epochs", "1", "--hidden", "16,8", "--commitment", "1", "--unit-norm")
    made = json.loads(call(*words[:-1], "learned", *learned, "--estimator", "rotation", "--json"))
    assert {name: made["how"][name] for name in ("hidden", "commitment", "unit_norm", "estimator")} == {
        "hidden": [16, 8], "commitment": 1.0, "unit_norm": True, "estimator": "rotation",
    }  # fmt: skip


def test_names_are_printed_letter_by_letter(call, places):
    path = places / "o.csv"
    path.write_text("user,a:smile:b [red]\nu,i\n")
    words = ("import", path, "--name", "o", "--force", "--user", "user", "--item", "a:smile:b [red]")
    assert "a:smile:b [red]" in call(*words)
    assert json.loads(call(*words, "--json"))["columns"]["item"] == "a:smile:b [red]"


def test_control_characters_of_a_file_do_not_reach_the_terminal(call, places):
    path = places / "o.csv"
    path.write_text("user,\x1b[31mitem\nu,i\n")
    assert "\x1b" not in call("import", path, "--name", "o", "--user", "user", "--item", "\x1b[31mitem")


def test_list_is_quick_and_loads_nothing_heavy():
    program = (
        "import argparse, sys; from diffrec.cli.data import add_arguments, run\n"
        "p = argparse.ArgumentParser(); add_arguments(p); run(p.parse_args(['list']))\n"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(root)}
    seconds = []
    for _ in range(3):
        start = sum(os.times()[2:4])  # of children, whatever else the machine does
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        seconds.append(sum(os.times()[2:4]) - start)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "\x1b" not in done.stdout
    assert min(seconds) <= 0.5


def test_control_characters_of_a_folder_do_not_reach_the_terminal(call, places, monkeypatch):
    monkeypatch.setenv("DIFFREC_DATA", str(places / "data"))
    (places / "data" / "a\x1b[31m[red]").mkdir(parents=True)
    (places / "data" / "a\x1b[31m[red]" / "interactions.parquet").touch()
    text = call("list")
    assert "\x1b" not in text
    assert text.count("a?[31m[red]") == 2
