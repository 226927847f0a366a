import torch

from diffrec.nn.bpr import bpr_loss, half_squares, half_squares_of_rows


def test_loss_and_squares():
    user, positive, negative = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = [-torch.sigmoid(u @ i - u @ j).log() for u, i, j in zip(user, positive, negative, strict=True)]
    torch.testing.assert_close(bpr_loss(user, positive, negative), torch.stack(expected).mean())
    squares = sum(float(v @ v) for vectors in (user, positive) for v in vectors)
    torch.testing.assert_close(half_squares(user, positive).item(), squares / 2 / 5)
    assert torch.isfinite(bpr_loss(1e3 * user, 1e3 * positive, 1e3 * negative))


def test_gradients_are_those_of_the_sum_of_squares():
    table = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[0, 3, 3], [5, 0, 2]])
    (expected,) = torch.autograd.grad(table[chosen].square().sum() / 6, table)
    for value in (half_squares(*table[chosen]), half_squares_of_rows(table, chosen)):
        torch.testing.assert_close(value, table[chosen].square().sum() / 6)
        torch.testing.assert_close(torch.autograd.grad(value, table, retain_graph=True)[0], expected)
