"""Results made by hand, and a suite that runs in a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffrec.bench.ranks import UserRanks, to_parquet
from diffrec.bench.result import Bounds, Result, Selection, write_result
from diffrec.data.ragged import Ragged

BASE = Result(
    suite="quick",
    suite_version=1,
    dataset="ml-100k",
    dataset_sha256="ab" * 32,
    split_counts={"users": 943, "test_users": 943},
    protocol="loo-full-masked@1",
    headline="ndcg@10",
    model="popularity",
    role="training-free",
    control_of=None,
    seed=0,
    config={
        "seed_everything": 0,
        "data": {"dataset": "ml-100k", "seed": 0},
        "model": {"class_path": "x", "n": [1, 2.5]},
    },
    config_sha256="c" * 64,
    code_version="0.1.0",
    packages={"torch": "2.13.0"},
    selection=Selection("ndcg@10", 0.0625, 3, None, None),
    metrics={"ndcg@10": 0.05, "recall@10": 0.1, "recall@20": 0.2},
    draw_metrics=({"ndcg@10": 0.05, "recall@10": 0.1, "recall@20": 0.2},),
    ranks_sha256=None,
    weights_sha256="d" * 64,
    deviations=("users are counted, not events",),
    tuning_trials=3,
    reported=(),
    bounds=Bounds(optimistic=0.05, pessimistic=0.05),
    validation={"ndcg@10": 0.0625},
    beyond_accuracy={"coverage@10": 0.25},
    parameters=1682,
    denoiser_calls=1,
    epochs=1,
    train_seconds=0.5,
    evaluate_seconds=1.0,
    ms_per_user={"1": 0.42, "512": 0.01},
    peak_memory_mib=300.0,
    device="cpu",
    processor="a processor",
    threads=2,
)


def make_result(model: str = "popularity", ndcg: float = 0.05, **changes: object) -> Result:
    """A result with NDCG@10 as given, Recall@10 twice and Recall@20 four times that."""
    metrics = {"ndcg@10": ndcg, "recall@10": 2 * ndcg, "recall@20": 4 * ndcg}
    given = {"model": model, "metrics": metrics, "bounds": Bounds(ndcg, ndcg), **changes}
    return replace(BASE, **{"draw_metrics": (given["metrics"],), **given})


def make_ranks(*draws: list[list[float]]) -> UserRanks:
    """Ranks of a few users; one draw in which two users have ranks 1 and 12 unless given."""
    rows = [Ragged.from_rows(draw, dtype=np.float32) for draw in draws or ([[1.0], [12.0]],)]
    return UserRanks(np.arange(len(rows[0])), tuple(rows))


def put(result: Result, folder):
    """Write a result with the ranks of `make_ranks`."""
    return write_result(result, to_parquet(make_ranks()), folder)


def make_board() -> list[Result]:
    """Four baselines, a model and its control with three seeds each."""
    results = [
        make_result("popularity", 0.025),
        make_result("markov", 0.048, parameters=146_432),
        make_result("item-knn", 0.049, parameters=2_829_124, train_seconds=61.2),
        make_result("ease", 0.055, parameters=2_829_124, ms_per_user={"1": 1.256}),
    ]
    for seed, gain in enumerate((-0.001, 0.0, 0.001)):
        slow = {"denoiser_calls": 40, "ms_per_user": {"1": 123.4}, "train_seconds": 200.0, "parameters": 999_600}
        results += [
            make_result("diffrec", 0.054 + gain, role="model", seed=seed, **slow),
            make_result("diffrec-noise-off", 0.053 + 2 * gain, role="control", control_of="diffrec", seed=seed),
        ]
    return results


@pytest.fixture
def result():
    """`result("ease", 0.05, seed=1)`."""
    return make_result


@pytest.fixture
def put_result():
    """`put_result(result, folder)` writes it with the ranks of two users."""
    return put


@pytest.fixture
def ranks():
    """`ranks([[1.0], [2.5]], ...)`: one list of users for each draw."""
    return make_ranks


@pytest.fixture
def board():
    """Results that make one small table."""
    return make_board()


SUITE = """
name: tiny
version: 1
title: Generated data
datasets:
  - {name: synthetic, protocol: loo-full-masked@1}
models:
  - {name: popularity, configs: [model/popularity]}
  - {name: markov, configs: [model/markov], seeds: [0, 1]}
  - {name: item-knn, configs: [model/item-knn]}
  - {name: ease, configs: [model/ease]}
"""


@pytest.fixture(scope="session")
def suite_text():
    """A suite that runs in seconds."""
    return SUITE


@pytest.fixture
def suite_file(tmp_path, suite_text):
    """`suite_file(text)`: the path of a suite; of `suite_text` unless text is given."""

    def write(text: str = suite_text):
        path = tmp_path / "tiny.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
