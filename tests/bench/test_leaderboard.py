from __future__ import annotations

import csv
import io
import json
import random
import statistics
from dataclasses import replace

import pytest

from diffrec.bench.leaderboard import (
    Statistic,
    leaderboard,
    publishable,
    table,
    with_metrics,
    with_reasons,
    with_suite,
)
from diffrec.bench.render import accuracy, caption, cells, count, csv_cell, duration, header, markdown, to_csv, to_json
from diffrec.bench.result import Beams, Decoding, Reported, read_results
from diffrec.bench.suite import load_suite
from diffrec.cli.leaderboard import make_tables
from diffrec.errors import NotFoundError, UsageError
from diffrec.paths import resource_dir

EXPECTED = """\
## quick · ml-100k · loo-full-masked@1

| model | seeds | NDCG@10 | Recall@10 | calls | ms/user | params | train |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| ease° | 1 | .0550 | .1100 | 1 | 1.26 | 2.83M | 0.5 s |
| diffrec | 3 | .0540 ±.0010 | .1080 ±.0020 | 40 | 123 | 1M | 3 min |
| └ noise-off | 3 | .0530 ±.0020 | .1060 ±.0040 | 1 | 0.42 | 1.68k | 0.5 s |
| item-knn° | 1 | .0490 | .0980 | 1 | 0.42 | 2.83M | 61 s |
| markov° | 1 | .0480 | .0960 | 1 | 0.42 | 146k | 0.5 s |
| popularity° | 1 | .0250 | .0500 | 1 | 0.42 | 1.68k | 0.5 s |

943 test users, sorted for ndcg@10; data sha256 abababababab, suite version 1; measured on cpu, 2 threads.

settings tried on validation: 3 of diffrec, ease, item-knn, markov

lacks: sequential-rules; sasrec
"""


def models(results, sort=None):
    return [row.model for row in table(results, sort).rows]


def test_the_text_of_a_small_board(board):
    text = markdown(leaderboard(board))
    assert text.startswith("# Leaderboard\n\nMade from the files in `results/`")
    assert text.endswith(EXPECTED)


def test_the_board_does_not_depend_on_the_order_of_the_files(board):
    expected = markdown(leaderboard(board))
    for seed in range(5):
        random.Random(seed).shuffle(board)
        assert markdown(leaderboard(board)) == expected


def test_means_and_spreads_are_over_seeds(board):
    (row,) = [row for row in table(board).rows if row.model == "diffrec-noise-off"]
    values = [r.metrics["recall@20"] for r in board if r.model == "diffrec-noise-off"]
    assert row.seeds == (0, 1, 2)
    assert row.metrics["recall@20"].mean == pytest.approx(statistics.mean(values))
    assert row.metrics["recall@20"].spread == pytest.approx(statistics.stdev(values))
    (single,) = [row for row in table(board).rows if row.model == "ease"]
    assert single.metrics["ndcg@10"].spread is None


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, ["ease", "diffrec", "diffrec-noise-off", "item-knn", "markov", "popularity"]),
        ("recall@20", ["ease", "diffrec", "diffrec-noise-off", "item-knn", "markov", "popularity"]),
        ("model", ["diffrec", "diffrec-noise-off", "ease", "item-knn", "markov", "popularity"]),
        ("ms_per_user", ["item-knn", "markov", "popularity", "ease", "diffrec", "diffrec-noise-off"]),
        ("parameters", ["popularity", "markov", "diffrec", "diffrec-noise-off", "ease", "item-knn"]),
        ("train_seconds", ["ease", "markov", "popularity", "item-knn", "diffrec", "diffrec-noise-off"]),
    ],
)
def test_rows_are_sorted_and_controls_follow_their_model(board, sort, expected):
    assert models(board, sort) == expected


def test_a_control_that_beats_its_model_still_stands_below_it(board, result):
    board = [r for r in board if r.model != "diffrec-noise-off"]
    board.append(result("off", 0.09, role="control", control_of="diffrec"))
    assert models(board)[:3] == ["ease", "diffrec", "off"]


def test_a_control_without_its_model_has_a_place_of_its_own(board):
    board = [r for r in board if r.model != "diffrec"]
    assert models(board)[:2] == ["ease", "diffrec-noise-off"]


