"""The embedding of one item as the thing diffused."""

from __future__ import annotations

from torch import nn

from diffrec.typing import Float, Int, Scores, Tensor


class EmbeddingSpace(nn.Module):
    """x_0 is a row of a learned table (N + 1, dim), row 0 being padding; the score is the inner product.

    init_std: standard deviation of the normal initial table.
    """

    def __init__(self, num_items: int, dim: int, init_std: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(num_items + 1, dim)
        nn.init.normal_(self.table.weight, std=init_std)
        self.shape = (dim,)

    def encode(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Rows of the table; padding is row 0, which is never a candidate."""
        return self.table(items)

    def score(self, x0: Float[Tensor, "batch dim"]) -> Scores:
        """(batch, N) inner products with every item."""
        return x0 @ self.table.weight[1:].T
