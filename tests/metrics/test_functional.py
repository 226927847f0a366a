"""The ranking kernel against slow loops, torchmetrics, the golden arrays and what must hold for any scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from diffrec.errors import DiffrecError
from diffrec.metrics import functional as F

REFERENCES = {
    "recall": retrieval_recall,
    "hit_rate": retrieval_hit_rate,
    "ndcg": retrieval_normalized_dcg,
    "mrr": retrieval_reciprocal_rank,
}


def slow_ranks(scores: list[float], truth: list[int], excluded: list[int]) -> dict[int, tuple[float, float, float]]:
    """item -> (mean, optimistic, pessimistic), one candidate at a time."""
    candidates = [item for item in range(1, len(scores) + 1) if item not in excluded]
    ranks = {}
    for item in set(truth) - {0}:
        if item not in candidates:
            ranks[item] = (math.inf,) * 3
            continue
        greater = sum(scores[other - 1] > scores[item - 1] for other in candidates)
        equal = sum(scores[other - 1] == scores[item - 1] for other in candidates if other != item)
        ranks[item] = (1 + greater + equal / 2, 1.0 + greater, 1.0 + greater + equal)
    return ranks


def slow_metrics(ranks: list[float], k: int) -> dict[str, float]:
    if not ranks:
        return {f"{name}@{k}": math.nan for name in ("recall", "recall_capped", "hit_rate", "ndcg", "mrr")}
    hits = [rank for rank in ranks if rank <= k]
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(ranks), k) + 1))
    return {
        f"recall@{k}": len(hits) / len(ranks),
        f"recall_capped@{k}": len(hits) / min(len(ranks), k),
        f"hit_rate@{k}": float(len(hits) > 0),
        f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in hits) / ideal,
        f"mrr@{k}": 1 / min(hits) if hits else 0.0,
    }


def random_cases(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight rows of scores with and without ties, 0 to 14 targets in a row, exclusions that may hit a target."""
    rows, items = 8, rng.integers(1, 30)
    values = int(rng.choice([1, 2, 5, 1000]))
    scores = rng.integers(-values, values, (rows, items)) / 7 if rng.random() < 0.7 else rng.normal(size=(rows, items))
    target = np.zeros((rows, rng.integers(0, 15)), dtype=np.int64)
    for row in target:
        row[: rng.integers(0, len(row) + 1)] = 1
    target *= rng.integers(1, items + 1, target.shape)
    excluded = rng.integers(0, items + 1, (rows, rng.integers(0, 8)))
    dtype = rng.choice(["float32", "float64"])
    return torch.from_numpy(scores.astype(dtype)), torch.from_numpy(target), torch.from_numpy(excluded)


def test_two_thousand_random_cases_match_slow_loops():
    rng = np.random.default_rng(0)
    seen = {"repeat": 0, "empty": 0, "k > N": 0, "excluded target": 0, "tie": 0, "many": 0}
    for _ in range(250):
        scores, target, excluded = random_cases(rng)
        k = int(rng.integers(1, 40))
        ranks = F.target_ranks(scores, target, excluded)
        values = F.metrics_from_ranks(ranks.mean, (k,))
        for row in range(len(scores)):
            truth = target[row].tolist()
            expected = slow_ranks(scores[row].tolist(), truth, excluded[row].tolist())
            for slot, item in enumerate(truth):
                got = [float(x[row, slot]) for x in (ranks.mean, ranks.optimistic, ranks.pessimistic)]
                if item == 0 or item in truth[:slot]:
                    assert all(map(math.isnan, got))
                else:
                    assert got == list(expected[item])
            mean_ranks = [mean for mean, _, _ in expected.values()]
            best = min(mean_ranks, default=math.nan)
            for name, value in {**slow_metrics(mean_ranks, k), "mrr": 1 / best}.items():
                assert float(values[name][row]) == pytest.approx(value, abs=1e-12, nan_ok=True), name
            seen["repeat"] += len(expected) < sum(item > 0 for item in truth)
            seen["empty"] += not expected
            seen["k > N"] += k > scores.shape[1]
            seen["excluded target"] += math.inf in mean_ranks
            seen["tie"] += any(low < high < math.inf for _, low, high in expected.values())
            seen["many"] += len(truth) > F._FEW_TARGETS
    assert min(seen.values()) > 50, seen


