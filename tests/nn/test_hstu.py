"""The blocks of HSTU against the arrays of the official code, and the gradient of its biases."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn import hstu as module
from diffrec.nn.hstu import HSTUBlock, RelativeBias, time_buckets

WINDOW = 7


@pytest.fixture
def arrays(golden):
    return golden("hstu")


def block_of(arrays, kind: str, number: int) -> HSTUBlock:
    """A block with the weights of the official code, whose positions count from the last key to the first."""
    block = HSTUBlock(10, 2, 5, 3, WINDOW, 0.0, with_times=kind == "time")
    prefix = f"net.{kind}.block.{number}."
    state = {"project": arrays[f"{prefix}proj"], "bias.position": arrays[f"{prefix}pos"][:WINDOW].flip(0)}
    state |= {f"out.{name}": arrays[f"{prefix}out.{name}"] for name in ("weight", "bias")}
    if kind == "time":
        state["bias.time"] = arrays[f"{prefix}time"]
    block.load_state_dict(state)
    return block


def next_times(arrays) -> torch.Tensor:
    """The time of the item behind each slot, which is what the original asks with."""
    times = arrays["timestamps"]
    return torch.cat([times[:, 1:], times[:, -1:]], dim=1)


@pytest.mark.parametrize("kind", ["plain", "time"])
def test_two_blocks_are_those_of_the_official_code(arrays, kind):
    x = arrays["x"]
    buckets = time_buckets(next_times(arrays), arrays["timestamps"]) if kind == "time" else None
    for number in range(2):
        x = block_of(arrays, kind, number)(x, buckets)
    for got, expected, length in zip(x, arrays[f"out.{kind}"], arrays["lengths"].tolist(), strict=True):
        torch.testing.assert_close(got[:length], expected[:length], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "time"])
def test_the_bias_is_that_of_the_official_code(arrays, kind):
    buckets = time_buckets(next_times(arrays), arrays["timestamps"]) if kind == "time" else None
    got = block_of(arrays, kind, 0).bias(WINDOW, buckets)
    torch.testing.assert_close(got.tril(), arrays[f"bias.{kind}"].tril(), rtol=1e-6, atol=1e-7)


def test_a_shorter_batch_gives_the_same(arrays):
    """What a state is divided by is the window, not the width of the batch."""
    block, row = block_of(arrays, "plain", 0), arrays["x"][:1]
    torch.testing.assert_close(block(row[:, :3], None), block(row, None)[:, :3], rtol=1e-5, atol=1e-6)


def test_buckets_by_hand():
    times = torch.tensor([[0, 1, 86_400, 10**18]])
    assert time_buckets(times, times)[0].tolist() == [[0, 0, 37, 128], [0, 0, 37, 128],
                                                      [37, 37, 0, 128], [128, 128, 128, 0]]  # fmt: skip


@pytest.mark.parametrize("cells", [1, 300, 1 << 22])
def test_the_gradient_of_a_bias_is_the_sum_over_its_cells(cells, monkeypatch):
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells)
    bias, buckets = RelativeBias(6, with_times=True).double(), torch.randint(129, (3, 5, 5))
    weights = torch.randn(3, 5, 5, dtype=torch.float64)
    (bias(5, buckets) * weights).sum().backward()
    expected = torch.zeros(129, dtype=torch.float64).index_add_(0, buckets.flatten(), weights.flatten())
    torch.testing.assert_close(bias.time.grad, expected)
    assert bias.position.grad.shape == (6,)
    assert bias.position.grad[5] == 0, "no two slots are so far apart"
