"""The filter of BSARec against the Fourier transform that defines it."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn.frequency import FrequencyBlock, FrequencyFilter

WINDOW = 12


def filtered_by_fft(x: torch.Tensor, b: torch.Tensor, frequencies: int) -> torch.Tensor:
    """x: (batch, window, dim), whole windows."""
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
    spectrum[:, frequencies:] = 0
    low = torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho")
    return low + b**2 * (x - low)


@pytest.mark.parametrize("frequencies", [1, 3, 6, 7])
def test_it_is_the_filter_of_the_fourier_transform_over_the_padded_window(frequencies):
    torch.manual_seed(0)
    filtering = FrequencyFilter(4, WINDOW, frequencies).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    real = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    got = filtering(x, real)
    for side in ("left", "right"):
        whole = torch.zeros(3, WINDOW, 4, dtype=torch.float64)
        for row, size in enumerate([5, 2, 4]):
            place = slice(WINDOW - size, WINDOW) if side == "left" else slice(0, size)
            whole[row, place] = x[row, :size]
            expected = filtered_by_fft(whole, filtering.b, frequencies)[row, place]
            torch.testing.assert_close(got[row, :size], expected, rtol=1e-6, atol=1e-6)


def test_all_frequencies_are_the_sequence_itself():
    x = torch.randn(2, WINDOW, 4)
    got = FrequencyFilter(4, WINDOW, WINDOW // 2 + 1)(x, torch.ones(2, WINDOW, dtype=torch.bool))
    torch.testing.assert_close(got, x, rtol=0, atol=1e-5)


def test_the_attention_is_causal_and_the_filter_is_not():
    x, real = torch.randn(1, 6, 4), torch.ones(1, 6, dtype=torch.bool)
    later = x.clone()
    later[:, 5] += 1
    for share, changes in ((0.0, False), (1.0, True), (0.5, True)):
        torch.manual_seed(0)
        block = FrequencyBlock(4, 1, 0.0, 0.0, share, WINDOW, 2)
        assert torch.equal(block(x, real)[:, :5], block(later, real)[:, :5]) != changes


def test_shares_add_up_what_each_half_gives():
    x, real = torch.randn(1, 6, 4), torch.ones(1, 6, dtype=torch.bool)
    mixed = []
    for share in (0.0, 1.0, 0.3):
        torch.manual_seed(0)
        mixed.append(FrequencyBlock(4, 1, 0.0, 0.0, share, WINDOW, 2).mixed(x, real))
    torch.testing.assert_close(mixed[2], 0.7 * mixed[0] + 0.3 * mixed[1])
