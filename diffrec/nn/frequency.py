"""The block of BSARec: a filter over the sequence beside self-attention."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.nn.transformer import Slots, TransformerBlock, Visible
from diffrec.typing import Float, Tensor


def low_pass(window: int, frequencies: int) -> Float[Tensor, " window"]:
    """What a one at slot 0 becomes where its Fourier transform keeps only the lowest `frequencies` coefficients."""
    kept = torch.arange(window // 2 + 1) < frequencies
    return torch.fft.irfft(kept.double(), n=window).float()


class FrequencyFilter(nn.Module):
    """z = low + b^2 (x - low), channel by channel; low: x without its high frequencies, over a window of fixed length.

    A circular convolution, so a product with a matrix that depends on distances only: empty slots count as zeros and
    need not be there, and it does not matter on which side they are. Every slot sees all others, later ones too.
    """

    kernel: Tensor

    def __init__(self, dim: int, window: int, frequencies: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.randn(dim))
        self.register_buffer("kernel", low_pass(window, frequencies), persistent=False)

    def forward(self, x: Slots, real: Visible) -> Slots:
        """real: the slots that hold something; values of others mean nothing."""
        slots = torch.arange(x.shape[1], device=x.device)
        distances = (slots[:, None] - slots) % len(self.kernel)
        low = self.kernel[distances].to(x.dtype) @ (x * real[..., None])
        return low + self.b.square() * (x - low)


class FrequencyBlock(TransformerBlock):
    """Post-norm; slots meet as a * LN(x + Drop(Filter x)) + (1 - a) * LN(x + Drop(Attn x)), the attention being causal.

    share: a; window, frequencies: see `FrequencyFilter`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        share: float,
        window: int,
        frequencies: int,
    ) -> None:
        super().__init__(dim, num_heads, dropout, attention_dropout, post_norm=True)
        self.filter, self.norm_filter = FrequencyFilter(dim, window, frequencies), nn.LayerNorm(dim)
        self.share = share

    def mixed(self, x: Slots, visible: Visible | None) -> Slots:
        """visible: the slots that hold something."""
        assert visible is not None
        filtered = self.norm_filter(x + self.dropout(self.filter(x, visible)))
        return self.share * filtered + (1 - self.share) * super().mixed(x, None)
