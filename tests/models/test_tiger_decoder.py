"""The decoder-only twin of TIGER: its beams beside one pass over history and item, and as many parameters."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.models import TIGER, TIGERDecoder

N, LEVELS, SIZE = 30, 3, 4
CODES = torch.randint(0, SIZE, (N, LEVELS), generator=torch.Generator().manual_seed(3))
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0], [0, 0, 0], [30, 1, 0]])


def model(**arguments) -> TIGERDecoder:
    torch.manual_seed(0)
    sizes = {"embedding_size": 12, "num_blocks": 2, "num_heads": 2, "head_size": 5, "feed_size": 16}
    made = TIGERDecoder(N, num_levels=LEVELS, codebook_size=SIZE, max_history_length=5, **{**sizes, **arguments})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.item_codes.fill(CODES)
    return made.eval()


def alone(made: TIGERDecoder, history: list[int], item: int) -> torch.Tensor:
    """The log-probability of an item behind a history, from a pass over both."""
    items = torch.tensor([[*history, item]])
    states = made.transformer(made.embedded(items, items > 0))[0, -LEVELS:]
    parts = made.tokens.weight[1:].view(LEVELS, SIZE, -1)
    return sum((states[n] @ parts[n].T).log_softmax(0)[CODES[item - 1, n]] for n in range(LEVELS))


@torch.no_grad()
def test_scores_of_wide_beams_are_those_of_each_item_alone():
    made = model(num_beams=64)
    scores = made.score(HISTORY)
    for row, history in enumerate([[4, 9, 2], [7], [], [30, 1]]):
        expected = torch.stack([alone(made, history, item) for item in range(1, N + 1)])
        torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_narrow_beams_keep_the_scores_of_what_they_find():
    wide, narrow = model(num_beams=64).score(HISTORY), model(num_beams=3).score(HISTORY)
    for row, exact in zip(narrow, wide, strict=True):
        found = row > row.min()
        assert 1 <= len(row[found].unique()) <= 3
        torch.testing.assert_close(row[found], exact[found], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_loss_is_the_mean_over_codes_behind_the_first_item():
    made, items = model(), torch.tensor([[4, 9, 2, 17]])
    states = made.transformer(made.embedded(items, items > 0)).view(4, LEVELS, -1)
    parts = made.tokens.weight[1:].view(LEVELS, SIZE, -1)
    losses = [
        -(states[slot, level] @ parts[level].T).log_softmax(0)[CODES[items[0, slot] - 1, level]]
        for slot in (1, 2, 3)
        for level in range(LEVELS)
    ]
    got = made.training_loss(Batch(items[:, :-1], items[:, 1:]))
    torch.testing.assert_close(got, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_counts_for_nothing():
    made = model()
    history, target = torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([[9, 2, 17], [5, 0, 0]])
    both, first = made.training_loss(Batch(history, target)), made.training_loss(Batch(history[:1], target[:1]))
    second = -alone(made, [7], 5) / LEVELS
    torch.testing.assert_close(both, (3 * first + second) / 4, rtol=1e-4, atol=1e-5)


def test_it_is_as_large_as_tiger():
    twins = [sum(p.numel() for p in kind(1000).parameters()) for kind in (TIGER, TIGERDecoder)]
    assert twins[0] == pytest.approx(twins[1], rel=0.01)