def test_an_unknown_column_names_the_near_match(board):
    with pytest.raises(NotFoundError, match=r"no column to sort by 'recal@20'.*did you mean 'recall@20'\?"):
        table(board, "recal@20")


def complete(board, result):
    return [*board, result("sequential-rules", 0.05), result("sasrec", 0.056, role="model")]


@pytest.mark.parametrize("name", ["popularity", "markov", "sequential-rules", "item-knn", "ease", "sasrec"])
def test_a_table_tells_which_required_row_it_lacks_and_is_not_published(board, result, name):
    board = complete(board, result)
    assert table(board).lacks == {}
    assert "lacks" not in caption(table(board))
    assert publishable([table(board)]) == [table(board)]
    lacking = table([r for r in board if r.model != name])
    assert caption(lacking).splitlines()[-1] == f"lacks: {name}"
    with pytest.raises(UsageError, match=rf"lacks {name}: run them, .*'without: {{{name}: reason}}' in .*quick.yaml"):
        publishable([table(board), lacking])


def test_a_reason_is_printed_and_lets_a_table_be_published(board):
    lacking = with_reasons(table(board), {"sasrec": "needs a day", "ease": "is there"})
    assert lacking.lacks == {"sequential-rules": None, "sasrec": "needs a day"}
    assert caption(lacking).splitlines()[-1] == "lacks: sequential-rules; sasrec (needs a day)"
    with pytest.raises(UsageError, match="lacks sequential-rules: "):
        publishable([lacking])
    stated = with_reasons(table(board), {"sasrec": "needs a day", "sequential-rules": "is too slow"})
    assert publishable([stated]) == [stated]


def test_a_trained_model_called_ease_is_not_the_baseline(board, result):
    board = [r for r in complete(board, result) if r.model != "ease"] + [result("ease", 0.09, role="model")]
    assert table(board).lacks == {"ease": None}


def test_protocols_datasets_and_suites_are_never_mixed(board, result):
    def elsewhere(**place):
        return [result(name, 0.9, **place) for name in ("popularity", "markov", "item-knn", "ease")]

    others = [
        *elsewhere(protocol="loo-full-unmasked@1"),
        *elsewhere(dataset="other"),
        *elsewhere(suite="beauty"),
    ]
    tables = leaderboard([*others, *board])
    assert [(t.suite, t.dataset, t.protocol) for t in tables] == [
        ("beauty", "ml-100k", "loo-full-masked@1"),
        ("quick", "ml-100k", "loo-full-masked@1"),
        ("quick", "ml-100k", "loo-full-unmasked@1"),
        ("quick", "other", "loo-full-masked@1"),
    ]
    assert tables[1] == table(board)
    with pytest.raises(UsageError, match="results of different protocol are never put in one table"):
        table([*board, *elsewhere(protocol="loo-full-unmasked@1")])


@pytest.mark.parametrize("field", ["dataset_sha256", "suite_version"])
def test_other_data_under_the_same_name_is_refused(board, result, field):
    odd = result("sasrec", 0.9, role="model", **{field: 7 if field == "suite_version" else "cd" * 32})
    with pytest.raises(UsageError, match=f"results of different {field} are never put in one table"):
        leaderboard([*board, odd])


def test_seeds_of_different_configurations_are_refused(board, result):
    odd = result("ease", 0.9, seed=1, config_sha256="e" * 64, config={**board[0].config, "trainer": {}})
    with pytest.raises(UsageError, match="the seeds of ease ran with different configurations"):
        leaderboard([*board, odd])


def test_a_seed_counts_once(board, result):
    with pytest.raises(UsageError, match="ease has two results of one seed"):
        leaderboard([*board, result("ease", 0.056)])


def test_collaborative_protocols_show_the_recall_of_their_headline(result):
    rows = [result(n, 0.05, headline="recall@20") for n in ("popularity", "markov", "item-knn", "ease")]
    (only,) = leaderboard(rows)
    assert only.columns == ("ndcg@10", "recall@20")
    assert "| model | seeds | NDCG@10 | Recall@20 |" in markdown([only])
    assert "| popularity° | 1 | .0500 | .2000 |" in markdown([only])


