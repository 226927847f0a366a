from __future__ import annotations

import pytest
import torch

from diffrec.nn.dropout import Dropout, scaled_mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_scale_are_those_of_torch(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1000, 1000))
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5)
    assert out.mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / 1e6) ** 0.5)
    (kept,) = out[out != 0].unique().tolist()
    assert kept == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))


def test_the_expectation_is_exact_for_the_rounded_share():
    mask = scaled_mask((2, 3), dropped=6554, dtype=torch.float64)
    assert mask.shape == (2, 3)
    assert set(mask.flatten().tolist()) <= {0.0, 65536 / (65536 - 6554)}


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4)])
def test_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_elements_are_independent():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(20_000, 9)) > 0).double()
    assert (kept.T.corrcoef() - torch.eye(9)).abs().max() < 5 / 20_000**0.5


def test_gradients_pass_where_the_input_did():
    torch.manual_seed(0)
    x = torch.ones(100, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything(p):
    x = torch.randn(50)
    assert torch.equal(Dropout(p)(x), x * (1 - p))


def test_evaluation_is_the_identity():
    x = torch.randn(50)
    assert Dropout(0.5).eval()(x) is x


def test_the_seed_decides_on_any_number_of_threads():
    threads, masks = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(7)
            masks.append(Dropout(0.3)(torch.ones(400, 3000)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], Dropout(0.3)(torch.ones(400, 3000)))
