"""Tables inside documents."""

from __future__ import annotations

import pytest

from diffrec.bench.blocks import filled
from diffrec.bench.leaderboard import table
from diffrec.errors import NotFoundError


def test_blocks_are_made_anew_and_the_rest_of_the_text_stays(board):
    tables = [table(board)]
    text = "before\n<!-- table: quick/ml-100k -->\nold\n<!-- end -->\n<!-- training-free -->\n<!-- end -->\nafter\n"
    made = filled(text, tables)
    assert made.startswith("before\n<!-- table: quick/ml-100k -->\n\n| model | seeds | NDCG@10 |")
    assert made.endswith("<!-- end -->\nafter\n")
    assert "old" not in made
    assert filled(made, tables) == made


def test_rows_without_training_have_a_line_a_table_and_a_column_each(result):
    first = [result("popularity", 0.025), result("ease", 0.05), result("diffrec", 0.9, role="model")]
    second = [result(r.model, r.metrics["ndcg@10"] / 2, dataset="other") for r in first[:2]]
    third = [result("popularity", 0.3, dataset="third")]
    lines = filled("<!-- training-free -->\n<!-- end -->", [table(r) for r in (first, second, third)]).splitlines()
    assert lines[2:-2] == [
        "| dataset | protocol | metric | popularity | ease |",
        "| --- | --- | --- | ---: | ---: |",
        "| ml-100k | loo-full-masked@1 | NDCG@10 | .0250 | **.0500** |",
        "| other | loo-full-masked@1 | NDCG@10 | .0125 | **.0250** |",
        "| third | loo-full-masked@1 | NDCG@10 | **.3000** |  |",
    ]


def test_suites_that_agree_share_a_line(result):
    def lines(again):
        suites = {"quick": 0.05, "again": again}
        tables = [table([result("ease", value, suite=suite)]) for suite, value in suites.items()]
        return filled("<!-- training-free -->\n<!-- end -->", tables).splitlines()[4:-2]

    assert lines(0.05) == ["| ml-100k | loo-full-masked@1 | NDCG@10 | **.0500** |"]
    assert len(lines(0.06)) == 2


def test_a_table_that_is_not_there_names_the_near_match(board):
    with pytest.raises(
        NotFoundError, match="no table 'quick/ml-1m'; there are: quick/ml-100k; did you mean 'quick/ml-1"
    ):
        filled("<!-- table: quick/ml-1m -->\n<!-- end -->", [table(board)])
