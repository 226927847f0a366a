"""Propagation against the normalised adjacency matrix, written out."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn.bipartite_graph import BipartiteGraph

USERS, ITEMS = 5, 7


@pytest.fixture
def edges():
    """Shuffled, with user 3 and item 6 without any."""
    edges = [(0, 1), (0, 2), (0, 7), (1, 2), (2, 2), (2, 3), (2, 5), (4, 4), (4, 1)]
    order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(1))
    return torch.tensor(edges)[order].T


@pytest.fixture
def graph(edges):
    graph = BipartiteGraph(ITEMS)
    graph.fit(*edges, USERS)
    return graph


@pytest.fixture
def matrix(edges):
    """D^-1/2 A D^-1/2."""
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    for user, item in edges.T.tolist():
        adjacency[user, USERS + item - 1] = adjacency[USERS + item - 1, user] = 1
    root = adjacency.sum(1).clamp(min=1).sqrt()
    return adjacency / root / root[:, None]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_layers_their_mean_and_its_gradient(graph, matrix, num_layers):
    table = torch.randn(USERS + ITEMS, 4, requires_grad=True)
    powers = [torch.linalg.matrix_power(matrix, k) @ table for k in range(num_layers + 1)]
    expected, slope = sum(powers) / (num_layers + 1), torch.randn(USERS + ITEMS, 4)
    got = graph.mean_of_layers(table, num_layers)
    torch.testing.assert_close(got, expected)
    (wanted,) = torch.autograd.grad(expected, table, slope)
    torch.testing.assert_close(torch.autograd.grad(got, table, slope)[0], wanted)
    for layer, power in zip(graph.layers(table.detach(), num_layers), powers, strict=True):
        torch.testing.assert_close(layer * graph.degrees.sqrt(), power)


def test_a_state_carries_the_graph(graph):
    fresh = BipartiteGraph(ITEMS)
    assert fresh.mean_of_layers(torch.ones(ITEMS, 2), 3).eq(0.25).all(), "nobody has neighbours"
    fresh.load_state_dict(graph.state_dict())
    table = torch.randn(USERS + ITEMS, 2)
    assert torch.equal(fresh.mean_of_layers(table, 2), graph.mean_of_layers(table, 2))
