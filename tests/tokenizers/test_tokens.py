"""Residual k-means and product quantisation, duplicates, and the report card, beside plain loops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from diffrec.errors import UsageError
from diffrec.tokenizers import collisions
from diffrec.tokenizers.collisions import resolved, sinkhorn, spread_last
from diffrec.tokenizers.product import product_quantisation
from diffrec.tokenizers.residual import residual_codebooks, residual_k_means
from diffrec.tokenizers.tokens import Tokens, lost_share, report_card


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(120, 8)) + 2


def test_each_level_quantises_what_is_left(vectors):
    books, codes = residual_codebooks(vectors, 3, 5, 10, seed=0)
    for vector, code in zip(vectors, codes, strict=True):
        left = vector.copy()
        for book, chosen in zip(books, code, strict=True):
            assert chosen == min(range(5), key=lambda c: ((left - book[c]) ** 2).sum())
            left -= book[chosen]


def test_residual_codes_come_with_what_they_stand_for(vectors):
    tokens = residual_k_means(vectors, 3, 5, rounds=10)
    books, codes = residual_codebooks(vectors, 3, 5, 10, seed=0)
    assert np.array_equal(tokens.codes, codes)
    expected = sum(book[code] for book, code in zip(books, codes.T, strict=True))
    np.testing.assert_allclose(tokens.reconstruction, expected)
    assert np.array_equal(tokens.last_distances.argmin(1), codes[:, 2])
    away = ((vectors - expected) ** 2).sum(1)
    np.testing.assert_allclose(tokens.last_distances.min(1), away, atol=1e-9)


def test_more_levels_lose_less(vectors):
    lost = [lost_share(vectors, residual_k_means(vectors, levels, 6).reconstruction) for levels in (1, 2, 3)]
    assert 1 > lost[0] > lost[1] > lost[2] > 0


@pytest.mark.parametrize("rotate", [False, True])
def test_parts_are_quantised_on_their_own(vectors, rotate):
    tokens = product_quantisation(vectors, 4, 6, rotate=rotate)
    assert tokens.codes.shape == (120, 4)
    assert tokens.codes.max() == 5
    same = tokens.codes[:, None] == tokens.codes[None]
    shared = [np.unique(tokens.reconstruction[same[i].all(1)].round(9), axis=0) for i in range(120)]
    assert all(len(values) == 1 for values in shared)
    assert np.array_equal(tokens.last_distances.argmin(1), tokens.codes[:, 3])


def test_a_learned_rotation_loses_less():
    """Two directions hold all there is, and the first cut puts both into one part."""
    points = np.random.default_rng(1).normal(size=(300, 2)) @ np.array([[1.0, 0.2, 0, 0], [0.1, 1.0, 0, 0]])
    plain, turned = (product_quantisation(points, 2, 8, rotate=rotate).reconstruction for rotate in (False, True))
    assert lost_share(points, turned) < 0.6 * lost_share(points, plain)


def test_the_seed_decides_the_parts():
    points = np.random.default_rng(0).normal(size=(60, 4))
    first, again, other = (product_quantisation(points, 2, 5, seed=seed).codes for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_widths_that_cannot_be_cut_are_refused(vectors):
    with pytest.raises(UsageError, match="vectors of width 8 cannot be cut into 3 equal parts"):
        product_quantisation(vectors, 3, 4)


CODES = np.array([[0, 1], [2, 1], [0, 1], [0, 0], [0, 1], [2, 1]])


def test_report_card_beside_a_count():
    card = report_card(CODES, (4, 2))
    counts = Counter(map(tuple, CODES.tolist()))
    assert (card["items"], card["distinct"], card["largest"]) == (6, 3, 3)
    assert card["collisions"] == pytest.approx(1 - len(counts) / 6)
    assert card["sharing"] == pytest.approx(5 / 6)
    assert card["usage"] == [0.5, 1.0]
    shares = [4 / 6, 2 / 6]
    assert card["entropy"][0] == pytest.approx(-sum(p * math.log2(p) for p in shares))
    whole = [value / 6 for value in counts.values()]
    assert card["prefix_entropy"][-1] == pytest.approx(-sum(p * math.log2(p) for p in whole))


def test_codes_beyond_their_level_are_refused():
    with pytest.raises(UsageError, match=r"below \[2, 2\] are needed, got \(6, 2\) from 0 to 2"):
        report_card(CODES, (2, 2))


def test_one_more_code_counts_the_items_of_a_tuple():
    codes, sizes = resolved(Tokens(CODES), 4, "extra")
    assert codes[:, 2].tolist() == [0, 0, 1, 0, 2, 1]
    assert np.array_equal(codes[:, :2], CODES)
    assert sizes == (4, 4, 3)
    assert report_card(codes, sizes)["collisions"] == 0
    assert np.array_equal(resolved(Tokens(CODES), 4, "none")[0], CODES)


def test_sinkhorn_shares_codes_out():
    away = np.random.default_rng(0).random((60, 5)) + np.array([0.0, 0.5, 1, 1, 1])
    plan = np.exp(sinkhorn(away, spread=0.3, rounds=200))
    np.testing.assert_allclose(plan.sum(1), 1)
    np.testing.assert_allclose(plan.sum(0), 60 / 5, rtol=1e-6)


def test_spreading_tells_items_apart_and_keeps_what_it_can():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(3, size=40), rng.integers(20, size=40)], axis=1)
    away = rng.random((40, 20))
    spread = spread_last(codes, away)
    assert np.array_equal(spread[:, 0], codes[:, 0])
    assert report_card(spread, (3, 20))["collisions"] == 0
    wishes = sinkhorn(away).argmax(1)
    alone = [i for i in range(40) if sum(codes[j, 0] == codes[i, 0] and wishes[j] == wishes[i] for j in range(40)) == 1]
    taken = {(spread[i, 0], spread[i, 1]) for i in range(40)}
    for item in alone:
        assert spread[item, 1] == wishes[item] or (codes[item, 0], wishes[item]) in taken


def test_the_keenest_gets_a_code(monkeypatch):
    """All want code 0, item 2 the most; of the others, who then want code 1, item 1 does."""
    wishes = np.log([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.9, 0.06, 0.04]])
    monkeypatch.setattr(collisions, "sinkhorn", lambda distances: wishes)
    assert spread_last(np.zeros((3, 2), dtype=np.int64), np.zeros((3, 3)))[:, 1].tolist() == [2, 1, 0]


def test_more_items_than_codes_cannot_be_told_apart():
    with pytest.raises(UsageError, match="4 items share all but the last code, more than its 3"):
        spread_last(np.zeros((4, 2), dtype=np.int64), np.zeros((4, 3)))
    with pytest.raises(UsageError, match="came without"):
        resolved(Tokens(CODES), 4, "sinkhorn")