@contextmanager
def double_precision() -> Iterator[None]:
    """torchmetrics asks for float32 by name, which stands for float64 in here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch, "float32", torch.float64), patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


def test_a_thousand_random_cases_match_torchmetrics():
    """Without ties (torchmetrics averages the gains of a tie, not its places) and with a target in every row.

    It knows no exclusion: excluded items, which may be targets, get the last places, and no cutoff reaches them.
    It finds nothing whose score is not positive, so every score is.
    """
    rng = np.random.default_rng(1)
    seen = {"several": 0, "repeat": 0, "excluded target": 0, "k > N": 0, "missed": 0}
    for _ in range(150):
        items = int(rng.integers(8, 40))
        numbers = torch.arange(1, items + 1)
        scores = torch.from_numpy(rng.permuted(np.tile(np.arange(1.0, items + 1), (8, 1)), axis=1))
        target = torch.from_numpy(rng.integers(0, items + 1, (8, rng.integers(1, 15))))
        target[:, 0] = torch.from_numpy(rng.integers(1, items + 1, 8))
        excluded = torch.from_numpy(rng.integers(1, items + 1, (8, rng.choice([0, 3, 6]))))
        k = int(rng.integers(1, items - 5 if excluded.shape[1] else 2 * items))
        values = F.metrics_from_ranks(F.target_ranks(scores, target, excluded).mean, (k,))
        for row in range(8):
            relevant, hidden = torch.isin(numbers, target[row]), torch.isin(numbers, excluded[row])
            shown = torch.where(hidden, scores[row] / 1000, scores[row])
            with double_precision():
                expected = {name: float(reference(shown, relevant, top_k=k)) for name, reference in REFERENCES.items()}
            for name, value in expected.items():
                assert float(values[f"{name}@{k}"][row]) == pytest.approx(value, abs=1e-9), name
            seen["several"] += int(relevant.sum()) > 1
            seen["repeat"] += int(relevant.sum()) < int((target[row] > 0).sum())
            seen["excluded target"] += bool((relevant & hidden).any())
            seen["k > N"] += k > items
            seen["missed"] += expected["hit_rate"] == 0
    assert min(seen.values()) > 50, seen


def test_many_rows_are_cut_into_parts(monkeypatch):
    scores, target = torch.randn(50, 11).round(decimals=1), torch.randint(0, 12, (50, 9))
    whole = F.target_ranks(scores, target)
    monkeypatch.setattr(F, "_SCORES_AT_ONCE", 33)
    assert torch.equal(F.target_ranks(scores, target).mean.nan_to_num(-1), whole.mean.nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("targets", [2, 30])
def test_short_floats_are_compared_as_they_are(dtype, targets):
    scores = torch.randn(6, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = torch.arange(1, targets + 1).repeat(6, 1)
    assert torch.equal(F.target_ranks(scores, target).mean, F.target_ranks(scores.double(), target).mean)
    assert (F.target_ranks(scores, target).mean % 1 == 0.5).any()


@pytest.mark.parametrize("name", ["multi", "multi_ties", "single_ties", "single_const"])
def test_golden_closed_forms(golden, name):
    arrays = {key.removeprefix(f"metric.{name}."): x for key, x in golden("closed_forms").items() if f".{name}." in key}
    items = torch.arange(1, arrays["scores"].shape[1] + 1)
    ranks = F.target_ranks(arrays["scores"], arrays["targets"] + 1, arrays["excluded"] * items).mean
    torch.testing.assert_close(ranks.masked_fill(ranks.isinf(), -1), arrays["ranks"], rtol=0, atol=0, equal_nan=True)
    values = F.metrics_from_ranks(ranks, arrays["ks"].tolist())
    names = {"recall": "recall_T", "recall_capped": "recall_min", "ndcg": "ndcg", "mrr": "mrr_at_K"}
    for ours, theirs in names.items():
        got = torch.stack([values[f"{ours}@{k}"] for k in arrays["ks"].tolist()], dim=1)
        torch.testing.assert_close(got, arrays[theirs], rtol=0, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(got.nanmean(0), arrays[f"{theirs}.mean"], rtol=0, atol=1e-12)
        torch.testing.assert_close(got.nan_to_num(0).mean(0), arrays[f"{theirs}.mean_all"], rtol=0, atol=1e-12)
    torch.testing.assert_close(values["mrr"], arrays["mrr"], rtol=0, atol=1e-12, equal_nan=True)


def test_golden_expectations_lie_between_the_bounds(golden):
    """What ties broken at random are worth on average."""
    prefix = "metric.single_ties."
    arrays = {key.removeprefix(prefix): x for key, x in golden("closed_forms").items() if key.startswith(prefix)}
    excluded = arrays["excluded"] * torch.arange(1, arrays["scores"].shape[1] + 1)
    ranks = F.target_ranks(arrays["scores"], arrays["targets"] + 1, excluded)
    for name, metric in (("hit", F.hit_rate), ("ndcg", F.ndcg)):
        expected = arrays[f"expected_{name}"]
        worst, best = (
            torch.stack([metric(x, k).nan_to_num(0) for k in arrays["ks"].tolist()], dim=1)
            for x in (ranks.pessimistic, ranks.optimistic)
        )
        assert (worst <= expected.nan_to_num(0)).all()
        assert (expected.nan_to_num(0) <= best).all()
        assert (worst < best).any()


def test_golden_diffrec_lists(golden):
    arrays = {key.removeprefix("metric."): x for key, x in golden("diffrec").items() if key.startswith("metric.")}
    predicted, target = arrays["predicted"], arrays["targets"] + 1
    num_items = int(max(predicted.max() + 1, target.max()))
    places = torch.arange(predicted.shape[1], 0, -1, dtype=torch.float64).expand(predicted.shape)
    scores = torch.zeros(len(predicted), num_items, dtype=torch.float64).scatter(1, predicted, places)
    values = F.metrics_from_ranks(F.target_ranks(scores, target).optimistic, arrays["ks"].tolist())
    for name in ("recall", "ndcg", "mrr"):
        got = torch.stack([values[f"{name}@{k}"].nan_to_num(0).mean() for k in arrays["ks"].tolist()])
        torch.testing.assert_close(got, arrays[name], rtol=0, atol=1e-12)


def test_golden_dreamrec_hits(golden):
    arrays = golden("dreamrec")
    ranks = F.target_ranks(arrays["metric.scores"], arrays["metric.target"][:, None] + 1).mean
    hits = torch.stack([F.hit_rate(ranks, k).sum() for k in (10, 20, 50)])
    gains = torch.stack([F.ndcg(ranks, k).sum() for k in (10, 20, 50)])
    torch.testing.assert_close(hits, arrays["metric.hits"], rtol=0, atol=0)
    torch.testing.assert_close(gains, arrays["metric.ndcg_sum"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_fail_even_where_they_would_be_hidden(bad):
    scores = torch.zeros(3, 5)
    scores[1, 2] = bad
    assert not F.all_finite(scores)
    with pytest.raises(DiffrecError, match="NaN or infinite"):
        F.target_ranks(scores, torch.ones(3, 1, dtype=torch.int64), torch.full((3, 1), 3))


def test_no_rows_and_no_targets():
    assert F.target_ranks(torch.zeros(0, 5), torch.zeros(0, 2, dtype=torch.int64)).mean.shape == (0, 2)
    ranks = F.target_ranks(torch.zeros(2, 5), torch.zeros(2, 0, dtype=torch.int64)).mean
    assert all(torch.isnan(values).all() for values in F.metrics_from_ranks(ranks, (3,)).values())


def test_hide_leaves_the_input_and_ignores_padding():
    scores = torch.arange(6.0).view(2, 3)
    hidden = F.hide(scores, torch.tensor([[0, 3, 3], [0, 0, 0]]))
    assert hidden.tolist() == [[0.0, 1.0, -math.inf], [3.0, 4.0, 5.0]]
    assert torch.equal(scores, torch.arange(6.0).view(2, 3))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 12))
def test_item_order_does_not_matter(seed, num_items, num_targets):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (3, num_items), generator=generator).float()
    target = torch.randint(0, num_items + 1, (3, num_targets), generator=generator)
    excluded = torch.randint(0, num_items + 1, (3, 3), generator=generator)
    new_column = torch.randperm(num_items, generator=generator)
    new_number = torch.cat([torch.zeros(1, dtype=torch.int64), new_column + 1])
    shuffled = torch.empty_like(scores)
    shuffled[:, new_column] = scores
    before = F.target_ranks(scores, target, excluded)
    after = F.target_ranks(shuffled, new_number[target], new_number[excluded])
    for field in ("mean", "optimistic", "pessimistic"):
        torch.testing.assert_close(getattr(after, field), getattr(before, field), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 10))
def test_bounds_and_range(seed, num_items, k):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (4, num_items), generator=generator).float()
    target = torch.randint(0, num_items + 1, (4, 5), generator=generator)
    ranks = F.target_ranks(scores, target)
    worst, middle, best = (
        torch.stack([*F.metrics_from_ranks(x, (k,)).values()]).nan_to_num(0)
        for x in (ranks.pessimistic, ranks.mean, ranks.optimistic)
    )
    assert (worst >= 0).all()
    assert (worst <= middle).all()
    assert (middle <= best).all()
    assert (best[[F.metric_names((k,)).index(name) for name in (f"recall@{k}", f"hit_rate@{k}", "mrr")]] <= 1).all()


def test_random_scores_hit_by_chance():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(1, 201, (6000, 1), generator=generator)
    ranks = F.target_ranks(torch.rand(6000, 200, generator=generator), target).mean
    for k in (10, 20, 100):
        chance = k / 200
        deviation = math.sqrt(chance * (1 - chance) / 6000)
        assert abs(float(F.recall(ranks, k).mean()) - chance) < 5 * deviation


@pytest.mark.parametrize("targets", [1, 40])
def test_equal_scores_put_everything_in_the_middle(targets):
    target = torch.arange(1, targets + 1).repeat(3, 1)
    ranks = F.target_ranks(torch.full((3, 101), 0.3), target)
    assert (ranks.mean == 51).all()
    assert (ranks.optimistic == 1).all()
    assert (ranks.pessimistic == 101).all()
    masked = F.target_ranks(torch.zeros(3, 101), target, torch.arange(80, 90).repeat(3, 1))
    assert (masked.mean == 46).all()


class Devices(TorchDispatchMode):
    """Notes on which devices `cumsum` runs."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.cumsum.default:
            self.seen.add(args[0].device.type)
        return func(*args, **(kwargs or {}))


def test_nothing_is_summed_up_in_order_on_another_device():
    """CUDA has no deterministic cumsum of floating-point numbers; "meta" stands for it here."""
    with Devices() as devices:
        values = F.metrics_from_ranks(torch.ones(3, 2, dtype=torch.float64, device="meta"), (5, 10))
    assert devices.seen == {"cpu"}
    assert {value.device.type for value in values.values()} == {"meta"}
