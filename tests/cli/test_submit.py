"""`diffrec submit`: what is bundled, and what is refused with nothing written."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest

from diffrec.baselines import Markov
from diffrec.bench.bundle import read_bundle
from diffrec.bench.evaluate import evaluate
from diffrec.bench.ranks import UserRanks, from_parquet, to_parquet
from diffrec.bench.result import read_result, write_result
from diffrec.bench.run_file import ids_of
from diffrec.bench.runner import run_suite
from diffrec.bench.schedule import Folders
from diffrec.bench.suite import load_suite
from diffrec.cli.entries import entry_of, save_entry
from diffrec.cli.main import main
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases
from diffrec.data.synthetic import synthetic
from diffrec.training.build import build
from diffrec.training.fit import fit
from diffrec.training.predict import predict

SPLIT = PROTOCOLS["loo-full-masked@1"].apply(synthetic())
SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - name: sasrec
    configs: [model/sasrec]
    seeds: [0, 1]
    overrides: [--model.embedding_size=8, --model.num_heads=1, --model.num_blocks=1, --trainer.max_epochs=1]
"""
LISTS = ["--dataset", "synthetic", "--protocol", "loo-full-masked@1", "--name", "ours"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Results of a small suite, and an entry for each seed."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "tiny.yaml").write_text(SUITE)
    keep = lambda trained: save_entry(trained, entry_of(trained.cell, folder / f"zoo{trained.cell.seed}"))  # noqa: E731
    run_suite(load_suite(folder / "tiny.yaml"), Folders(folder / "results", folder / "runs"), keep=keep)
    return folder


def record_of(folder: Path, model: str) -> Path:
    return folder / "results" / "tiny" / "synthetic" / model / "seed0.json"


def submit(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["submit", *map(str, words)])
    return code, *capsys.readouterr()


def test_a_trained_row_with_its_entry(bench, tmp_path, monkeypatch, capsys):
    entry = bench / "zoo0" / "sasrec.synthetic"
    code, out, _ = submit(capsys, record_of(bench, "sasrec"), "--entry", entry, "-o", tmp_path / "b")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'b'}\n")
    bundle = read_bundle(tmp_path / "b")
    assert bundle.result == read_result(record_of(bench, "sasrec"))
    assert {path.name: path.read_bytes() for path in bundle.model.iterdir()} == {
        path.name: path.read_bytes() for path in entry.iterdir()
    }
    assert bundle.lists.draws[0].items.shape == (200, 50)
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr("diffrec.bench.ranks.read_ranks", None)  # it is told before any work
    code, _, err = submit(capsys, record_of(bench, "sasrec"), "--entry", entry, "-o", tmp_path / "b")
    assert (code, "exists; give another folder" in err) == (2, True)


