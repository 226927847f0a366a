"""Accuracy by training interactions beside a loop over targets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diffrec.baselines import Popularity
from diffrec.bench.evaluate import evaluate
from diffrec.bench.groups import by_training_count, groups_of
from diffrec.bench.ranks import UserRanks, to_parquet
from diffrec.bench.result import read_results, write_result
from diffrec.cli.groups import names_of
from diffrec.cli.main import main
from diffrec.data.protocol import get_protocol
from diffrec.data.ragged import Ragged
from diffrec.data.sources import load_dataset
from diffrec.data.splits import Cases, Split
from diffrec.errors import IntegrityError, NotFoundError

BOUNDS = (0, 1, 20, 60)


@pytest.fixture(scope="module")
def split():
    return get_protocol("loo-full-masked@1").apply(load_dataset("synthetic"))


@pytest.fixture
def ranks(split):
    model = Popularity(100).eval()
    model.solve(split.train)
    return evaluate(model, split.test, (10,)).ranks


@pytest.fixture
def stored(split, ranks, result, tmp_path):
    """Two seeds of a row, whose second is one place worse everywhere."""
    for seed in range(2):
        worse = Ragged(ranks.values + seed, ranks.offsets)
        here = result("popularity", 0.05, dataset="synthetic", seed=seed)
        write_result(here, to_parquet(UserRanks(split.test.key, (worse,))), tmp_path)
    return tmp_path


def test_each_group_is_the_mean_over_its_targets_and_seeds(split, ranks, stored):
    (table,) = by_training_count(read_results(stored), stored, "ndcg@10", BOUNDS)
    counts = np.bincount(split.train.values, minlength=101)
    expected: dict[int, list[float]] = {group: [] for group in range(4)}
    for target, rank in zip(split.test.target.values, ranks.values, strict=True):
        group = max(number for number, bound in enumerate(BOUNDS) if counts[target] >= bound)
        each = [1 / np.log2(1 + place) if place <= 10 else 0.0 for place in (rank, rank + 1)]
        expected[group].append(float(np.mean(each)))
    assert sum(map(bool, expected.values())) >= 2
    assert table.targets == (*map(len, expected.values()), len(ranks.values))
    (row,) = table.rows
    means = [np.mean(values) if values else np.nan for values in expected.values()]
    everything = np.mean([value for values in expected.values() for value in values])
    np.testing.assert_allclose(row.values, [*means, everything])
    assert row.seeds == 2


def test_items_that_training_never_met_are_cold():
    train = Ragged.from_rows([[1, 2, 2], [2]])
    empty = Ragged.from_rows([[], []])
    cases = Cases(empty, Ragged.from_rows([[3, 1], [2]]), empty, np.arange(2))
    assert groups_of(Split(train, cases, cases), (0, 1, 3)).tolist() == [0, 1, 2]


def test_ranks_of_other_targets_are_refused(split, ranks, result, tmp_path):
    fewer = Ragged(ranks.values[:-1], np.append(ranks.offsets[:-1], len(ranks.values) - 1))
    here = result("popularity", 0.05, dataset="synthetic")
    write_result(here, to_parquet(UserRanks(split.test.key, (fewer,))), tmp_path)
    with pytest.raises(IntegrityError, match=r"ranks 199 targets, synthetic has 200"):
        by_training_count(read_results(tmp_path), tmp_path)
    with pytest.raises(NotFoundError, match="metric"):
        by_training_count(read_results(tmp_path), tmp_path, "ndgc@10")


def test_the_command_prints_a_table_or_json(stored, capsys):
    assert main(["bench", "groups", "--results", str(stored), "--bounds", "0,1,60"]) == 0
    printed = capsys.readouterr().out
    assert "cold" in printed
    assert "1-59" in printed
    assert "60+" in printed
    assert main(["bench", "groups", "--results", str(stored), "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert table["rows"][0]["model"] == "popularity"
    assert table["rows"][0]["values"][0] is None, "every item of the generated walks was met"
    assert main(["bench", "groups", "--bounds", "1,5"]) == 2
    assert "no rising list of whole numbers from 0" in capsys.readouterr().err


def test_names_of_groups():
    assert names_of((0, 1, 2, 5)) == ["cold", "1", "2-4", "5+"]
