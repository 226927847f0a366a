"""Users are found by their items: in any order, with repeats, and by the beginning of a history that went on."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn.known_users import KnownUsers

ROWS = [[3, 1, 7], [], [2, 9, 4, 5], [7, 3, 1], [6]]  # 3 has the items of 0


def pairs(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    together = [(user, item) for user, row in enumerate(rows) for item in row]
    users, items = zip(*together, strict=True)
    return torch.tensor(users), torch.tensor(items)


def histories(*rows: list[int]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


@pytest.fixture
def users():
    torch.manual_seed(0)
    users = KnownUsers(4, init_std=0.5)
    users.fit(*pairs(ROWS), len(ROWS))
    return users


@pytest.mark.parametrize(
    ("history", "row"),
    [
        ([1, 3, 7], 0),
        ([7, 1, 1, 3, 7], 0),
        ([5, 4, 9, 2], 2),
        ([6], 4),
        ([3, 1], -1),
        ([3, 1, 7, 9], 0),  # went on after training
        ([9, 3, 1, 7], -1),  # the same items, but its beginning is nobody's
        ([6, 8], 4),
        ([6, 8, 9], -1),  # less than half is known
        ([6, 6, 6, 8], 4),  # half of the different items
        ([1, 2, 3], -1),
        ([0], -1),
    ],
)
def test_the_row_of_a_history(users, history, row):
    assert users.find(histories(history, [1] * 6)).tolist() == [row, -1]


def test_of_two_known_beginnings_the_longer_counts():
    users = KnownUsers(2, init_std=0.1)
    users.fit(*pairs([[1, 2], [1, 2, 3]]), 2)
    assert users.find(histories([2, 1, 3, 4], [2, 1, 4])).tolist() == [1, 0]


def test_a_hundred_thousand_sets_are_told_apart():
    """Neighbouring numbers and their sums: 1 + 4 is 2 + 3."""
    first, second = torch.triu_indices(450, 450, 1) + 1
    users = KnownUsers(1, init_std=0.1)
    number = torch.arange(len(first))
    users.fit(number.repeat(2), torch.cat([first, second]), len(first))
    assert torch.equal(users.find(torch.stack([second, first], 1)), number)
    assert users.find(torch.stack([first, second + 450], 1)).eq(-1).all()


def test_known_rows_are_chosen_and_others_kept(users):
    known, unknown = torch.arange(10.0).view(5, 2), -torch.ones(3, 2)
    chosen = users.choose(histories([4, 5, 2, 9], [8], [6]), known, unknown)
    assert chosen.tolist() == [[4.0, 5.0], [-1.0, -1.0], [8.0, 9.0]]


def test_before_anybody_is_known_nobody_is():
    nobody = KnownUsers(3, init_std=0.1)
    assert nobody.find(histories([1, 2], [3])).tolist() == [-1, -1]
    assert torch.equal(nobody.choose(histories([1, 2], [3]), nobody.weight, torch.ones(2, 3)), torch.ones(2, 3))


def test_a_state_carries_users_and_how_they_are_found(users):
    fresh = KnownUsers(4, init_std=0.5)
    fresh.load_state_dict(users.state_dict())
    assert torch.equal(fresh.weight, users.weight)
    assert fresh.find(histories([1, 3, 7], [6])).tolist() == [0, 4]


def test_rows_start_as_normal_numbers():
    users = KnownUsers(64, init_std=0.5)
    users.fit(torch.arange(2000), torch.ones(2000, dtype=torch.int64), 2000)
    assert users.weight.requires_grad
    assert users.weight.std().item() == pytest.approx(0.5, rel=0.02)
    assert users.weight.mean().item() == pytest.approx(0, abs=0.01)
