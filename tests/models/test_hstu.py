"""HSTU: what the times of a history change, and how they come to the model."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.models.hstu import HSTU

HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0]])
TIMES = torch.tensor([[100, 5_000, 90_000], [50, 0, 0]])


def model() -> HSTU:
    torch.manual_seed(0)
    made = HSTU(20, embedding_size=8, num_blocks=2, max_history_length=4).eval()
    for block in made.blocks:
        torch.nn.init.normal_(block.bias.time)
        torch.nn.init.normal_(block.project)
    return made


def test_scores_are_cosines():
    made = model()
    states = made.states(HISTORY, TIMES)
    table = made.items.table.weight[1:]
    expected = cosine_similarity(torch.stack([states[0, 2], states[1, 0]])[:, None], table, dim=2)
    torch.testing.assert_close(made.score(HISTORY, times=TIMES), expected)


def test_only_differences_of_times_count():
    made = model()
    torch.testing.assert_close(made.score(HISTORY, times=TIMES + 10**9), made.score(HISTORY, times=TIMES))
    spread = made.score(HISTORY, times=TIMES * 100)
    assert not torch.allclose(spread[0], made.score(HISTORY, times=TIMES)[0])
    torch.testing.assert_close(spread[1], made.score(HISTORY)[1], msg="one item is at its own time")


def test_without_times_all_is_at_once():
    made = model()
    assert torch.equal(made.score(HISTORY), made.score(HISTORY, times=torch.full_like(HISTORY, 77)))


def test_times_go_with_their_items_through_a_request():
    """Padding on either side, and a history longer than the window."""
    made, nothing = model(), torch.tensor([[5]])
    history, times = torch.tensor([[9, 2, 8, 3]]), torch.tensor([[10, 400, 9_000, 70_000]])
    expected = made.recommend(history, exclude=nothing, times=times)
    longer, their_times = torch.tensor([[0, 5, 0, 9, 2, 8, 3]]), torch.tensor([[3, 1, 0, 10, 400, 9_000, 70_000]])
    torch.testing.assert_close(made.recommend(longer, times=their_times).scores, expected.scores)
    assert not torch.allclose(made.recommend(history, exclude=nothing).scores, expected.scores)


def test_training_and_evaluation_get_the_times_of_the_dataset():
    dataset = synthetic(num_users=30, num_items=20)
    data = InteractionDataModule.of(dataset, "loo-full-masked@1", batch_size=8)
    data.max_history_length = 4
    part = dataset.parts["all"]
    places = zip(part.items.row_of_entry.tolist(), part.items.values.tolist(), strict=True)
    time_of = dict(zip(places, part.timestamps.values.tolist(), strict=True))
    known = {(item, second) for (_, item), second in time_of.items()}
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        real = batch.history > 0
        assert batch.times.shape == batch.history.shape
        assert {*zip(batch.history[real].tolist(), batch.times[real].tolist(), strict=True)} <= known
    test = next(iter(data.test_dataloader()))
    for key, items, times in zip(test.key.tolist(), test.history.tolist(), test.times.tolist(), strict=True):
        assert [time_of[key, item] for item in items if item] == times[: sum(item > 0 for item in items)]
