import torch

from diffrec.nn.item_sets import first_occurrences


def test_an_item_counts_where_it_is_met_first():
    history = torch.tensor([[5, 3, 5, 5, 3, 9], [4, 4, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    expected = [[1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert first_occurrences(history).int().tolist() == expected
    assert first_occurrences(history[:, :0]).shape == (3, 0)
