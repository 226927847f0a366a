"""RuleBridge: its rules are those of the baseline, and training leaves out what a sequence itself counted."""

from __future__ import annotations

import pytest
import torch

from diffrec.baselines import SequentialRules
from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.models import RuleBridge

NUM_ITEMS, FLOOR = 12, 0.1
SEQUENCES = [[1, 2, 3, 4, 5], [3, 2, 5, 1], [2, 3, 2, 6, 3, 7], [5, 4, 8, 2, 3], [9, 1, 2, 10, 11, 4]]


def built(sequences: list[list[int]], shares: bool = False, **arguments: object) -> RuleBridge:
    torch.manual_seed(0)
    model = RuleBridge(
        NUM_ITEMS, embedding_size=8, rule_window=3, rule_reach=50, rule_floor=FLOOR, rule_shares=shares, **arguments
    )
    model.prepare(Ragged.from_rows(sequences))
    return model.eval()


def rule_scores(sequences: list[list[int]], history: torch.Tensor, shares: bool) -> torch.Tensor:
    rules = SequentialRules(NUM_ITEMS, window=3, normalisation="p" if shares else "raw", decay=0.5)
    rules.solve(Ragged.from_rows(sequences))
    return rules.score(history)


def log_scores(model: RuleBridge, history: torch.Tensor, target: torch.Tensor | None, event: int) -> torch.Tensor:
    rows = torch.arange(len(history))
    events = torch.full_like(rows, event)
    return model.rules.log_scores(model.rules(history, target), rows, events, FLOOR)


@pytest.mark.parametrize("shares", [False, True])
def test_the_rules_of_a_history_are_those_of_the_baseline(shares):
    history = torch.tensor([[1, 2, 3], [4, 2, 0], [12, 0, 0]])
    model = built(SEQUENCES, shares)
    expected = torch.log1p(rule_scores(SEQUENCES, history, shares) / FLOOR)
    rules = model.rules(history)
    last = (history > 0).sum(1) - 1
    got = model.rules.log_scores(rules, torch.arange(3), last, FLOOR)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert got[:2].any(1).all()
    assert not got[2].any()


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("number", range(len(SEQUENCES)))
def test_training_sees_the_rules_of_all_other_sequences(number, shares):
    """Sequence 2 repeats items. Counting again without the sequence is what leave-one-out means."""
    mine, others = SEQUENCES[number], SEQUENCES[:number] + SEQUENCES[number + 1 :]
    history, target = torch.tensor([mine[:-1]]), torch.tensor([mine[1:]])
    model = built(SEQUENCES, shares)
    for event in range(len(mine) - 1):
        expected = torch.log1p(rule_scores(others, history[:, : event + 1], shares) / FLOOR)
        torch.testing.assert_close(log_scores(model, history, target, event), expected, rtol=1e-4, atol=1e-4)
    with_own = log_scores(model, history, None, 0)
    assert with_own[0, mine[1] - 1] > log_scores(model, history, target, 0)[0, mine[1] - 1]


def test_a_sequence_that_nobody_shares_starts_at_nothing():
    model = built([[1, 2, 3]])
    history, target = torch.tensor([[1, 2]]), torch.tensor([[2, 3]])
    assert not model.rules.mean(model.rules(history, target), model.directions()).any()


def test_half_precision_leaves_nothing_of_the_own_sequence():
    """It counts 8 -> 10 as 1/2 + 1/3, which bfloat16 rounds down."""
    alone = [8, 9, 10, 10, 11, 8, 9, 10, 10]
    model = built([[1, 2, 3, 4], alone])
    history, target = torch.tensor([alone[:-1]]), torch.tensor([alone[1:]])
    for precision in (torch.autocast("cpu", torch.bfloat16, enabled=on) for on in (False, True)):
        with precision:
            rules = model.rules(history, target)
            assert not rules.strength.any()
            assert not model.rules.mean(rules, model.directions()).any()


def test_the_walk_starts_at_the_mean_item_under_the_rules():
    history, model = torch.tensor([[1, 2, 3]]), built(SEQUENCES)
    scores = rule_scores(SEQUENCES, history, shares=False)
    expected = scores @ model.directions()[1:] / scores.sum()
    torch.testing.assert_close(
        model.rules.mean(model.rules(history), model.directions())[:, 2], expected, rtol=1e-5, atol=1e-5
    )


def test_the_strongest_rules_are_kept():
    model = built(SEQUENCES, rules_per_item=1)
    assert model.rules.items[2].tolist() == [3]


def test_the_readout_adds_the_rules_with_its_weight():
    history = torch.tensor([[1, 2, 3]])
    model = built(SEQUENCES, readout="after", rule_weight=0.7, bridge=False)
    with torch.no_grad():
        joined = model.score(history)
        model.readout = "none"
        alone = model.score(history)
    expected = 0.7 * torch.log1p(rule_scores(SEQUENCES, history, shares=False) / FLOOR)
    torch.testing.assert_close(joined - alone, expected, rtol=1e-4, atol=1e-5)


def test_only_the_joint_readout_learns_its_weight():
    batch = Batch(torch.tensor([[3, 2, 5]]), torch.tensor([[2, 5, 1]]))
    for readout in ("joint", "after", "none"):
        model = built(SEQUENCES, readout=readout)
        model.training_loss(batch).backward()
        grad = model.rule_weight.grad
        assert (grad is not None and grad.abs() > 0) if readout == "joint" else grad is None


def test_the_walk_depends_on_where_it_starts_and_draws_are_averaged():
    history, model = torch.tensor([[1, 2, 3]]), built(SEQUENCES, readout="none", num_draws=2, num_inference_steps=2)
    assert model.uses_noise
    assert model.denoiser_calls == 4
    with torch.no_grad():
        before = model.score(history)
        model.rules.counts.zero_()
        assert not torch.allclose(model.score(history), before)
