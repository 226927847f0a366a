"""The graph of items against dense matrices in float64, in both of its forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from diffrec.errors import UsageError
from diffrec.nn import item_graph
from diffrec.nn.item_graph import ItemGraph
from diffrec.nn.singular_vectors import normalised

FORMS = {"dense": 1 << 24, "sparse": 0}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    monkeypatch.setattr(item_graph, "_DENSE_UP_TO", FORMS[request.param])
    return request.param


@pytest.fixture
def seen():
    """30 users, 13 items of which nobody met the last; user 4 met nothing. Counts, not all of them 1."""
    counts = np.random.default_rng(0).poisson(0.4, (30, 13)).astype(np.float32)
    counts[4], counts[:, 12] = 0, 0
    assert (counts > 1).any()
    return sp.csr_array(counts)


def reference(seen, user_power):
    """R~, lambda and all eigenvectors of P, from the definitions."""
    binary = (seen.toarray() > 0).astype(np.float64)
    users, items = binary.sum(1), binary.sum(0)
    links = np.zeros_like(binary)
    for u, i in zip(*binary.nonzero(), strict=True):
        links[u, i] = users[u] ** -user_power * items[i] ** -0.5
    eigenvalues, vectors = np.linalg.eigh(links.T @ links)
    return links, eigenvalues[-1], vectors[:, ::-1]


@pytest.fixture
def x():
    return torch.randn(40, 13, generator=torch.Generator().manual_seed(1))  # more than go into one sparse product


@pytest.mark.parametrize("user_power", [0.5, 0.25])
@pytest.mark.parametrize("rank", [3, 9])  # ARPACK and LAPACK
def test_both_filters_are_those_of_dense_matrices(form, seen, x, user_power, rank):
    links, largest, vectors = reference(seen, user_power)
    graph = ItemGraph(13, user_power, rank)
    graph.fit(seen)
    assert (graph.table.numel() > 0) == (form == "dense") == (graph.values.numel() == 0)
    hop = x.double().numpy() @ links.T @ links / largest
    np.testing.assert_allclose(graph.propagate(x), hop, rtol=1e-5, atol=1e-6)
    smooth = x.double().numpy() @ vectors[:, :rank] @ vectors[:, :rank].T
    np.testing.assert_allclose(graph.low_pass(x), smooth, rtol=1e-5, atol=1e-5)
    assert abs(largest - 1) < 1e-12 if user_power == 0.5 else largest > 1.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_adds_the_rows_of_what_is_filled(seen, x, dtype, monkeypatch):
    """An empty row stays empty; beyond the share, and when used, the product is taken."""
    graph = ItemGraph(13)
    graph.fit(seen)
    few = torch.where(x > 1.5, x, 0).to(dtype)
    assert 0 < few.count_nonzero() < few.numel() / 8
    assert not few.any(1).all()
    product = graph.eval().propagate(few)
    ways = []
    monkeypatch.setattr(item_graph, "wide_linear", lambda *args: ways.append("product") or torch.zeros(40, 13))
    sums = graph.train().propagate(few)
    assert ways == []
    assert sums.dtype == dtype
    torch.testing.assert_close(sums, product, rtol=1e-5, atol=1e-7)
    assert not sums[~few.any(1)].any()
    graph.propagate(x)
    graph.eval().propagate(few)
    assert ways == ["product"] * 2


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_any_device_multiplies_alike(seen, x, dtype, rtol):
    links, x = normalised(seen, 0.5), x.to(dtype)
    parts = (torch.from_numpy(links.indptr), torch.from_numpy(links.indices), torch.from_numpy(links.data).to(dtype))
    np.testing.assert_allclose(item_graph._hop(parts, x), item_graph._hop_on_cpu(parts, x), rtol=rtol, atol=rtol / 10)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(("part", "value"), [(1, 13), (1, -1), (0, 9_999)])
def test_no_device_multiplies_what_points_outside(seen, x, part, value):
    links = normalised(seen, 0.5)
    parts = (torch.from_numpy(links.indptr), torch.from_numpy(links.indices), torch.from_numpy(links.data).float())
    parts[part][5] = value
    with pytest.raises(RuntimeError, match=r"indices|compressed"):
        item_graph._hop(parts, x)


def test_no_more_vectors_than_the_rank(form, seen, x):
    """All of them project onto what the rows of R~ span."""
    graph = ItemGraph(13, rank=13)
    graph.fit(seen)
    links, _, _ = reference(seen, 0.5)
    rank = np.linalg.matrix_rank(links)
    assert graph.vectors.shape == (13, rank)
    assert rank < 13
    expected = x.double().numpy() @ np.linalg.pinv(links) @ links
    np.testing.assert_allclose(graph.low_pass(x), expected, rtol=1e-5, atol=1e-5)


def test_the_same_bytes_on_every_run(seen):
    first, again = (ItemGraph(13, rank=3) for _ in range(2))
    for graph in (first, again):
        np.random.seed(np.random.default_rng().integers(1 << 30))
        graph.fit(seen)
    for name, buffer in first.named_buffers():
        assert torch.equal(buffer, again.get_buffer(name)), name


def test_a_fitted_graph_loads_into_a_new_one(form, seen, x):
    graph, fresh = ItemGraph(13, rank=3), ItemGraph(13, rank=3)
    assert not fresh.propagate(x).any()
    assert not fresh.low_pass(x).any()
    graph.fit(seen)
    fresh.load_state_dict(graph.state_dict())
    assert torch.equal(fresh.propagate(x), graph.propagate(x))
    assert torch.equal(fresh.low_pass(x), graph.low_pass(x))


@pytest.mark.parametrize("form", ["sparse"], indirect=True)
@pytest.mark.parametrize(("name", "value"), [("indices", 13), ("indices", -1), ("indptr", 9_999)])
def test_a_graph_of_a_file_that_points_outside_is_not_multiplied(form, seen, x, name, value):
    graph = ItemGraph(13)
    graph.fit(seen)
    graph.get_buffer(name)[5] = value
    with pytest.raises(ValueError, match=r"ind(ex|ices|ptr)"):
        graph.propagate(x)


def test_what_would_fail_deep_in_scipy_is_named():
    with pytest.raises(UsageError, match="rank must be a whole number from 0, got -1"):
        ItemGraph(13, rank=-1)