def test_a_row_without_training_is_solved_again(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert submit(capsys, record_of(bench, "popularity"))[0] == 0
    assert main(["verify", "bundles/tiny.synthetic.popularity.seed0", "--level", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundles"]


def test_the_model_must_be_that_of_the_record(bench, tmp_path, capsys):
    record = record_of(bench, "sasrec")
    code, _, err = submit(capsys, record, "-o", tmp_path / "b")
    assert (code, "--entry ZOO_ENTRY" in err) == (2, True)
    code, _, err = submit(capsys, record, "--entry", bench / "zoo1" / "sasrec.synthetic", "-o", tmp_path / "b")
    assert (code, "holds the weights" in err) == (3, True)
    assert not list(tmp_path.iterdir())


def _copy(bench: Path, to: Path) -> Path:
    return Path(shutil.copytree(bench / "results", to / "results"))


def test_nothing_is_written_where_a_number_does_not_come_out(bench, tmp_path, capsys):
    results = _copy(bench, tmp_path)
    path = results / "tiny/synthetic/popularity/seed0.json"
    result, content = read_result(path), path.with_suffix(".ranks.parquet").read_bytes()
    ranks = from_parquet(content, "")
    values = ranks.draws[0].values.copy()
    far = int(np.argmax(values))
    values[far] -= 0.5  # far behind all lists, so that no list tells
    write_result(result, to_parquet(UserRanks(ranks.users, (Ragged(values, ranks.draws[0].offsets),))), results)
    code, _, err = submit(capsys, path, "-o", tmp_path / "b")
    assert code == 3
    assert f"draw 0: a rank of user {far} is" in err
    other = {**result.beyond_accuracy, "gini@10": 0.25}
    from dataclasses import replace

    write_result(replace(result, beyond_accuracy=other), content, results)
    code, _, err = submit(capsys, path, "-o", tmp_path / "b")
    assert code == 3
    assert "nothing was written" in err
    assert "gini@10 is 0.25" in err
    write_result(replace(result, dataset_sha256="0" * 64), content, results)
    assert "here has sha256" in submit(capsys, path, "-o", tmp_path / "b")[2]
    write_result(replace(result, epochs=1, parameters=3), content, results)
    told = submit(capsys, path, "-o", tmp_path / "b")[2]
    assert "parameters is 3, the model has" in told
    assert "here is" not in told
    write_result(replace(result, parameters=3, processor="another one"), content, results)
    assert " instead of another one, and a bundle is exact" in submit(capsys, path, "-o", tmp_path / "b")[2]
    assert not (tmp_path / "b").exists()


def test_records_that_are_not_there_or_are_from_before_ranks(tmp_path, capsys):
    assert submit(capsys, tmp_path / "seed0.json")[0] == 4
    old = Path(__file__).parents[1] / "bench" / "records" / "version1.json"
    code, _, err = submit(capsys, old)
    assert (code, "before ranks were kept" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give a record"),
        (["x.json", "--name", "a"], "--name goes with --run-file"),
        (["x.json", "--run-file", "y.csv"], "neither a record"),
        (["--run-file", "y.csv", "--name", "a"], "needs --dataset, --protocol"),
        (["--run-file", "y.csv", *LISTS[:-1], "../a"], "must be made of"),
    ],
)
def test_words_that_do_not_go_together(words, told, capsys):
    code, _, err = submit(capsys, *words)
    assert code == 2
    assert told in err


# lists of other systems


def lists_of_markov(k: int = 50) -> pa.Table:
    """What Markov recommends, with scores that never tie: by place."""
    model = Markov(100)
    model.solve(SPLIT.train)
    history = np.asarray(SPLIT.test.history.padded(np.arange(200)))
    import torch

    items = model.eval().recommend(torch.from_numpy(history), k).items.numpy()
    users = np.repeat(SPLIT.test.users.astype(str), k)
    return pa.table(
        {"user_id": users, "item_id": items.ravel().astype(str), "score": np.tile(np.arange(k, 0, -1.0), 200)}
    )


@pytest.fixture(scope="module")
def table():
    """Lists of 50 items for all 200 users."""
    return lists_of_markov()


@pytest.mark.parametrize("form", ["csv", "tsv.gz", "parquet"])
def test_lists_of_another_system_get_the_numbers_of_the_kernel(form, table, tmp_path, capsys):
    path = tmp_path / f"run.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "csv":
        arrow_csv.write_csv(table, path)
    else:
        rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        lines = ["\t".join(table.column_names), *("\t".join(map(str, row)) for row in rows)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    code, out, err = submit(capsys, "--run-file", path, *LISTS, "-o", tmp_path / "b")
    assert code == 0, err
    bundle = read_bundle(tmp_path / "b")
    model = Markov(100)
    model.solve(SPLIT.train)
    counts = np.bincount(SPLIT.train.values, minlength=101)[1:]
    expected = evaluate(model.eval(), SPLIT.test, (5, 10, 20, 50), item_counts=counts)
    assert bundle.result.beyond_accuracy == pytest.approx(expected.beyond_accuracy)
    target = SPLIT.test.target.values
    hits = (expected.top_items == target[:, None]).argmax(1) + 1
    there = (expected.top_items == target[:, None]).any(1)
    assert bundle.result.metrics["recall@10"] == pytest.approx((there & (hits <= 10)).mean())
    assert bundle.result.metrics["mrr"] == pytest.approx(np.where(there, 1 / hits, 0).mean())
    assert np.isinf(bundle.ranks.draws[0].values[~there]).all()
    assert out.startswith(f"ours on synthetic, loo-full-masked@1: ndcg@10 {bundle.result.metrics['ndcg@10']:.4f}\n")
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert main(["verify", str(tmp_path / "b"), "--level", "2"]) == 2


def test_what_predict_writes_can_be_submitted(bench, tmp_path, capsys):
    words = ["--data.dataset=synthetic", "--data.protocol=loo-full-masked@1"]
    run = build(["model/popularity"], words, tmp_path / "run")
    fit(run)
    lists = tmp_path / "lists.parquet"
    predict(run, lists, k=50)
    assert submit(capsys, "--run-file", lists, *LISTS, "-o", tmp_path / "b")[0] == 0
    ours, bench_row = read_bundle(tmp_path / "b").result, read_result(record_of(bench, "popularity"))
    assert ours.beyond_accuracy == pytest.approx(bench_row.beyond_accuracy)


def test_what_is_missing_counts_as_misses_and_is_told(table, tmp_path, capsys):
    rows = table.to_pylist()
    kept = [row for number, row in enumerate(rows) if number >= 100 and number % 50 < 20]
    pq.write_table(pa.Table.from_pylist(kept), tmp_path / "run.parquet")
    code, out, _ = submit(capsys, "--run-file", tmp_path / "run.parquet", *LISTS, "-o", tmp_path / "b")
    assert code == 0
    assert "2 of 200 test users have no list and 198 have fewer than 50 items: what is missing counts as misses" in out
    metrics = read_bundle(tmp_path / "b").result.metrics
    assert metrics["recall@20"] == metrics["recall@50"] > 0
    items = np.array([[int(row["item_id"]) for row in rows]]).reshape(200, 50)[2:, :20]
    assert metrics["recall@20"] == pytest.approx((items == SPLIT.test.target.values[2:, None]).any(1).sum() / 200)
    assert main(["verify", str(tmp_path / "b")]) == 0


def test_equal_scores_share_their_places(tmp_path, capsys):
    """A system that says nothing of the order of its ten items gets their mean rank, 5.5."""
    item = SPLIT.test.target.values
    free = [np.setdiff1d(np.arange(1, 101), [*SPLIT.test.seen[u], item[u]])[:9] for u in range(200)]
    items = np.concatenate([[item[u], *free[u]] for u in range(200)]).astype(str)
    users = np.repeat(SPLIT.test.users.astype(str), 10)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "score": np.ones(2000)}), tmp_path / "run.parquet")
    assert submit(capsys, "--run-file", tmp_path / "run.parquet", *LISTS, "-o", tmp_path / "b")[0] == 0
    result = read_bundle(tmp_path / "b").result
    assert result.metrics["mrr"] == pytest.approx(1 / 5.5)
    assert result.metrics["recall@5"] == 0
    assert (result.bounds.pessimistic, result.bounds.optimistic) == pytest.approx((1 / np.log2(11), 1))


