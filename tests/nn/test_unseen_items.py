import torch

from diffrec.nn.unseen_items import UnseenItems


def test_draws_are_uniform_over_what_a_user_does_not_have():
    unseen = UnseenItems(10)
    unseen.fit(torch.tensor([2, 0, 0, 2, 2]), torch.tensor([10, 1, 4, 7, 8]))
    torch.manual_seed(0)
    drawn = unseen.draw(torch.tensor([0, 1, 2]).repeat_interleave(20_000)).view(3, -1)
    for row, own in zip(drawn, ([1, 4], [], [7, 8, 10]), strict=True):
        counts = torch.bincount(row, minlength=11)
        others = [item for item in range(1, 11) if item not in own]
        assert counts.sum() == counts[others].sum()
        share = counts[others] / 20_000
        assert ((share - 1 / len(others)).abs() < 0.012).all()


def test_the_generator_decides():
    unseen, users = UnseenItems(1000), torch.zeros(50, dtype=torch.int64)
    unseen.fit(torch.zeros(900, dtype=torch.int64), torch.arange(1, 901))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = unseen.draw(users), unseen.draw(users)
    torch.set_rng_state(state)
    assert torch.equal(unseen.draw(users), first)
    assert not torch.equal(first, second)


def test_a_user_with_the_whole_catalogue_still_gets_an_item():
    unseen = UnseenItems(3)
    unseen.fit(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 2, 3, 2]))
    drawn = unseen.draw(torch.tensor([0, 0, 1, 1]))
    assert ((drawn >= 1) & (drawn <= 3)).all()
    assert not (drawn[2:] == 2).any()