def test_csv_and_json_hold_every_metric(board):
    tables = leaderboard(board)
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert [row["model"] for row in rows] == models(board)
    assert (rows[1]["recall@20"], rows[1]["seeds"], rows[1]["denoiser_calls"]) == ("0.216", "3", "40")
    assert float(rows[1]["ndcg@10_sd"]) == pytest.approx(0.001)
    assert rows[0]["ndcg@10_sd"] == ""
    assert {row["protocol"] for row in rows} == {"loo-full-masked@1"}
    (loaded,) = json.loads(to_json(tables))
    assert loaded["rows"][1]["metrics"]["recall@20"]["mean"] == pytest.approx(0.216)
    assert loaded["dataset_sha256"] == "ab" * 32


def test_no_cell_of_csv_begins_as_a_formula(board, result):
    (only,) = leaderboard([*board, result("sasrec", 0.9, role="model", device='=HYPERLINK("http://evil/")')])
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(to_csv([only])))}
    assert (rows["sasrec"]["device"], rows["popularity"]["device"]) == ('\'=HYPERLINK("http://evil/")', "cpu")
    assert [csv_cell(begin + "1") for begin in "=+-@\t\r"] == [f"'{begin}1" for begin in "=+-@\t\r"]
    assert [csv_cell(value) for value in (-1, -0.5, None, "a=1", "", "'")] == [-1, -0.5, None, "a=1", "", "'"]


def test_costs_of_an_accelerator_are_marked(board, result):
    (only,) = leaderboard([*board, result("sasrec", 0.9, role="model", device="NVIDIA H100")])
    lines = {line.split()[1]: line for line in markdown([only]).splitlines() if line.startswith("| ")}
    assert "| 0.42‡ |" in lines["sasrec"]
    assert "| 0.42 |" in lines["popularity°"]
    devices = {row["model"]: row["device"] for row in csv.DictReader(io.StringIO(to_csv([only])))}
    assert (devices["sasrec"], devices["popularity"]) == ("NVIDIA H100", "cpu")


def several(lines):
    return [line for line in lines if line.startswith("ms/user and train are of several machines")]


def test_a_table_names_the_machines_that_its_costs_are_of(board, result):
    there = {name: result(name, 0.05, seed=7, role="model", config={"name": name}, **machine) for name, machine in {
        "here": {"processor": "AMD EPYC"},
        "there": {"processor": "Intel(R) Xeon(R) Processor"},
        "fast": {"processor": "Intel(R) Xeon(R) Processor", "device": "NVIDIA H200"},
        "old": {"processor": ""},
    }.items()}  # fmt: skip
    both = [replace(there["here"], model="both"), replace(there["there"], model="both", seed=8)]
    said = (
        "ms/user and train are of several machines, and compare within one only: AMD EPYC (2 rows), "
        "Intel Xeon Processor (2 rows), NVIDIA H200 beside Intel Xeon Processor (1 row), "
        "a processor without a name (1 row)"
    )
    only = table([*there.values(), *both])
    assert several(caption(only).splitlines()) == several(markdown([only]).splitlines()) == [said]
    rows = {row["model"]: (row["processor"], row["threads"]) for row in csv.DictReader(io.StringIO(to_csv([only])))}
    assert rows["here"] == ("AMD EPYC", "2")
    assert rows["both"] == ("AMD EPYC, Intel(R) Xeon(R) Processor", "2")
    assert json.loads(to_json([only]))[0]["timed_on"]["AMD EPYC"] == 2
    assert several(caption(table(board)).splitlines()) == []


def test_costs_on_other_numbers_of_threads_are_of_other_machines(result):
    told = caption(table([result("ease", threads=1), result("markov", threads=4), result("slim", threads=4)]))
    (line,) = several(told.splitlines())
    assert line.endswith("one only: a processor with 4 threads (2 rows), a processor with 1 thread (1 row)")


