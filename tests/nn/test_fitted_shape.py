import torch
from torch import nn

from diffrec.nn.fitted_shape import FittedShape


class Table(FittedShape):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.arange(rows))
        self.users = nn.Parameter(torch.ones(rows, 2), requires_grad=rows > 1)


def test_loading_takes_shapes_and_types_of_the_file():
    table = Table(1)
    table.load_state_dict(Table(3).state_dict())
    assert torch.equal(table.get_buffer("seen"), torch.arange(3))
    assert table.users.shape == (3, 2)
    assert isinstance(table.users, nn.Parameter)
    assert not table.users.requires_grad


def test_what_has_the_shape_already_stays_the_same_object():
    table = Table(3)
    users = table.users
    table.load_state_dict({"seen": torch.tensor([5, 6, 7]), "users": torch.zeros(3, 2)})
    assert table.users is users
    assert users.eq(0).all()
