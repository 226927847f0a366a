"""Accumulated metrics: means over users, whatever the batches, devices and copies."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

from diffrec.errors import DiffrecError
from diffrec.metrics.functional import metrics_from_ranks, target_ranks
from diffrec.metrics.ranking import RankingMetrics


@pytest.fixture
def users():
    """(scores, target, seen) of 30 users, 4 of them without a target."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 51, (30, 3), generator=generator)
    target[::8] = 0
    seen = torch.randint(0, 51, (30, 5), generator=generator)
    return torch.randint(0, 20, (30, 50), generator=generator).float(), target, seen


def accumulated(users, sizes) -> RankingMetrics:
    metric = RankingMetrics(50, (5, 10))
    for part in zip(*(x.split(sizes) for x in users), strict=True):
        metric.update(*part)
    return metric


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(abs(float(first[k]) - float(second[k])) < 1e-12 for k in first)


def test_mean_over_users_with_a_target(users):
    per_user = metrics_from_ranks(target_ranks(*users).mean, (5, 10))
    has_target = (users[1] > 0).any(1)
    assert 0 < int((~has_target).sum()) < 30
    expected = {name: values[has_target].mean() for name, values in per_user.items()}
    assert same(accumulated(users, [30]).compute(), expected)


@pytest.mark.parametrize("sizes", [[1] * 30, [29, 1], [7, 7, 7, 7, 2]])
def test_batches_do_not_matter(users, sizes):
    assert same(accumulated(users, sizes).compute(), accumulated(users, [30]).compute())


def test_processes_are_summed(users):
    one, two = (accumulated(half, [15]) for half in zip(*(x.split(15) for x in users), strict=True))
    one.merge_state(two)
    assert same(one.compute(), accumulated(users, [30]).compute())
    assert {one._reductions[name].__name__ for name in ("total", "users")} == {"dim_zero_sum"}


def test_copies_go_on_and_leave_the_original(users):
    metric = accumulated(users, [30])
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):  # noqa: S301
        twin.update(*users)
        assert same(twin.compute(), metric.compute())
        assert twin.users == 2 * metric.users


@pytest.mark.filterwarnings("ignore:.*before the ``update`` method")
def test_reset_forgets(users):
    metric = accumulated(users, [30])
    metric.reset()
    assert metric.users == 0
    assert metric.compute()["mrr"].isnan()


def test_checkpoints_do_not_hold_it():
    module = torch.nn.Module()
    module.metric = RankingMetrics(50)
    assert not module.state_dict()


def test_half_precision_models_keep_double_sums(users):
    metric = accumulated(users, [30]).half()
    assert metric.total.dtype == torch.float64


def test_double_sums_stay_on_the_cpu_where_the_model_goes_to_mps(users):
    """A stand-in for MPS: it knows no float64."""

    def to_mps(tensor: torch.Tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return SimpleNamespace(device=torch.device("mps"))

    metric = accumulated(users, [30])
    assert metric._apply(to_mps) is metric
    assert (metric.total.device.type, metric.users.device.type, metric.device.type) == ("cpu", "cpu", "cpu")
    assert metric.to("meta").total.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_deterministic_cuda_gives_the_values_of_the_cpu(users):
    torch.use_deterministic_algorithms(True)
    try:
        metric = RankingMetrics(50, (5, 10)).to("cuda")
        metric.update(*(part.cuda() for part in users))
        assert same(metric.compute(), accumulated(users, [30]).compute())
    finally:
        torch.use_deterministic_algorithms(False)


def test_names_and_shapes(users):
    values = accumulated(users, [30]).compute()
    assert list(values) == [
        *(f"{name}@{k}" for k in (5, 10) for name in ("recall", "recall_capped", "hit_rate", "ndcg", "mrr")),
        "mrr",
    ]
    assert all(value.shape == () for value in values.values())


def test_wrong_width_is_refused():
    with pytest.raises(DiffrecError, match="51 items where 50"):
        RankingMetrics(50).update(torch.zeros(1, 51), torch.ones(1, 1, dtype=torch.int64), None)