FIRST, SEEN = SPLIT.test.users[0], str(SPLIT.test.seen[0][0])


@pytest.mark.parametrize(
    ("line", "change", "told"),
    [
        (2, ("0", None, None), "line 2: user_id '0' is no test user of synthetic"),
        (3, (None, "item", None), "line 3: item_id 'item' is no item of synthetic"),
        (4, (None, None, "nan"), "line 4: score 'nan' is no finite number"),
        (4, (None, None, "1e999"), "line 4: score '1e999' is no finite number"),
        (4, (None, None, ""), "line 4: score '' is no finite number"),
        (5, (None, None, "99"), "line 5: score 99 is above the one before it (48)"),
        (6, (None, SEEN, None), f"line 6: item_id '{SEEN}' is one that the protocol masks for this user"),
        (7, (None, "same", None), "comes twice in one list"),
        (60, (FIRST, None, None), f"line 60: user_id '{FIRST}' comes a second time"),
    ],
)
def test_what_cannot_be_counted_is_named_with_its_line(line, change, told, table, tmp_path, capsys):
    lines = ["user_id,item_id,score", *(",".join(map(str, row.values())) for row in table.to_pylist())]
    cells = lines[line - 1].split(",")
    before = lines[line - 2].split(",")
    new = [before[1] if value == "same" else value for value in change]
    lines[line - 1] = ",".join(old if value is None else str(value) for old, value in zip(cells, new, strict=True))
    (tmp_path / "run.csv").write_text("\n".join(lines))
    code, _, err = submit(capsys, "--run-file", tmp_path / "run.csv", *LISTS, "-o", tmp_path / "b")
    assert code == 2
    assert told in err
    assert not (tmp_path / "b").exists()


def test_lists_with_a_row_that_cannot_be_read_are_refused(table, tmp_path, capsys):
    lines = ["user_id,item_id,score", *(",".join(map(str, row.values())) for row in table.to_pylist())]
    lines[41] = "1,2"
    (tmp_path / "run.csv").write_text("\n".join(lines))
    code, _, err = submit(capsys, "--run-file", tmp_path / "run.csv", *LISTS, "-o", tmp_path / "b")
    assert code == 2
    assert "run.csv: 1 row: not the 3 cells of the others, first in line 42 ('1,2')" in err
    assert not (tmp_path / "b").exists()


def test_many_faults_are_three_lines(table, tmp_path, capsys):
    changed = table.set_column(1, "item_id", pa.array(["x"] * len(table))).set_column(
        2, "score", pa.array(["y"] * len(table))
    )
    changed = changed.set_column(0, "user_id", pa.array(["z"] * len(table)))
    pq.write_table(changed, tmp_path / "run.parquet")
    code, _, err = submit(capsys, "--run-file", tmp_path / "run.parquet", *LISTS, "-o", tmp_path / "b")
    assert code == 2
    assert len(err.splitlines()) == 3
    assert "run.parquet, row 1: user_id 'z' is no test user of synthetic (also 2, 3 and 9997 more)" in err


def test_columns_that_are_missing_are_named(table, tmp_path, capsys):
    pq.write_table(table.rename_columns(["user", "item_id", "score"]), tmp_path / "run.parquet")
    code, _, err = submit(capsys, "--run-file", tmp_path / "run.parquet", *LISTS)
    assert (code, "no column 'user_id'; its columns are user, item_id, score" in err) == (2, True)


def test_cases_are_numbered_where_users_have_several():
    cases = Cases(Ragged.empty(2), Ragged.empty(2), Ragged.empty(2), np.array([7, 8]), np.array(["a", "a"]))
    ids, words = ids_of(cases)
    assert ids.tolist() == ["0", "1"]
    assert words == "number of a test case"


def test_the_record_of_lists_is_sealed(table, tmp_path, capsys):
    pq.write_table(table, tmp_path / "run.parquet")
    assert submit(capsys, "--run-file", tmp_path / "run.parquet", *LISTS, "-o", tmp_path / "b")[0] == 0
    record = json.loads((tmp_path / "b" / "result.json").read_text())
    assert record["system"] == "ours"
    (tmp_path / "b" / "result.json").write_text(json.dumps({**record, "system": "theirs"}))
    assert main(["verify", str(tmp_path / "b")]) == 3
