"""The trie and the beams beside dictionaries and an exhaustive search."""

from __future__ import annotations

import pytest
import torch

from diffrec.errors import UsageError
from diffrec.nn.item_codes import ItemCodes, Trie, beam_search

BATCH, SIZE, LEVELS = 3, 5, 3


@pytest.fixture(scope="module")
def codes():
    """60 items on 46 tuples."""
    return torch.randint(0, SIZE, (60, LEVELS), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tables():
    """Log-probabilities of a code behind every prefix, for each of the requests."""
    drawn = torch.Generator().manual_seed(1)
    shapes = [(BATCH, *[SIZE] * (level + 1)) for level in range(LEVELS)]
    return [torch.randn(shape, generator=drawn).log_softmax(-1) for shape in shapes]


def searched(trie, tables, num_beams):
    path = []

    def step(level, last, parents):
        path[:] = [] if level == 0 else [*(part.gather(1, parents) for part in path), last]
        rows = torch.arange(BATCH)[:, None].expand_as(last)
        return tables[level][(rows, *path)]

    return beam_search(trie, num_beams, BATCH, step)


def test_every_prefix_is_a_node_with_its_children(codes):
    trie = Trie.of(codes)
    tuples = [tuple(row) for row in codes.tolist()]

    def walk(node, prefix):
        below = range(int(trie.first_child[node]), int(trie.first_child[node + 1]))
        if len(prefix) == LEVELS:
            assert len(below) == 0
            leaf = node - trie.first_leaf
            of_leaf = (trie.leaf_of_item == leaf).nonzero()[:, 0].tolist()
            assert [i for i, mine in enumerate(tuples) if mine == prefix] == of_leaf
            return 1
        assert len(below) <= trie.widths[len(prefix)]
        found = [int(trie.code[child]) for child in below]
        assert found == sorted({t[len(prefix)] for t in tuples if t[: len(prefix)] == prefix})
        return sum(walk(child, (*prefix, code)) for child, code in zip(below, found, strict=True))

    assert walk(0, ()) == trie.num_leaves == len(set(tuples))


def test_children_of_many_nodes_at_once(codes):
    trie = Trie.of(codes)
    nodes = torch.tensor([[1, 2], [3, 1]])
    below, there = trie.children(nodes, 1)
    for row, mask, node in zip(below.flatten(0, 1), there.flatten(0, 1), nodes.flatten(), strict=True):
        assert row[mask].tolist() == list(range(int(trie.first_child[node]), int(trie.first_child[node + 1])))


def test_as_many_beams_as_tuples_score_every_item_exactly(codes, tables):
    items = ItemCodes(60, LEVELS, SIZE)
    items.fill(codes)
    got = items.item_scores(*searched(items.trie, tables, 46))
    for request in range(BATCH):
        for item, (a, b, c) in enumerate(codes.tolist()):
            expected = tables[0][request, a] + tables[1][request, a, b] + tables[2][request, a, b, c]
            assert got[request, item].item() == pytest.approx(expected.item(), abs=1e-5)


def test_beams_beside_lists(codes, tables):
    """The same search, one request and one beam at a time."""
    trie, tuples = Trie.of(codes), {tuple(row) for row in codes.tolist()}
    leaves, scores = searched(trie, tables, 4)
    ordered = sorted(tuples)
    for request in range(BATCH):
        beams = [((), 0.0)]
        for level in range(LEVELS):
            grown = [
                ((*prefix, code), score + tables[level][(request, *prefix, code)].item())
                for prefix, score in beams
                for code in range(SIZE)
                if any(t[: level + 1] == (*prefix, code) for t in tuples)
            ]
            beams = sorted(grown, key=lambda beam: -beam[1])[:4]
        assert [ordered[leaf] for leaf in leaves[request].tolist()] == [prefix for prefix, _ in beams]
        assert scores[request].tolist() == pytest.approx([score for _, score in beams], abs=1e-5)


def test_items_on_no_beam_share_the_last_place(codes, tables):
    items = ItemCodes(60, LEVELS, SIZE)
    items.fill(codes)
    leaves, scores = searched(items.trie, tables, 4)
    got = items.item_scores(leaves, scores)
    for request in range(BATCH):
        on_beam = torch.isin(items.trie.leaf_of_item, leaves[request])
        assert (got[request][~on_beam] == scores[request].min() - 1).all()
        assert got[request][on_beam].min() >= scores[request].min()


def test_no_requests(codes):
    leaves, scores = beam_search(Trie.of(codes), 4, 0, lambda level, last, parents: torch.zeros(*last.shape, SIZE))
    assert leaves.shape == scores.shape == (0, 4)


def test_fewer_tuples_than_beams(tables):
    """Two items only: the other beams have nothing to go on with."""
    items = ItemCodes(2, LEVELS, SIZE)
    items.fill(torch.tensor([[0, 1, 2], [0, 1, 3]]))
    leaves, scores = searched(items.trie, tables, 4)
    assert leaves.shape == scores.shape == (BATCH, 2)
    assert torch.isfinite(items.item_scores(leaves, scores)).all()
    nothing = torch.full((BATCH, 2), -torch.inf)
    assert torch.equal(items.item_scores(leaves, nothing), torch.full((BATCH, 2), -1.0))


def test_tokens_of_items_and_padding():
    items = ItemCodes(2, 2, 5)
    items.fill(torch.tensor([[0, 4], [3, 1]]))
    assert items.tokens(torch.tensor([[1, 2, 0]])).tolist() == [[[1, 10], [4, 7], [0, 0]]]


def test_targets_of_padding_are_left_out():
    items = ItemCodes(2, 2, 5)
    items.fill(torch.tensor([[0, 4], [3, 1]]))
    assert items.targets(torch.tensor([[2, 0]])).tolist() == [[[3, 1], [-100, -100]]]


def test_beams_that_found_nothing_are_not_counted():
    items = ItemCodes(3, 2, 5)
    items.fill(torch.tensor([[0, 1], [0, 1], [2, 2]]))  # two items share tuple 0
    with items.counting() as counts:
        items.item_scores(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[-1.0, -2.0], [-1.0, -torch.inf]]))
    assert (counts.requests, counts.found, counts.shared) == (2, 3, 1)


def test_the_trie_follows_the_codes():
    items = ItemCodes(2, 2, 5)
    assert items.trie.num_leaves == 1
    items.fill(torch.tensor([[0, 4], [3, 1]]))
    assert items.trie.num_leaves == 2
    assert items.trie is items.trie
    items.load_state_dict({"codes": torch.tensor([[2, 2], [2, 2], [1, 0]])})
    assert (items.trie.num_leaves, len(items.trie.leaf_of_item)) == (2, 3)
    items.load_state_dict({"codes": torch.tensor([[9, 2]])})
    with pytest.raises(UsageError, match="codes must lie from 0 to below 5"):
        _ = items.trie


def test_codes_of_another_shape_or_size_are_refused():
    items = ItemCodes(2, 2, 5)
    with pytest.raises(UsageError, match=r"shape \(2, 2\) from 0 to below 5 are needed, got \(2, 2\) from 0 to 5"):
        items.fill(torch.tensor([[0, 5], [3, 1]]))
    with pytest.raises(UsageError, match=r"got \(1, 2\)"):
        items.fill(torch.tensor([[0, 4]]))
