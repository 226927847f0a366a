"""`top_k` against sorting by (score, item number) in plain Python; what `recommend` takes and leaves behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError
from diffrec.recommender import Recommender, top_k


def slow_list(scores: list[float], excluded: list[int], k: int) -> list[int]:
    candidates = [item for item in range(1, len(scores) + 1) if item not in excluded]
    best = sorted(candidates, key=lambda item: (-scores[item - 1], item))[:k]
    return best + [0] * (k - len(best))


def test_random_cases_with_ties():
    rng = np.random.default_rng(0)
    boundary_ties = short_lists = 0
    for _ in range(600):
        rows, items, k = (int(rng.integers(1, high)) for high in (6, 40, 30))
        scores = rng.integers(0, int(rng.choice([1, 2, 4, 500])), (rows, items)).astype(np.float32) - 1
        excluded = rng.integers(0, items + 1, (rows, int(rng.integers(0, 20))))
        got = top_k(torch.from_numpy(scores), torch.from_numpy(excluded), k)
        assert got.items.shape == got.scores.shape == (rows, k)
        for row in range(rows):
            expected = slow_list(scores[row].tolist(), excluded[row].tolist(), k)
            assert got.items[row].tolist() == expected
            assert got.scores[row].tolist() == [scores[row, i - 1] if i else -math.inf for i in expected]
            one_more = slow_list(scores[row].tolist(), excluded[row].tolist(), k + 1)
            boundary_ties += one_more[-1] > 0 and scores[row, one_more[-1] - 1] == scores[row, one_more[-2] - 1]
            short_lists += expected[-1] == 0
    assert boundary_ties > 100
    assert short_lists > 100


def test_wide_rows_of_ties():
    scores = torch.zeros(4, 20_000)
    scores[:, 15_000:15_004] = 1
    got = top_k(scores, torch.tensor([[0], [1], [15_001], [3]]), 6)
    assert got.items.tolist() == [
        [15_001, 15_002, 15_003, 15_004, 1, 2],
        [15_001, 15_002, 15_003, 15_004, 2, 3],
        [15_002, 15_003, 15_004, 1, 2, 3],
        [15_001, 15_002, 15_003, 15_004, 1, 2],
    ]


def test_a_row_does_not_depend_on_its_neighbours():
    scores = torch.randint(0, 30, (64, 500), generator=torch.Generator().manual_seed(0)).float()
    excluded = torch.randint(0, 501, (64, 3), generator=torch.Generator().manual_seed(1))
    together = top_k(scores, excluded, 10).items
    for row in range(64):
        assert torch.equal(top_k(scores[row : row + 1], excluded[row : row + 1], 10).items[0], together[row])


def test_the_scores_are_left_alone():
    scores = torch.ones(2, 5)
    top_k(scores, torch.tensor([[1], [2]]), 3)
    assert (scores == 1).all()


class Echo(Recommender):
    """Scores an item by its number, and a history by its last item."""

    def __init__(self, num_items: int = 9) -> None:
        super().__init__(num_items, max_history_length=3)
        self.frozen = torch.nn.Dropout()

    def score(self, history, *, noise=None):
        last = history.gather(1, (history > 0).sum(1, keepdim=True).sub(1).clamp(min=0))
        return -(torch.arange(1, self.num_items + 1) - last).abs().float()


def lists(history, **options):
    return Echo().recommend(torch.tensor(history), k=3, **options).items.tolist()


def test_padding_may_be_on_either_side():
    assert lists([[0, 0, 2, 5]]) == lists([[2, 5, 0, 0]]) == lists([[2, 0, 5, 0]]) == [[4, 6, 3]]


def test_the_history_may_stay_among_the_candidates():
    assert lists([[2, 5]], exclude_seen=False) == [[5, 4, 6]]
    assert lists([[2, 5]], exclude_seen=False, exclude=torch.tensor([[5]])) == [[4, 6, 3]]
    assert lists([[2, 5]], exclude=torch.tensor([[4]])) == [[6, 3, 7]]


@pytest.mark.parametrize(("wrong", "seen"), [([[-5, 2]], "-5"), ([[2, 10]], "10")])
def test_what_is_no_item_number_is_named(wrong, seen):
    for call in (lambda: lists(wrong), lambda: lists([[2]], exclude=torch.tensor(wrong))):
        with pytest.raises(UsageError, match=rf"1\.\.9, 0 for padding, got {seen}$"):
            call()


def test_rows_must_belong_together():
    with pytest.raises(UsageError, match="2 histories, 1 rows of exclude and 2 of noise"):
        lists([[2], [3]], exclude=torch.tensor([[4]]))
    with pytest.raises(UsageError, match="2 histories, 2 rows of exclude and 3 of noise"):
        lists([[2], [3]], noise=RequestNoise.from_keys(torch.arange(3)))


def test_every_module_is_back_in_its_own_mode():
    model = Echo().train()
    model.frozen.eval()
    model.recommend(torch.tensor([[2]]))
    assert model.training
    assert not model.frozen.training
    model.score = lambda history, noise=None: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.recommend(torch.tensor([[2]]))
    assert model.training


def test_queries_are_ids_or_titles():
    model = Echo(3)
    model.vocabulary = Vocabulary(("30", "20", "10"))
    assert model.recommend(["10"], k=1).items.tolist() == [[2]]
    assert model.recommend([10], k=1).items.tolist() == [[2]]


def test_lightning_draws_the_noise_of_the_seed(tmp_path):
    """What `diffrec test` draws is what the benchmark drew for the same seed."""
    data = InteractionDataModule.of(synthetic(), "loo-full-masked@1", seed=5)
    drawn = []

    class Watching(Echo):
        def score(self, history, *, noise=None):
            drawn.append(noise.state.clone())
            return super().score(history, noise=noise)

    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.test(Watching(data.num_items), datamodule=data, verbose=False)
    first = data.test_dataloader().dataset[0]
    assert torch.equal(drawn[0], RequestNoise.from_keys(first.key, 5).state)
