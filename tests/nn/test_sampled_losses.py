"""Losses against sampled items: gBCE as its official code computes it, the others by their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from diffrec.nn import sampled_losses as losses

STATES, TABLE = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (6, 9))
TARGET = torch.tensor([0, 8, 3, 3, 5, 1])


@pytest.mark.parametrize("calibration", [0.0, 0.5, 0.75, 1.0])
def test_gbce_is_that_of_the_official_code(golden, calibration):
    arrays, prefix = golden("gsasrec"), f"gbce.t{calibration}"
    real = arrays["gbce.mask"] > 0
    positive, negative = arrays["gbce.logits"][real][:, 0], arrays["gbce.logits"][real][:, 1:]
    num_items = int(arrays["gbce.num_items"])
    share = 5 / (num_items - 1)
    got = losses.calibrated(positive, share, calibration)
    torch.testing.assert_close(got, arrays[f"{prefix}.positive"][real], rtol=1e-6, atol=1e-9)
    loss = losses.generalised_binary_cross_entropy(positive, negative, num_items, calibration)
    torch.testing.assert_close(loss.float(), arrays[f"{prefix}.loss"][0], rtol=1e-6, atol=1e-7)


def test_gbce_without_calibration_is_the_mean_binary_cross_entropy():
    positive, negative = torch.randn(6), torch.randn(6, 3)
    plain = losses.binary_cross_entropy(positive, negative)
    torch.testing.assert_close(
        losses.generalised_binary_cross_entropy(positive, negative, 9, 0.0).float(), plain / 4, rtol=1e-5, atol=1e-6
    )


def test_every_position_has_negatives_of_its_own():
    torch.manual_seed(0)
    positive, negative = losses.uniform_negatives(STATES, TABLE, TARGET, 400)
    logits = STATES @ TABLE.T
    torch.testing.assert_close(positive, logits.gather(1, TARGET[:, None])[:, 0])
    for row, target in enumerate(TARGET.tolist()):
        hidden = negative[row].isneginf()
        assert 0.05 < hidden.float().mean() < 0.2, "a ninth of the draws is the target"
        others = [column for column in range(9) if column != target]
        distance = (negative[row][~hidden][:, None] - logits[row, others]).abs()
        assert distance.amin(1).max() < 1e-5
        assert distance.amin(0).max() < 1e-5, "every other item is drawn"
    assert not torch.equal(negative[2], negative[3])


@pytest.mark.parametrize("at_once", [1, 9, 30, 1 << 22])
def test_logits_looked_up_and_taken_from_all_have_the_same_slopes(monkeypatch, at_once):
    monkeypatch.setattr("diffrec.nn.cross_entropy._LOGITS_AT_ONCE", at_once)
    got = {}
    for limit in (0, 64):
        monkeypatch.setattr(losses, "_ALL_FOR_ONE_DRAWN", limit)
        states, table = STATES.clone().requires_grad_(), TABLE.clone().requires_grad_()
        torch.manual_seed(0)
        positive, negative = losses.uniform_negatives(states, table, TARGET, 5)
        losses.sampled_softmax(positive, negative).backward()
        got[limit] = positive, negative, states.grad, table.grad
    torch.testing.assert_close(got[64], got[0])


@pytest.mark.parametrize("limit", [0, 64])
def test_under_autocast_logits_are_added_up_in_float32(monkeypatch, limit):
    monkeypatch.setattr(losses, "_ALL_FOR_ONE_DRAWN", limit)
    with torch.autocast("cpu", torch.bfloat16):
        table = TABLE @ torch.eye(4)  # as a network gives it, in bf16
        own, shared = (
            losses.uniform_negatives(STATES, table, TARGET, 5),
            losses.shared_negatives(STATES, table, TARGET, TARGET),
        )
    assert {logits.dtype for logits in (*own, *shared)} == {torch.float32}


def test_shared_negatives_leave_the_target_out():
    drawn = torch.tensor([3, 0, 7])
    positive, negative = losses.shared_negatives(STATES, TABLE, TARGET, drawn)
    logits = STATES @ TABLE.T
    torch.testing.assert_close(positive, logits.gather(1, TARGET[:, None])[:, 0])
    expected = logits[:, drawn].masked_fill(drawn == TARGET[:, None], -torch.inf)
    torch.testing.assert_close(negative, expected)


def test_the_sampled_softmax_over_everything_is_the_cross_entropy():
    logits = STATES @ TABLE.T
    columns = torch.arange(9).expand(6, 9)
    positive, negative = losses.shared_negatives(STATES, TABLE, TARGET, columns[0])
    expected = torch.nn.functional.cross_entropy(logits, TARGET)
    torch.testing.assert_close(losses.sampled_softmax(positive, negative), expected)


def test_binary_cross_entropy_by_hand():
    positive, negative = torch.tensor([1.0, -2.0]), torch.tensor([[0.5], [-torch.inf]])
    expected = [math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5)), math.log(1 + math.exp(2))]
    assert losses.binary_cross_entropy(positive, negative).item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_bpr_max_by_hand():
    positive, negative = torch.tensor([0.7]), torch.tensor([[0.2, -0.4, -torch.inf]])
    weights = [math.exp(0.2), math.exp(-0.4)]
    weights = [w / sum(weights) for w in weights]
    ranked = weights[0] / (1 + math.exp(-0.5)) + weights[1] / (1 + math.exp(-1.1))
    expected = -math.log(ranked) + 0.3 * (weights[0] * 0.04 + weights[1] * 0.16)
    assert losses.bpr_max(positive, negative, 0.3).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [losses.sampled_softmax, losses.binary_cross_entropy,
                                  lambda p, n: losses.bpr_max(p, n, 1.0),
                                  lambda p, n: losses.generalised_binary_cross_entropy(p, n, 9, 0.75)])  # fmt: skip
def test_gradients_stay_finite_where_the_target_was_drawn(loss):
    states, table = STATES.clone().requires_grad_(), TABLE.clone().requires_grad_()
    torch.manual_seed(0)
    loss(*losses.uniform_negatives(states, table, TARGET, 50)).backward()
    for grad in (states.grad, table.grad):
        assert torch.isfinite(grad).all()
        assert grad.abs().sum() > 0
