"""How often items are drawn, against their counts."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn.popular_items import PopularItems

COUNTS = torch.tensor([0, 16, 1, 0, 9, 4, 0])


@pytest.mark.parametrize(("power", "weights"), [(0.5, [0, 4, 1, 0, 3, 2, 0]), (1.0, [0, 16, 1, 0, 9, 4, 0])])
def test_items_are_drawn_in_proportion_to_a_power_of_their_counts(power, weights):
    popular = PopularItems(7, power)
    popular.fit(COUNTS)
    torch.manual_seed(0)
    got = popular.draw(100_000).bincount(minlength=7)
    expected = torch.tensor(weights) / sum(weights)
    assert (got[COUNTS == 0] == 0).all()
    torch.testing.assert_close(got / 100_000, expected, rtol=0, atol=0.005)


def test_power_0_draws_all_alike():
    popular = PopularItems(7, 0.0)
    popular.fit(COUNTS)
    torch.manual_seed(0)
    torch.testing.assert_close(popular.draw(70_000).bincount() / 70_000, torch.full((7,), 1 / 7), rtol=0, atol=0.005)


def test_weights_are_those_of_the_draws():
    popular = PopularItems(7, 0.5)
    popular.fit(COUNTS)
    torch.testing.assert_close(popular.log_weights(torch.tensor([1, 5])).exp(), torch.tensor([4.0, 2.0]))
    assert torch.isfinite(popular.log_weights(torch.arange(7))).all()


def test_nothing_of_it_is_kept():
    assert not PopularItems(7, 0.5).state_dict()
