"""What `recommend` takes, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError
from diffrec.recommender import Recommender


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
