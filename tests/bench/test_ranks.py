from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec.bench.evaluate import evaluate
from diffrec.bench.ranks import UserRanks, from_parquet, per_user_values, read_ranks, to_parquet
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.errors import IntegrityError

DRAWS = ([[1.0, np.inf], [], [2.5, np.nan, 7.0]], [[3.0, 1.0], [], [0.5 + 40_000, 9.0, 7.0]])


def test_every_kind_of_rank_comes_back(ranks):
    original = ranks(*DRAWS)
    back = from_parquet(to_parquet(original), "here")
    assert np.array_equal(back.users, original.users)
    for mine, theirs in zip(original.draws, back.draws, strict=True):
        assert np.array_equal(mine.values, theirs.values, equal_nan=True)
        assert np.array_equal(mine.offsets, theirs.offsets)
    assert to_parquet(back) == to_parquet(original)


def test_a_metric_of_a_user_is_the_mean_over_draws(ranks):
    values = ranks([[1.0], [], [11.0]], [[2.0], [], [10.0]]).values("ndcg@10")
    assert values[0] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert np.isnan(values[1])
    assert values[2] == pytest.approx(1 / np.log2(11) / 2)


def test_all_metrics_of_an_evaluation_follow_from_its_ranks():
    from diffrec.baselines import Popularity

    split = get_protocol("loo-full-masked@1").apply(load_dataset("synthetic"))
    model = Popularity(100).eval()
    model.solve(split.train)
    evaluation = evaluate(model, split.test, (5, 10))
    stored = from_parquet(to_parquet(UserRanks(split.test.key, (evaluation.ranks,))), "here")
    for name, value in evaluation.metrics.items():
        assert np.nanmean(stored.values(name)) == pytest.approx(value, abs=1e-12)
        assert np.array_equal(per_user_values(stored.draws[0], [name])[name], evaluation.values[name], equal_nan=True)


def test_the_file_is_small():
    """Two bytes a user or less for ranks as models have them."""
    rng = np.random.default_rng(0)
    from diffrec.data.ragged import Ragged

    values = np.exp(rng.uniform(0, np.log(12_000), 20_000)).round().astype(np.float32)
    ranks = UserRanks(np.arange(20_000), (Ragged.from_lengths(values, np.ones(20_000, dtype=np.int64)),))
    assert len(to_parquet(ranks)) < 40_000


def table(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no Parquet file"),
        (b"PAR1" * 20, "is no Parquet file"),
        (table(user=[1, 2]), "its columns are user"),
        (table(user=[1.5], draw0=[[2]]), "its columns are user, draw0"),
        (table(user=[1], draw1=[[2]]), "its columns are user, draw1"),
        (table(user=[1], draw0=[2]), "int64 where lists of uint32 belong"),
        (table(user=[1], draw0=pa.array([None], pa.list_(pa.uint32()))), "where lists of uint32 belong"),
    ],
)
def test_what_is_no_file_of_ranks_is_refused(tmp_path, content, message):
    path = tmp_path / "seed0.ranks.parquet"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{path.name} .*{message}"):
        read_ranks(path, hashlib.sha256(content).hexdigest())
