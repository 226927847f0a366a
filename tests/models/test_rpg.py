"""RPG: its heads and scores beside plain sums."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from diffrec.data.batch import Batch
from diffrec.errors import UsageError
from diffrec.models import RPG

N = 20
CODES = torch.randint(0, 4, (N, 3), generator=torch.Generator().manual_seed(3))
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0]])


def model(**arguments) -> RPG:
    torch.manual_seed(0)
    small = {"embedding_size": 8, "num_heads": 2, "max_history_length": 4}
    made = RPG(N, num_levels=3, codebook_size=4, **{**small, **arguments})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.item_codes.fill(CODES)
    return made.eval()


@torch.no_grad()
def test_scores_beside_a_loop():
    made = model(temperature=0.5)
    scores, states = made.score(HISTORY), made.states(HISTORY)
    for row, last in ((0, 2), (1, 0)):
        state = states[row, last]
        total = torch.zeros(N)
        for level in range(3):
            wx = made.heads[level] @ state
            head = state + wx * torch.sigmoid(wx)
            codes = made.tokens.weight[1 + 4 * level : 5 + 4 * level]
            total += (cosine_similarity(head[None], codes) / 0.5).log_softmax(0)[CODES[:, level]]
        torch.testing.assert_close(scores[row], total / 3, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_item_is_read_as_the_mean_of_its_codes():
    made = model()
    read = made.tokens(made.item_codes.tokens(HISTORY)).mean(2)
    expected = torch.stack([made.tokens.weight[1 + 4 * level + CODES[8, level]] for level in range(3)]).mean(0)
    torch.testing.assert_close(read[0, 1], expected)


@torch.no_grad()
def test_the_loss_is_that_of_the_scores_of_the_targets():
    made = model()
    target = torch.tensor([[0, 0, 11], [5, 0, 0]])  # at the last position of each
    scores = made.score(HISTORY)
    expected = -(scores[0, 10] + scores[1, 4]) / 2
    torch.testing.assert_close(made.training_loss(Batch(HISTORY, target)), expected, rtol=1e-4, atol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="temperature must be a finite number above 0, got 0"):
        model(temperature=0.0)
