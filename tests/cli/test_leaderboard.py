from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from diffrec.bench.ranks import UserRanks, to_parquet
from diffrec.bench.result import Bounds, Result, Selection
from diffrec.bench.result import write_result as write_with_ranks
from diffrec.cli.main import main
from diffrec.data.ragged import Ragged
from diffrec.paths import resource_dir

EXPECTED = """\
quick · ml-100k · loo-full-masked@1
model             seeds      NDCG@10    Recall@10 calls ms/user params train
diffrec               2 .0600 ±.0141 .1200 ±.0283    40    12.3  2.27M  61 s
└ noise-off           1        .0560        .1120     1    0.42  1.68k 0.5 s
"""


def make(model: str, ndcg: float, **changes: object) -> Result:
    metrics = {"ndcg@10": ndcg, "recall@10": 2 * ndcg}
    base = Result(
        suite="quick", suite_version=1, dataset="ml-100k", dataset_sha256="ab" * 32, split_counts={"test_users": 943},
        protocol="loo-full-masked@1", headline="ndcg@10", model=model, role="training-free", control_of=None, seed=0,
        config={}, config_sha256="c" * 64, code_version="0.1.0", packages={},
        selection=Selection("ndcg@10", 0.1, 1, None, None),
        metrics=metrics, draw_metrics=(metrics,), bounds=Bounds(ndcg, ndcg), ranks_sha256=None, weights_sha256=None,
        deviations=(), tuning_trials=0, reported=(), validation=metrics, beyond_accuracy={}, parameters=1682,
        denoiser_calls=1, epochs=1, train_seconds=0.5, evaluate_seconds=1.0, ms_per_user={"1": 0.42},
        peak_memory_mib=300.0, device="cpu", processor="", threads=2,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def write_result(result: Result, folder) -> None:
    """With the rank of one user."""
    ranks = Ragged.from_rows([[3.0]], dtype=np.float32)
    write_with_ranks(result, to_parquet(UserRanks(np.array([1]), (ranks,))), folder)


@pytest.fixture
def results(tmp_path):
    """A folder with one full table."""
    slow = {
        "role": "model",
        "denoiser_calls": 40,
        "ms_per_user": {"1": 12.3},
        "parameters": 2_270_000,
        "train_seconds": 61.0,
    }
    for result in [
        make("popularity", 0.025), make("markov", 0.048), make("item-knn", 0.049), make("ease", 0.055),
        make("sequential-rules", 0.01), make("sasrec", 0.02, role="model"),
        make("diffrec", 0.05, **slow), make("diffrec", 0.07, seed=1, **slow),
        make("diffrec-noise-off", 0.056, role="control", control_of="diffrec"),
    ]:  # fmt: skip
        write_result(result, tmp_path / "results")
    return tmp_path / "results"


def test_the_terminal_table(results, capsys):
    assert main(["leaderboard", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["diffrec", "└", "ease°", "item-knn°", "markov°", "popularity°"]
    assert [line.rstrip() for line in lines[:4]] == EXPECTED.splitlines()
    assert "943 test users, sorted for ndcg@10; data sha256 abababababab" in " ".join(lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out


def test_long_names_still_fit_80_columns(results, capsys):
    write_result(make("a-model-with-a-name-that-is-much-too-long.for-any-table", 0.4, role="model"), results)
    assert main(["leaderboard", "--results", str(results)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_more_columns_than_80_take_stand_in_blocks_below_one_another(results, capsys):
    for seed, change in ((1, 0.001), (2, 0.002)):
        write_result(make("sequential-rules", 0.01 + change, seed=seed), results)
    assert main(["leaderboard", "--results", str(results), "--metric", *["recall@10", "ndcg@10"] * 3]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if len(line.rstrip()) <= 80]
    heads = [line for line in lines if line[:1] == ["model"]]
    assert heads == [["model", "seeds", *["Recall@10", "NDCG@10"] * 2], ["model", "Recall@10", "NDCG@10"],
                     ["model", "calls", "ms/user", "params", "train"]]  # fmt: skip
    assert [line for line in lines if line[:1] == ["sequential-rules°"]] == [
        ["sequential-rules°", "3", *[".0220", "±.0020", ".0110", "±.0010"] * 2],
        ["sequential-rules°", ".0220", "±.0020", ".0110", "±.0010"],
        ["sequential-rules°", "1", "0.42", "1.68k", "0.5", "s"],
    ]


def test_formats_for_programs(results, capsys):
    texts = {}
    for form in ("csv", "json", "markdown"):
        assert main(["leaderboard", "--results", str(results), "--format", form, "--sort", "model"]) == 0
        texts[form] = capsys.readouterr().out
    order = ["diffrec", "diffrec-noise-off", "ease", "item-knn", "markov", "popularity", "sasrec", "sequential-rules"]
    assert [row["model"] for row in csv.DictReader(io.StringIO(texts["csv"]))] == order
    assert [row["model"] for row in json.loads(texts["json"])[0]["rows"]] == order
    assert "| diffrec | 2 | .0600 ±.0141 | .1200 ±.0283 | 40 | 12.3 | 2.27M | 61 s |" in texts["markdown"]


def test_write_makes_the_file_beside_the_results(results, capsys):
    assert main(["leaderboard", "--results", str(results), "--write"]) == 0
    path = results.parent / "LEADERBOARD.md"
    assert capsys.readouterr().out == f"{path}\n"
    first = path.read_bytes()
    assert b"## quick" in first
    assert main(["leaderboard", "--results", str(results), "--write"]) == 0
    assert path.read_bytes() == first
    assert main(["leaderboard", "--results", str(results), "--write", "--suite", "quick"]) == 2


def test_numbers_are_not_cut_in_a_narrow_terminal(results, capsys, monkeypatch):
    assert main(["leaderboard", "--results", str(results)]) == 0
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["leaderboard", "--results", str(results)]) == 0
    assert capsys.readouterr().out == wide


def test_only_what_is_asked_for_is_read(results, capsys):
    write_result(make("sasrec", 0.1, suite="beauty", role="model"), results)
    (damaged,) = (results / "beauty").glob("*/*/*.json")
    damaged.write_text("{}")
    assert main(["leaderboard", "--results", str(results), "--suite", "quick"]) == 0
    assert main(["leaderboard", "--results", str(results), "--suite", "beauty"]) == 3
    capsys.readouterr()
    assert main(["leaderboard", "--results", str(results), "--suite", "quick", "--dataset", "ml-1m"]) == 4
    told = f"error: no results of dataset 'ml-1m' in {results}/quick; there are: ml-100k; did you mean 'ml-100k'?\n"
    assert capsys.readouterr().err == told


def test_what_a_table_lacks_is_shown_and_not_written(results, capsys):
    write_result(make("sasrec", 0.1, suite="beauty", role="model"), results)
    assert main(["leaderboard", "--results", str(results), "--suite", "beauty"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "lacks: popularity; markov; sequential-rules; item-knn; ease" in lines
    assert main(["leaderboard", "--results", str(results), "--suite", "quick"]) == 0
    assert "lacks" not in capsys.readouterr().out
    assert main(["leaderboard", "--results", str(results), "--write"]) == 2
    assert capsys.readouterr().err == (
        "error: beauty · ml-100k · loo-full-masked@1 lacks popularity, markov, sequential-rules, item-knn, ease: run "
        "them, or state 'without: {popularity: reason}' in benchmarks/suites/beauty.yaml\n"
    )
    assert not (results.parent / "LEADERBOARD.md").exists()


def test_a_table_is_written_where_its_suite_says_why_rows_are_missing(results, capsys, monkeypatch):
    suites = results.parent / "suites"
    suites.mkdir()
    text = "name: quick\nversion: 1\ntitle: t\nwithout: {sasrec: needs a day}\ndatasets:\n"
    text += "  - {name: ml-100k, protocol: loo-full-masked@1}\nmodels:\n  - {name: ease, configs: [model/ease]}\n"
    (suites / "quick.yaml").write_text(text)
    monkeypatch.setattr("diffrec.bench.leaderboard.resource_dir", lambda name: results.parent)
    (results / "quick/ml-100k/sasrec/seed0.json").unlink()
    assert main(["leaderboard", "--results", str(results), "--write"]) == 0
    assert "lacks: sasrec (needs a day)" in (results.parent / "LEADERBOARD.md").read_text()


def test_results_of_unknown_code_are_shown_with_a_note_and_not_written(results, capsys):
    write_result(make("ease", 0.055, code_version="0.1.0+g0123456789ab.dirty"), results)
    write_result(make("diffrec", 0.05, role="model", code_version="0.1.0+unknown"), results)
    assert main(["leaderboard", "--results", str(results), "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("suite,dataset")
    assert err == (
        "note: rows not compared yet, 'diffrec bench compare' does: quick · ml-100k · loo-full-masked@1\n"
        "note: 2 of 9 results rest on code that was not committed or is unknown\n"
    )
    assert main(["leaderboard", "--results", str(results), "--write"]) == 2
    assert capsys.readouterr().err == (
        "error: not published, for the code was not committed or is unknown: quick/ml-100k/diffrec/seed0.json, "
        "quick/ml-100k/ease/seed0.json; commit, then 'diffrec bench run quick --only diffrec ease --seeds 0 --force "
        f"--results {results}'\n"
    )
    assert not (results.parent / "LEADERBOARD.md").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--suite", "quik"], 4, "did you mean 'quick'?"),
        (["--dataset", "ml100k"], 4, "did you mean 'ml-100k'?"),
        (["--sort", "ndgc@10"], 4, "did you mean 'ndcg@10'?"),
        (["--format", "jsn"], 2, "did you mean 'json'?"),
    ],
)
def test_mistakes_name_the_near_match(results, words, code, message, capsys):
    assert main(["leaderboard", "--results", str(results), *words]) == code
    assert message in capsys.readouterr().err


def test_rows_against_one_of_them(results, tmp_path, capsys):
    """ease finds the item of every user first, popularity second; diffrec as popularity with one seed, as ease else."""
    folder = tmp_path / "paired"
    for model, seed, rank in (("ease", 0, 1.0), ("popularity", 0, 2.0), ("diffrec", 0, 2.0), ("diffrec", 1, 1.0)):
        ranks = Ragged.from_rows([[rank]] * 40, dtype=np.float32)
        role = "model" if model == "diffrec" else "training-free"
        write_with_ranks(
            make(model, 0.05, seed=seed, role=role), to_parquet(UserRanks(np.arange(40), (ranks,))), folder
        )
    words = ["leaderboard", "--results", str(folder), "--against", "popularity"]
    assert main([*words, "--format", "json"]) == 0
    second = 1 / np.log2(3)
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["ease", "diffrec"]
    for row, value in zip(rows, (1.0, (1 + second) / 2), strict=True):
        assert row["value"] == pytest.approx(value)
        assert [row[key] for key in ("low", "difference", "high")] == pytest.approx(3 * [value - second])
        assert row["p_holm"] < 0.05
        assert row["detectable"] == 0
    assert main([*words, "--over-seeds", "--format", "json"]) == 0
    [_, two_seeds] = json.loads(capsys.readouterr().out)
    assert [two_seeds[key] for key in ("low", "high")] == pytest.approx([0, 1 - second])
    assert two_seeds["p_holm"] > 0.9
    assert (row["over_seeds"], two_seeds["over_seeds"]) == (False, True)
    assert main([*words, "--over-seeds", "--format", "markdown"]) == 0
    assert "NDCG@10 minus that of popularity, over seeds**" in capsys.readouterr().out
    write_with_ranks(make("sasrec", 0.05, role="model"), to_parquet(UserRanks(np.arange(40), (ranks,))), folder)
    assert main([*words, "--over-seeds"]) == 0
    assert "One seed, which tells nothing of others: sasrec." in capsys.readouterr().out
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "NDCG@10 minus that of popularity" in text
    assert "ease 1.0000 +.3691 +.3691 to +.3691 < .001 .0000" in " ".join(text.split())
    assert main([*words, "--format", "csv", "--metric", "recall@10"]) == 0
    equal = [row for row in csv.DictReader(io.StringIO(capsys.readouterr().out)) if row["model"] == "ease"]
    assert [(row["metric"], float(row["difference"]), float(row["p_holm"])) for row in equal] == [("recall@10", 0, 1)]
    assert main([*words, "--format", "markdown"]) == 0
    assert "| diffrec | .8155 | +.1845 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--against", "eas"], 4, "did you mean 'ease'?"),
        (["--against", "ease", "--metric", "ndgc@10"], 4, "did you mean 'ndcg@10'?"),
        (["--against", "ease", "--sort", "model"], 2, "leave out --sort"),
        (["--against", "ease", "--write"], 2, "takes no option but --results"),
        (["--over-seeds"], 2, "give --against MODEL, too"),
    ],
)
def test_mistakes_with_against(results, words, code, message, capsys):
    assert main(["leaderboard", "--results", str(results), *words]) == code
    assert message in capsys.readouterr().err


def test_no_results_and_damaged_results(results, tmp_path, capsys):
    assert main(["leaderboard", "--results", str(tmp_path / "none")]) == 4
    assert "'diffrec bench run quick' makes some" in capsys.readouterr().err
    path = results / "quick/ml-100k/ease/seed0.json"
    path.write_text(path.read_text().replace("943", "944"))
    assert main(["leaderboard", "--results", str(results)]) == 3
    assert f"{path} was changed" in capsys.readouterr().err


def test_results_of_this_folder_come_first(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "benchmarks").mkdir()
    results.rename(tmp_path / "benchmarks" / "results")
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard"]) == 0
    assert "└ noise-off" in capsys.readouterr().out


WITHOUT_TORCH = (
    "import sys; from diffrec.cli.main import main; code = main(sys.argv[1:]);"
    "sys.exit(code or bool({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
)


def test_the_shipped_results_are_shown_without_torch_or_numpy():
    """Some of their rows have seeds from before an argument was added, which have to be told apart from others."""
    words = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        "leaderboard",
        "--results",
        str(resource_dir("benchmarks") / "results"),
    ]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_starts_at_once_and_without_torch_or_numpy(results):
    environment = {name: value for name, value in os.environ.items() if name != "DIFFREC_DEBUG"}
    seconds = []
    for _ in range(3):
        start = sum(os.times()[2:4])  # of children, whatever else the machine does
        words = [sys.executable, "-c", WITHOUT_TORCH, "leaderboard", "--results", str(results)]
        done = subprocess.run(words, capture_output=True, env=environment, check=False)
        seconds.append(sum(os.times()[2:4]) - start)
        assert done.returncode == 0, done.stderr
    assert min(seconds) <= 0.5


def test_pictures_are_written_on_request(results, tmp_path, capsys):
    assert (
        main(["leaderboard", "--results", str(results), "--plots", str(tmp_path / "plots"), "--metric", "recall@10"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "Recall@10" in out
    assert "NDCG@10" not in out
    named = {line.rpartition("/")[2] for line in err.splitlines() if line.startswith(str(tmp_path))}
    assert named == {path.name for path in (tmp_path / "plots").iterdir()}
    assert named == {f"quick.ml-100k.{kind}.{end}" for kind in ("accuracy", "cost") for end in ("png", "csv")}
    assert main(["leaderboard", "--results", str(results), "--write", "--metric", "mrr"]) == 2
