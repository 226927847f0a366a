import torch

from diffrec.nn.bpr import bpr_loss, half_squares


def test_loss_and_squares():
    user, positive, negative = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = [-torch.sigmoid(u @ i - u @ j).log() for u, i, j in zip(user, positive, negative, strict=True)]
    torch.testing.assert_close(bpr_loss(user, positive, negative), torch.stack(expected).mean())
    squares = sum(float(v @ v) for vectors in (user, positive) for v in vectors)
    torch.testing.assert_close(half_squares(user, positive).item(), squares / 2 / 5)
    assert torch.isfinite(bpr_loss(1e3 * user, 1e3 * positive, 1e3 * negative))
