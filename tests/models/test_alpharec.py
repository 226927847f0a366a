"""AlphaRec: a request that is a training row is scored as that user is trained, and what it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.models import AlphaRec

ROWS = [[1, 2, 3], [2, 4], [5, 1, 4, 4], [3]]


def model(**arguments) -> AlphaRec:
    torch.manual_seed(0)
    made = AlphaRec(6, **{"vector_size": 4, "hidden_size": 8, "embedding_size": 3, **arguments})
    made.prepare(Ragged.from_rows(ROWS))
    made.vectors.normal_()
    return made


@torch.no_grad()
@pytest.mark.parametrize("hidden_size", [8, None])
def test_a_training_row_is_scored_as_the_user_is_trained(hidden_size):
    made = model(hidden_size=hidden_size).eval()
    adjacency = torch.zeros(10, 10)
    for user, items in enumerate(ROWS):
        for item in set(items):
            adjacency[user, 3 + item] = adjacency[3 + item, user] = 1
    roots = adjacency.sum(1).clamp(min=1).sqrt()
    step = adjacency / roots / roots[:, None]
    means = torch.stack([made.vectors[torch.tensor(sorted(set(items))) - 1].mean(0) for items in ROWS])
    first = made.read(torch.cat([means, made.vectors]))
    final = normalize(first + step @ first + step @ step @ first, dim=1)
    history = torch.tensor([[1, 2, 3, 0], [2, 4, 0, 0], [5, 1, 4, 4], [3, 0, 0, 0]])
    torch.testing.assert_close(made.score(history), final[:4] @ final[4:].T, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_a_softmax_over_its_negatives():
    made = model(num_negatives=500, temperature=0.5)
    batch = Batch(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([[3]]), key=torch.tensor([0]))
    loss = made.training_loss(batch)
    with torch.no_grad():
        scores = made.score(torch.tensor([[1, 2, 3]]))[0] / 0.5
    others = torch.cat([scores[:2], scores[3:]])
    expected = torch.log(1 + (others - scores[2]).exp().mean() * 500 * 5 / 6)  # a sixth of what is drawn is the target
    assert loss.item() == pytest.approx(expected.item(), abs=0.1)
    loss.backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_scores_follow_the_weights():
    made, history = model(), torch.tensor([[1, 2]])
    with torch.no_grad():
        before = made.score(history)
        made.read[0].weight.mul_(2)
        assert not torch.equal(made.score(history), before)


def test_it_beats_popularity_on_walks(ndcg, walks, popular):
    data = walks(256)
    torch.manual_seed(0)
    made = AlphaRec(data.num_items, vector_size=32, embedding_size=32, num_negatives=32, lr=1e-2)
    assert ndcg(made, data, 10) > 1.5 * popular


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="temperature must be a finite number above 0, got 0"):
        model(temperature=0.0)
