from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from diffrec.nn.wide_linear import wide_linear


def arguments(
    widths: tuple[int, ...], out: int, batch: int = 7
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [*((batch, width) for width in widths), (out, sum(widths)), (out,)]
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    return drawn[:-2], drawn[-2], drawn[-1]


@pytest.mark.parametrize(("widths", "out"), [((3,), 4), ((513, 10), 6), ((5,), 1025), ((512, 1, 600), 512)])
def test_values_and_gradients_are_those_of_the_concatenation(widths, out):
    inputs, weight, bias = arguments(widths, out)
    ours, plain = wide_linear(tuple(inputs), weight, bias), linear(torch.cat(inputs, dim=1), weight, bias)
    torch.testing.assert_close(ours, plain)
    slope = torch.randn_like(plain)
    parameters = [*inputs, weight, bias]
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters, slope), torch.autograd.grad(plain, parameters, slope)
    )


def test_inputs_that_need_no_gradient_get_none():
    inputs, weight, bias = arguments((4, 2), 3)
    first = inputs[0].detach()
    wide_linear((first, inputs[1]), weight, bias).sum().backward()
    assert first.grad is None
    assert inputs[1].grad is not None


def test_autocast_chooses_the_precision():
    inputs, weight, bias = arguments((4,), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wide_linear((inputs[0].float(),), weight.float(), bias.float()).dtype == torch.bfloat16
