"""Comparisons rest on the files of ranks beside the results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffrec.bench.comparison import Comparison, compare_rows, comparison_path, hashes, stored, write_comparison
from diffrec.bench.leaderboard import table, with_comparison
from diffrec.bench.ranks import UserRanks, to_parquet
from diffrec.bench.render import caption, cells, markdown
from diffrec.bench.result import read_results, write_result
from diffrec.data.ragged import Ragged
from diffrec.errors import IntegrityError

USERS = 400


def ranks_of_quality(share: float, seed: int) -> UserRanks:
    """Users of whom `share` have their item first, the others out of sight."""
    hit = np.random.default_rng(seed).random(USERS) < share
    values = np.where(hit, 1.0, 500.0).astype(np.float32)
    return UserRanks(np.arange(USERS), (Ragged.from_lengths(values, np.ones(USERS, dtype=np.int64)),))


@pytest.fixture
def folder(result, tmp_path):
    """A table in which `good` beats counting, `even` is level with it and its control, and `poor` is popularity."""
    rows = [
        (result("popularity"), 0.05, 1),
        (result("markov"), 0.2, 2),
        *((result(name), 0.1, 10 + place) for place, name in enumerate(("sequential-rules", "item-knn", "ease"))),
        (result("good", role="model"), 0.74, 3),
        (result("good", role="model", seed=1), 0.74, 4),
        (result("even", role="model"), 0.69, 5),
        (result("even-noise-off", role="control", control_of="even"), 0.69, 5),
        (result("good-broken", role="control", control_of="good"), 0.1, 6),  # says nothing of diffusion
    ]
    for record, share, seed in rows:
        write_result(record, to_parquet(ranks_of_quality(share, seed)), tmp_path)
    return tmp_path


def test_the_best_group_and_the_badges(folder):
    found = compare_rows(read_results(folder), folder)
    assert isinstance(found, Comparison)
    assert (found.best, found.metric, found.users) == ("good", "ndcg@10", USERS)
    assert set(found.level) == {"even", "even-noise-off"}
    earned = {model: {badge.name: badge.granted for badge in badges} for model, badges in found.badges.items()}
    assert earned == {
        "good": {"beats counting": True, "beats strong AR": False, "diffusion helps": False},
        "even": {"beats counting": True, "beats strong AR": False, "diffusion helps": False},
    }
    (_, strong, _) = found.badges["good"]
    assert "sasrec" in strong.missing


def test_a_required_row_that_is_absent_was_not_beaten(folder):
    found = compare_rows([result for result in read_results(folder) if result.model != "ease"], folder)
    (counting, *_) = found.badges["good"]
    assert (counting.granted, counting.missing) == (False, ("ease",))


def test_it_is_written_once_and_read_while_the_results_are_the_same(folder, result):
    results = read_results(folder)
    assert stored(results, folder) is None
    path = write_comparison(results, folder)
    assert path == comparison_path(folder, "quick", "ml-100k")
    first = path.read_bytes(), path.stat().st_mtime_ns
    assert stored(results, folder) == compare_rows(results, folder)
    write_comparison(results, folder)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == first
    write_result(result("markov"), to_parquet(ranks_of_quality(0.3, 9)), folder)
    changed = read_results(folder)
    assert stored(changed, folder) is None
    write_comparison(changed, folder)
    assert stored(changed, folder).ranks == hashes(changed)


def test_results_without_ranks_are_not_compared(folder, board):
    assert hashes(board) is None
    assert compare_rows(board, folder) is None
    assert write_comparison(board, folder) is None
    assert compare_rows(read_results(folder)[:1], folder) is None


@pytest.mark.parametrize("change", [{"best": 3}, {"levels": []}, {"schema_version": 3}, {"schema_version": "1"}])
def test_a_damaged_comparison_is_refused(folder, change):
    results = read_results(folder)
    path = write_comparison(results, folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IntegrityError, match=r"comparison\.json"):
        stored(results, folder)


def test_a_comparison_by_older_tests_is_made_anew(folder):
    results = read_results(folder)
    path = write_comparison(results, folder)
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), "schema_version": 1}))
    assert stored(results, folder) is None
    assert write_comparison(results, folder).read_bytes() == before


def test_rows_of_other_users_or_in_another_order_are_not_paired(folder, result):
    """Users who trade places have their ranks traded too: every mean stays, every pair is wrong."""
    there = ranks_of_quality(0.3, 9)
    write_result(result("ease"), to_parquet(UserRanks(there.users[::-1], there.draws)), folder)
    with pytest.raises(IntegrityError, match="ranks the items of other users than the table; run it again"):
        compare_rows(read_results(folder), folder)


def test_tables_show_it(folder):
    results = read_results(folder)
    plain = table(results)
    assert with_comparison(plain, None) == plain
    shown = with_comparison(plain, compare_rows(results, folder))
    names = {cells(row, shown)[0] for row in shown.rows}
    free = {"sequential-rules°", "item-knn°", "ease°", "markov°", "popularity°"}
    assert names == {"└ broken", "good★", "even★", "└ noise-off★"} | free
    said = "beats counting: even (1 seed), good (2 seeds); diffusion helps: no row"
    assert said in caption(shown)
    assert "★" not in caption(plain)
    assert said in markdown([shown])


def test_diffusion_helps_where_the_twin_without_it_is_worse(folder, result):
    worse = result("good-noise-off", role="control", control_of="good")
    write_result(worse, to_parquet(ranks_of_quality(0.3, 7)), folder)
    results = read_results(folder)
    found = compare_rows(results, folder)
    helps = {model: badges[2].granted for model, badges in found.badges.items()}
    assert helps == {"good": True, "even": False}
    said = "beats counting: even (1 seed), good (2 seeds); diffusion helps: good (1 seed)"  # for the control has one
    assert said in caption(with_comparison(table(results), found))


def test_no_badge_while_a_declared_control_was_not_run(folder, result):
    """DiffRec declares noise-off and one-step; of a row that is level with one of them nothing is unknown."""
    config = {**result().config, "model": {"class_path": "diffrec.models.DiffRec"}}
    for model, share, seed, without in (("good", 0.74, 3, 0.3), ("even", 0.69, 5, 0.69)):
        control = result(f"{model}-noise-off", role="control", control_of=model, config=config)
        write_result(control, to_parquet(ranks_of_quality(without, 5)), folder)
        write_result(result(model, role="model", config=config), to_parquet(ranks_of_quality(share, seed)), folder)
    results = [r for r in read_results(folder) if r.seed == 0]
    found = compare_rows(results, folder)
    helps = {model: badges[2] for model, badges in found.badges.items()}
    assert (helps["good"].granted, helps["good"].missing) == (False, ("good-one-step",))
    assert (helps["even"].missing, helps["even"].not_beaten) == (("even-one-step",), ("even-noise-off",))
    shown = with_comparison(table(results), found)
    assert shown.untested == ("good",)
    assert "diffusion helps: no row; not tested for lack of controls: good" in caption(shown)
    control = result("good-one-step", role="control", control_of="good", config=config)
    write_result(control, to_parquet(ranks_of_quality(0.2, 8)), folder)
    results = [r for r in read_results(folder) if r.seed == 0]
    shown = with_comparison(table(results), compare_rows(results, folder))
    assert (shown.badges["good"], shown.untested) == (("beats counting", "diffusion helps"), ())