def test_a_suite_is_read_once_for_all_of_its_tables(result, monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr("diffrec.bench.suite.load_suite", lambda path: read.append(path.name) or load_suite(path))
    monkeypatch.setattr("diffrec.bench.leaderboard.resource_dir", lambda name: tmp_path)
    (tmp_path / "suites").mkdir()
    for suite in ("quick", "temporal"):
        text = (resource_dir("benchmarks") / "suites" / f"{suite}.yaml").read_text(encoding="utf-8")
        (tmp_path / "suites" / f"{suite}.yaml").write_text(text, encoding="utf-8")
    rows = [result("ease", dataset=dataset, suite="quick") for dataset in ("one", "two", "three")]
    tables, _ = make_tables([*rows, result("ease", suite="temporal"), result("ease", suite="of-nobody")], tmp_path)
    assert len(tables) == 5
    assert sorted(read) == ["quick.yaml", "temporal.yaml"]


def test_beams_stand_beside_their_row_and_cutoffs_above_them_are_marked(board, result):
    beams = Beams(10, True, invalid=0.0, repeated=0.0, lost=0.1, shared=0.2, short={"10": 0.25, "20": 1.0})
    rows = [
        result("tiger", 0.09, role="model", seed=seed, decoding=Decoding(0.5, replace(beams, lost=lost)))
        for seed, lost in ((0, 0.1), (1, 0.3))
    ]
    old = result("maskgr", 0.08, role="model", config={"model": {"init_args": {"num_beams": 20}}})
    (only,) = leaderboard([*board, *rows, old])
    only = with_metrics(only, ["recall@10", "recall@20"])
    shown = {row.model: dict(zip(header(only), cells(row, only), strict=True)) for row in only.rows}
    assert {name: row["beams"] for name, row in shown.items() if row["beams"] != "-"} == {"tiger": "10", "maskgr": "20"}
    assert (shown["tiger"]["Recall@10"][-1], shown["tiger"]["Recall@20"][-1]) == ("0", "†")
    assert shown["maskgr"]["Recall@20"] == ".3200"
    about, told = (line for line in caption(only).splitlines() if line.startswith(("beams", "codes")))
    assert "† has a cutoff above" in about
    assert told == (
        "codes of tiger: 50.0% of the items share their codes with another; of the beams 0.0% are no item (by "
        "construction), 0.0% end at the item of a better one, 20.0% end nowhere, 20.0% end at codes of several items; "
        "lists with fewer items from beams than places: 25.0% of 10 places, 100.0% of 20 places"
    )
    beams_of = {row["model"]: row["num_beams"] for row in csv.DictReader(io.StringIO(to_csv([only])))}
    assert (beams_of["tiger"], beams_of["ease"]) == ("10", "")
    assert json.loads(to_json([only]))[0]["rows"][0]["decoding"]["beams"]["lost"] == pytest.approx(0.2)


def test_names_cannot_leave_their_cell_of_the_markdown_table(board, result):
    hostile = result("<img src=x>|[a](b)`", 0.9, role="model")
    lines = [line for line in markdown(leaderboard([*board, hostile])).splitlines() if "src=x" in line]
    assert lines == [
        r"| &lt;img src=x>\|\[a](b)\` | 1 | .9000 | 1.8000 | 1 | 0.42 | 1.68k | 0.5 s |",
        r"settings tried on validation: 3 of &lt;img src=x>\|\[a](b)\`, diffrec, ease, item-knn, markov",
    ]


def test_a_table_tells_whose_settings_were_searched_for(board, result):
    """The fewest of the seeds count; controls have the settings of their rows, and popularity has none."""
    more = [result("sasrec", seed=s, role="model", tuning_trials=n) for s, n in ((0, 20), (1, 12))]
    stated = result("multvae", role="model", tuning_trials=0)
    lines = caption(table([*board, *more, stated])).splitlines()
    assert (
        "settings tried on validation: 12 of sasrec; 3 of diffrec, ease, item-knn, markov; "
        "settings stated by a paper or a recipe: multvae"
    ) in lines
    assert not any("settings" in line for line in caption(table([result("popularity")])).splitlines())


def test_numbers_are_short():
    assert [count(n) for n in (0, 999, 1000, 1682, 999_600, 2_829_124, 123_456_789, 7_000_000_000)] == [
        "0", "999", "1k", "1.68k", "1M", "2.83M", "123M", "7G",
    ]  # fmt: skip
    assert [duration(s) for s in (0.04, 9.94, 9.96, 99.4, 100.0, 119.0, 5969.0, 7200.0)] == [
        "0.0 s", "9.9 s", "10 s", "99 s", "2 min", "2 min", "99 min", "2.0 h",
    ]  # fmt: skip
    assert accuracy(Statistic(0.08624, 0.00123)) == ".0862 ±.0012"
    assert accuracy(Statistic(1.0, 0.0)) == "1.0000 ±.0000"
    assert accuracy(Statistic(0.0, None)) == ".0000"


def test_the_leaderboard_that_ships_is_made_from_the_results_that_ship():
    results = read_results(resource_dir("benchmarks") / "results")
    text = (resource_dir("benchmarks") / "LEADERBOARD.md").read_text(encoding="utf-8")
    tables, refused = make_tables(results, resource_dir("benchmarks") / "results")
    assert not refused
    assert text == markdown(tables), "run 'diffrec leaderboard --write'"


def test_what_papers_say_stands_beside_what_was_measured(board, result):
    said = (Reported("ndcg@10", 0.05, "log", "a log"), Reported("mrr", 0.3, "source", "not measured here"))
    (only,) = leaderboard([*board, result("said", 0.055, role="model", reported=said)])
    lines = [line for line in caption(only).splitlines() if line.startswith("reported")]
    assert lines == ["reported for said: NDCG@10 .0500 (log: a log); here .0550, +10.0%"]


def test_what_papers_say_is_as_the_suite_has_it_today(board, result, suite_file):
    old, new = Reported("mrr", 0.3, "log", "an old log"), Reported("ndcg@10", 0.05, "source", "a paper")
    text = """
name: quick
version: 1
title: t
datasets: [{name: ml-100k, protocol: loo-full-masked@1}, {name: ml-1m, protocol: loo-full-masked@1}]
models:
  - name: said
    configs: [model/markov]
    reported: {ml-100k: [{metric: ndcg@10, value: 0.05, status: source, source: a paper}]}
  - {name: unsaid, configs: [model/markov]}
  - {name: elsewhere, only: [ml-1m], configs: [model/markov]}
"""
    names = ("said", "unsaid", "elsewhere", "unknown")
    rows = table([*board, *(result(name, 0.055, role="model", reported=(old,)) for name in names)])
    told = with_suite(rows, load_suite(suite_file(text)))
    assert {row.model: row.reported for row in told.rows if row.model in names} == {
        "said": (new,), "unsaid": (), "elsewhere": (old,), "unknown": (old,),
    }  # fmt: skip
    assert {row.reported for row in rows.rows if row.model in names} == {(old,)}


def test_chosen_metrics_are_shown_and_unknown_ones_named(board):
    chosen = with_metrics(table(board), ["recall@20", "recall@10", "ndcg@10"])
    assert header(chosen)[2:5] == ("Recall@20", "Recall@10", "NDCG@10")
    assert cells(chosen.rows[0], chosen)[2:5] == tuple(accuracy(chosen.rows[0].metrics[m]) for m in chosen.shown)
    with pytest.raises(NotFoundError, match=r"no metric 'recall@30'.*did you mean 'recall@"):
        with_metrics(table(board), ["recall@30"])


def test_the_spread_over_draws_is_not_the_spread_over_seeds(result):
    def run(seed, *values):
        draws = tuple({"ndcg@10": value, "recall@10": value} for value in values)
        return result("x", sum(values) / len(values), seed=seed, role="model", draw_metrics=draws, metrics={
            "ndcg@10": sum(values) / len(values), "recall@10": sum(values) / len(values)})  # fmt: skip

    (only,) = leaderboard([run(0, 0.1, 0.2), run(1, 0.14, 0.16)])
    (row,) = only.rows
    assert row.draws == 2
    assert row.metrics["ndcg@10"].spread == pytest.approx(0, abs=1e-12)
    assert row.draw_spread["ndcg@10"] == pytest.approx((0.1 / 2**0.5 + 0.02 / 2**0.5) / 2)
