"""What `recommend` takes, and what it leaves behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer

from diffrec.bench.evaluate import evaluate
from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.errors import UsageError
from diffrec.models import DiffRec, DreamRec, FMRec, GiffCF, SASRec
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


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_whole_numbers_of_any_size_are_read(dtype, unchecked_types):
    model = SASRec(9, embedding_size=4).eval()
    history = torch.tensor([[2, 5]])
    assert torch.equal(model.recommend(history.to(dtype), 3).items, model.recommend(history, 3).items)


def test_truth_values_and_times_of_another_shape_are_refused(unchecked_types):
    with pytest.raises(UsageError, match=r"tensor of whole numbers, got \(1, 2\) of bool"):
        lists([[True, False]])
    with pytest.raises(UsageError, match=r"one second for each item of the history, got \(1, 2\) for .* \(1, 3\)"):
        lists([[1, 2, 3]], times=torch.tensor([[10, 20]]))


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


NAMED = Vocabulary(tuple("abcdefghi"), tuple(f"Title {letter}" for letter in "abcdefghi"))


def named() -> Echo:
    model = Echo()
    model.vocabulary = NAMED
    return model


def test_histories_of_several_users_by_title_or_id():
    model = named()
    both = model.recommend([["title b", "e"], ["id:h"]], k=3).items
    assert both.tolist() == model.recommend(torch.tensor([[2, 5], [8, 0]]), k=3).items.tolist()
    assert model.recommend(["b", "e"], k=3).items.tolist() == both[:1].tolist()
    assert model.recommend([[], ["e"]], k=3).items[1].tolist() == [4, 6, 3]


def test_a_text_is_no_history_and_users_are_no_items():
    with pytest.raises(UsageError, match=r"got the text 'Title b'; write \['Title b'\]"):
        named().recommend("Title b")
    for mixed in ([["a"], "b"], [["a"], 3]):
        with pytest.raises(UsageError, match="one list a user"):
            named().recommend(mixed)


def test_what_is_no_history_is_named(unchecked_types):
    for wrong, message in (
        (None, "a history is a list of titles or ids, or a .* got NoneType"),
        ({"a": 1}, "got dict"),
        (torch.tensor([[1, 2]]).numpy(), "got ndarray"),
        ([None], "a title or an id is text or a whole number, got None"),
        ([["a", 1.5]], r"got 1\.5"),
        (torch.tensor([1, 2]), r"\(batch, length\) tensor of whole numbers, got \(2,\) of int64"),
        (torch.tensor([[1.0]]), r"got \(1, 1\) of float32"),
    ):
        with pytest.raises(UsageError, match=message):
            named().recommend(wrong)


def test_a_list_ends_where_there_are_no_more_items():
    """However long a list is asked for, it holds what the model has; other places are 0."""
    best = Echo().recommend(torch.tensor([[2, 5], [3, 0]]), 10**12)
    assert best.items.tolist() == [[4, 6, 3, 7, 8, 1, 9, 0, 0], [2, 4, 1, 5, 6, 7, 8, 9, 0]]
    assert torch.isneginf(best.scores[0]).tolist() == [False] * 7 + [True] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": "3"}, "k must be a whole number from 1, got '3'"),
        ({"k": 3.0}, r"k must be a whole number from 1, got 3\.0"),
        ({"seed": "1"}, "seed must be a whole number that 64 bits hold, got '1'"),
        ({"seed": 1 << 63}, "seed must be .* got 9223372036854775808"),
        ({"num_inference_steps": "4"}, r"num_inference_steps must be a whole number in 1\.\.20, got '4'"),
        ({"num_inference_steps": 2.5}, r"got 2\.5"),
        ({"guidance_scale": "2"}, "guidance_scale must be a finite number, got '2'"),
        ({"guidance_scale": [2]}, r"got \[2\]"),
    ],
)
def test_numbers_of_another_type_are_named_and_change_nothing(wrong, message, unchecked_types):
    torch.manual_seed(0)
    model, history = DreamRec(9, num_train_timesteps=20).eval(), torch.tensor([[2, 5]])
    before = model.recommend(history).scores
    with pytest.raises(UsageError, match=message):
        model.recommend(history, **wrong)
    assert torch.equal(model.recommend(history).scores, before)


def test_steps_and_guidance_of_one_call_are_gone_after_it():
    torch.manual_seed(0)
    model = DreamRec(9, num_train_timesteps=20).eval()
    history = torch.tensor([[2, 5]])
    before = model.recommend(history).scores
    fewer = model.recommend(history, num_inference_steps=4, guidance_scale=1.0).scores
    model.set_sampling(num_inference_steps=4, guidance_scale=1.0)
    assert torch.equal(model.recommend(history).scores, fewer)
    model.set_sampling(num_inference_steps=20, guidance_scale=3.0)
    assert torch.equal(model.recommend(history).scores, before)
    with pytest.raises(UsageError, match=r"must be a whole number in 1\.\.20, got 21"):
        model.recommend(history, num_inference_steps=21)
    with pytest.raises(UsageError, match="guidance_scale must be a finite number, got nan"):
        model.recommend(history, guidance_scale=float("nan"))
    assert torch.equal(model.recommend(history).scores, before)
    with pytest.raises(UsageError, match="DiffRec has no guidance_scale, so leave it out; it has: num_inference_steps"):
        DiffRec(9, dims=(4,)).set_sampling(guidance_scale=2.0)
    with pytest.raises(UsageError, match="Echo has no num_inference_steps, so leave it out; it has: none"):
        Echo().recommend(history, num_inference_steps=2)


def test_a_scheduler_that_does_not_fit_changes_nothing():
    model = DreamRec(9, num_train_timesteps=20)
    own = model.scheduler
    with pytest.raises(UsageError, match="FlowMatchHeunDiscreteScheduler cannot be used"):
        model.set_sampling(num_inference_steps=5, scheduler="FlowMatchHeunDiscreteScheduler")
    assert model.scheduler is own
    assert model.num_inference_steps is None
    model.set_sampling(scheduler="HeunDiscreteScheduler")
    assert type(model.scheduler).__name__ == "HeunDiscreteScheduler"


def test_all_that_a_scheduler_changes_is_back_after_a_block():
    model = DiffRec(9, dims=(4,))
    names = ("num_inference_steps", "scheduler", "eta", "stochastic")
    before = [getattr(model, name) for name in names]
    with model.sampling(scheduler="DDIMScheduler", eta=0.5, num_inference_steps=2):
        assert (model.eta, model.stochastic, model.num_steps) == (0.5, True, 2)
    assert [getattr(model, name) for name in names] == before


def test_ddpm_and_ddim_are_a_choice():
    """On the same weights: the names of diffusers, with its usual eta, and eta between them."""
    torch.manual_seed(0)
    model, history = DreamRec(9, num_train_timesteps=20).eval(), torch.tensor([[2, 5]])
    ddpm = model.recommend(history).scores
    model.set_sampling(scheduler="DDIMScheduler")
    assert (model.eta, model.uses_noise) == (0.0, True)  # it still starts from noise
    ddim = model.recommend(history).scores
    model.stochastic = False
    assert torch.equal(model.recommend(history).scores, ddim)
    model.set_sampling(eta=0.5)
    between = model.recommend(history).scores
    model.set_sampling(scheduler="DDPMScheduler", num_samples=1)
    assert torch.equal(model.recommend(history).scores, ddpm)
    assert len({tuple(scores[0].tolist()) for scores in (ddpm, ddim, between)}) == 3
    model.set_sampling(scheduler="DDIMScheduler", eta=1.0, num_samples=3)
    assert model.denoiser_calls == 3 * 20 * 2
    assert not torch.equal(model.recommend(history).scores, ddpm)

    model = DiffRec(9, dims=(4,), noise_scale=0.5, noise_min=0.1, noise_max=0.9).eval()
    as_released = model.recommend(history).scores
    assert not model.uses_noise
    model.set_sampling(scheduler="LCMScheduler", num_samples=2)
    assert model.uses_noise
    model.set_sampling(scheduler="DDIMScheduler", num_samples=1)
    assert not model.uses_noise
    model.set_sampling(scheduler="DDPMScheduler", num_samples=2)
    assert model.uses_noise
    assert not torch.equal(model.recommend(history).scores, as_released)
    model.set_sampling(scheduler="EulerDiscreteScheduler", num_samples=1)
    assert not model.uses_noise  # whatever stochastic and eta were for the steps of DDIM
    with pytest.raises(UsageError, match="draws no noise as it is set"):
        model.set_sampling(num_samples=2)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (DreamRec, {"eta": 1.5}, "eta must lie from 0 to 1, got 1.5"),
        (DreamRec, {"eta": "0"}, "eta must be a finite number, got '0'"),
        (DreamRec, {"num_samples": 0}, "num_samples must be a whole number from 1, got 0"),
        (DreamRec, {"scheduler": "DDPMScheduler", "eta": 0.0}, r"is DDIMScheduler with eta 1, got eta 0\.0"),
        (DreamRec, {"scheduler": "HeunDiscreteScheduler", "eta": 0.0}, "eta belongs to DDIM.*, got it with Heun"),
        (DiffRec, {"num_samples": 2}, "DiffRec draws no noise as it is set, so samples are the same; DDPMScheduler"),
        (FMRec, {"eta": 0.0}, "FMRec has no eta, so leave it out; it has: num_inference_steps, scheduler, num_samples"),
        (FMRec, {"scheduler": "DDPMScheduler"}, "DDIMScheduler cannot be used: .*FlowMatchEulerDiscreteScheduler"),
        (partial(FMRec, fidelity="original"), {"scheduler": "FlowMatchHeunDiscreteScheduler"}, "has no scheduler"),
        (GiffCF, {"num_samples": 2}, "GiffCF has no num_samples, so leave it out; it has: num_inference_steps"),
        (Echo, {"eta": 0.0}, "Echo has no eta, so leave it out; it has: none"),
    ],
)  # fmt: skip
def test_sampling_that_a_model_does_not_take_is_refused_and_changes_nothing(model, words, message, unchecked_types):
    model = model() if model is Echo else model(9)
    names = ("num_inference_steps", "scheduler", "eta", "stochastic", "num_samples")
    before = [getattr(model, name, None) for name in names]
    with pytest.raises(UsageError, match=message):
        model.set_sampling(**words)
    assert [getattr(model, name, None) for name in names] == before


@pytest.mark.parametrize("protocol", ["loo-full-masked@1", "loo-full-unmasked@1"])
def test_lightning_measures_what_the_benchmark_measures(protocol, tmp_path):
    """Seen items are no candidates where the protocol masks them, in validation, which picks the epoch, and test."""
    data = InteractionDataModule.of(synthetic(), protocol)
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, accelerator="cpu")
    for part, run in (("valid", trainer.validate), ("test", trainer.test)):
        (told,) = run(Echo(data.num_items), datamodule=data, verbose=False)
        expected = evaluate(Echo(data.num_items).eval(), getattr(data.split, part), (10, 20)).metrics
        for name in ("ndcg@10", "recall@20", "mrr"):
            assert told[f"{part}/{name}"] == pytest.approx(expected[name], rel=1e-6), name


def test_predicted_lists_keep_seen_items_where_the_protocol_does(monkeypatch):
    model, history = Echo(), torch.tensor([[2, 5]])
    model.predicted_items = 3
    monkeypatch.setattr(model, "_noise", lambda batch: None)
    for seen, items in ((history[:, :0], [[5, 4, 6]]), (history, [[4, 6, 3]])):
        assert model.predict_step(Batch(history, torch.tensor([[3]]), seen=seen), 0).items.tolist() == items


def test_another_seed_is_another_list():
    torch.manual_seed(0)
    model, history = DreamRec(9, embedding_size=4, num_train_timesteps=5).eval(), torch.tensor([[2, 5]])
    first, again, other = (model.recommend(history, 3, seed=seed).scores for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_scores_of_several_samples_are_their_mean():
    torch.manual_seed(0)
    model = DreamRec(9, embedding_size=4, num_train_timesteps=5).eval()
    history, noise = torch.tensor([[2, 5]]), RequestNoise.from_keys(torch.tensor([3]))
    alone = [model.score(history, noise=noise) for _ in range(3)]  # one walk after the other, from the same source
    assert not torch.equal(alone[0], alone[1])
    model.num_samples = 3
    together = model.score(history, noise=RequestNoise.from_keys(torch.tensor([3])))
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


def test_losses_are_weighted_by_how_rarely_their_step_is_drawn(monkeypatch):
    torch.manual_seed(0)
    model = DiffRec(9, dims=(4,), num_train_timesteps=5, dropout=0.0)
    batch, t = Batch(torch.tensor([[1, 2], [3, 4]]), torch.zeros(2, 0, dtype=torch.int64)), torch.tensor([1, 3])

    def loss(*weight):
        monkeypatch.setattr(model.timesteps, "draw", lambda size, device: TimestepDraw(t, torch.tensor(weight)))
        torch.manual_seed(1)
        return model.training_loss(batch).item()

    assert loss(2.0, 0.5) == pytest.approx(2.0 * loss(1.0, 0.0) + 0.5 * loss(0.0, 1.0), rel=1e-5)
    assert loss(2.0, 0.5) != pytest.approx(loss(1.0, 1.0), rel=1e-3)
