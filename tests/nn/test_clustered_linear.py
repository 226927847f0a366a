"""Blocks of one matrix against separate layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from diffrec.nn.clustered_linear import ClusteredLinear

OF_INPUT, OF_OUTPUT = torch.tensor([1, 0, 0, 1, 1]), torch.tensor([0, 1, 1, 0])


def layer() -> ClusteredLinear:
    torch.manual_seed(0)
    made = ClusteredLinear(5, 4, num_clusters=2)
    made.regroup(OF_INPUT, OF_OUTPUT)
    torch.nn.init.normal_(made.bias)
    return made


def test_each_cluster_is_a_layer_of_its_own():
    made, x = layer(), torch.randn(3, 5)
    y = made(x)
    for cluster in (0, 1):
        rows, columns = OF_OUTPUT.eq(cluster), OF_INPUT.eq(cluster)
        expected = linear(x[:, columns], made.weight[rows][:, columns], made.bias[rows])
        torch.testing.assert_close(y[:, rows], expected)


def test_an_optimiser_leaves_what_is_outside_at_0():
    made = layer()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        made(torch.randn(3, 5)).square().sum().backward()
        optimizer.step()
    assert (made.weight[~made.inside()] == 0).all()
    assert (made.weight[made.inside()] != 0).all()


def test_weights_start_by_the_fans_of_their_block():
    torch.manual_seed(0)
    made = ClusteredLinear(1000, 300, num_clusters=2)
    of_input, of_output = torch.arange(1000) // 900, torch.arange(300) // 250
    made.regroup(of_input, of_output)
    for cluster, fans in ((0, 900 + 250), (1, 100 + 50)):
        block = made.weight[of_output == cluster][:, of_input == cluster]
        assert block.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.05)
    assert (made.bias == 0).all()


def test_clusters_are_loaded_with_the_weights():
    made, fresh, x = layer(), ClusteredLinear(5, 4, num_clusters=2), torch.randn(3, 5)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh(x), made(x))
