"""The contract of `Recommender` as tests, for models of diffrec and of other packages."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import diffrec
from diffrec.bench.leaks import check_no_leak
from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule, TrainingBatches
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.testing.small_models import NUM_ITEMS, built, fitted, started

MET = NUM_ITEMS - 4  # items 61..64 are in the catalogue and in nobody's training sequence
NUM_USERS, K = 400, 10


def requests(lengths: np.ndarray) -> torch.Tensor:
    """Users that training never met: random items, repeats included, right-padded."""
    rng = np.random.default_rng(7)
    items = rng.integers(1, NUM_ITEMS + 1, (len(lengths), int(lengths.max())))
    return torch.from_numpy(np.where(np.arange(items.shape[1]) < lengths[:, None], items, 0))


def scores_of(model: Recommender, history: torch.Tensor, noise: RequestNoise | None = None) -> torch.Tensor:
    """The scores for the window that the model reads."""
    with torch.inference_mode():
        return model.checked_scores(history, noise or RequestNoise.from_history(history))


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to rounding in float32, measured by the largest score."""
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def gradients_of(model: Recommender, batch: Batch) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    loss = model.training_loss(batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    return {parameter: p.grad for parameter, p in model.named_parameters() if p.requires_grad}


def optimizer_of(model: Recommender) -> torch.optim.Optimizer:
    """The one optimiser, in whichever of Lightning's forms it is given."""
    given: Any = model.configure_optimizers()
    given = given["optimizer"] if isinstance(given, Mapping) else given
    return given[0] if isinstance(given, list | tuple) else given


def protocols_of(name: str) -> tuple[str, str, str]:
    """Those that a model is tried under: leave-one-out, and two others that its name decides."""
    first, *others = PROTOCOLS
    place = zlib.crc32(name.encode()) % len(others)
    return first, others[place], others[place - len(others) // 2]


LISTS = """
import hashlib, sys, torch
from safetensors.torch import load_file
import diffrec

threads, size, histories, k, *entries = sys.argv[1:]
torch.set_num_threads(int(threads))
for entry in entries:
    model = diffrec.load(entry)
    lists = [model.recommend(part, int(k)).items for part in load_file(histories)["histories"].split(int(size))]
    print(hashlib.sha256(torch.cat(lists).numpy().tobytes()).hexdigest())
"""


class ModelConformance:
    """What holds for every model. A subclass, whose name begins with Test, says for which `names`.

    names: as in `-c model/<name>`; of models of diffrec, or of plug-ins that are installed.
    """

    names: ClassVar[Sequence[str]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test once for each of the names; a model is trained once for all of them."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names, scope="class")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def one_thread(cls) -> Iterator[None]:
        """Models this small gain nothing from two, which wait for one another wherever a core is busy."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls):
        """Walks over 60 items in a catalogue of 64."""
        walks = synthetic(num_users=150, num_items=MET, seed=1)
        return replace(walks, vocabulary=Vocabulary(tuple(f"item-{j}" for j in range(1, NUM_ITEMS + 1))))

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, dataset):
        return InteractionDataModule.of(dataset, "loo-full-masked@1", batch_size=64)

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, name, data):
        return fitted(name, data)

    @pytest.fixture(scope="class")
    @classmethod
    def batch(cls, model, data):
        """All training examples at once, as the model asks for them."""
        examples = TrainingBatches(data.split.train, model.examples, model.max_history_length)
        return examples[np.arange(len(examples))]

    @pytest.fixture(scope="class")
    @classmethod
    def histories(cls):
        """Requests of 0 to 24 items, which is longer than any window here."""
        return requests(np.arange(NUM_USERS) % 25)

    @pytest.fixture(scope="class")
    @classmethod
    def scores(cls, model, histories):
        """Asked once, to be compared with what comes later and in other ways."""
        return scores_of(model, histories)

    @pytest.fixture(scope="class")
    @classmethod
    def lists(cls, model, histories):
        return model.recommend(histories, K)

    # scores

    def test_one_finite_score_for_every_item(self, model, histories, scores):
        for history, got in ((histories, scores), *((h, scores_of(model, h)) for h in (histories[:1], histories[:0]))):
            assert got.shape == (len(history), NUM_ITEMS)
            assert got.is_floating_point()
            assert torch.isfinite(got).all()

    def test_scores_tell_items_apart(self, scores):
        assert (scores.std(1) > 0).float().mean() > 0.9

    def test_padding_changes_no_score(self, model):
        short = requests(np.arange(60) % 7)  # 6 slots, so that the padding stays inside every window
        for width in (1, 3, 30):
            assert_close(scores_of(model, torch.nn.functional.pad(short, (0, width))), scores_of(model, short))

    def test_a_longer_history_is_read_from_its_end(self, model, histories):
        window = model.max_history_length or histories.shape[1]
        sizes = (histories > 0).sum(1).tolist()
        ends = [row[max(size - window, 0) : size] for row, size in zip(histories, sizes, strict=True)]
        cut = torch.nn.utils.rnn.pad_sequence(ends, batch_first=True)
        noise = RequestNoise.from_history(histories)
        assert_close(scores_of(model, cut, replace(noise)), scores_of(model, histories, replace(noise)))

    def test_scores_are_the_products_that_an_index_takes_them_for(self, model, histories, scores):
        try:
            keys = model.keys
        except UsageError:
            with pytest.raises(UsageError, match="does not compare one vector"):
                model.query(histories)
            return
        with torch.inference_mode():
            products = model.checked_query(histories, RequestNoise.from_history(histories)) @ keys.T
        assert_close(products, scores)

    def test_scores_can_be_asked_outside_of_inference_mode(self, model, histories, scores):
        with_gradients = model.checked_scores(histories, RequestNoise.from_history(histories))
        assert_close(with_gradients.detach(), scores)

    # lists

    @pytest.mark.parametrize(("size", "batches"), [(1, 26), (7, 6)])
    def test_a_list_does_not_depend_on_the_batch(self, model, histories, scores, lists, size, batches):
        for start in range(0, batches * size, size):
            here = slice(start, start + size)
            width = int((histories[here] > 0).sum(1).max())
            alone = histories[here, :width]
            assert torch.equal(model.recommend(alone, K).items, lists.items[here])
            assert_close(scores_of(model, alone), scores[here])

    def test_a_list_does_not_depend_on_its_place(self, model, histories, lists):
        assert torch.equal(model.recommend(histories.flip(0), K).items.flip(0), lists.items)

    def test_one_thread_or_two(self, model, histories, lists):
        torch.set_num_threads(2)
        try:
            two = model.recommend(histories, K).items
        finally:
            torch.set_num_threads(1)
        assert torch.equal(two, lists.items)

    @pytest.mark.slow  # each process imports torch and Lightning
    def test_one_process_or_three(self, data, dataset, histories, tmp_path):
        """Two others load every model from its entry; they differ in threads, batches and the hashes of Python."""
        entries, expected, histories = [], [], histories[::13].contiguous()
        for name in self.names:
            model = started(name, data)
            entries.append(diffrec.save(model, tmp_path / name, dataset=dataset))
            items = model.recommend(histories, K).items
            assert len(items.unique(dim=0)) > 1
            expected.append(hashlib.sha256(items.numpy().tobytes()).hexdigest())
        save_file({"histories": histories}, tmp_path / "histories.safetensors")
        others = [
            subprocess.Popen(
                [sys.executable, "-c", LISTS, threads, size, tmp_path / "histories.safetensors", str(K), *entries],
                stdout=subprocess.PIPE,
                text=True,
            )
            for threads, size in (("1", "1"), ("2", "7"))
        ]
        for other in others:
            assert other.communicate(timeout=300)[0].split() == expected

    def test_the_seed_of_a_request_decides_and_nothing_else(self, model, histories):
        torch.manual_seed(1)
        first = model.recommend(histories, K, seed=3)
        torch.manual_seed(2)
        second = model.recommend(histories, K, seed=3)
        assert torch.equal(first.items, second.items)
        assert torch.equal(first.scores, second.scores)

    def test_lists_are_the_best_scores_in_order(self, model, histories, scores):
        got = model.recommend(histories, K, exclude_seen=False)
        assert_close(got.scores, scores.sort(dim=1, descending=True).values[:, :K])
        assert_close(scores.gather(1, got.items - 1), got.scores)

    def test_seen_items_and_padding_are_never_recommended(self, model, histories):
        """With as many places as the catalogue has items, a list holds exactly the unseen ones, then zeros."""
        got = model.recommend(histories, NUM_ITEMS + 6)
        assert got.items.shape == got.scores.shape == (NUM_USERS, NUM_ITEMS)
        for items, scores, history in zip(got.items.tolist(), got.scores, histories.tolist(), strict=True):
            unseen = {*range(1, NUM_ITEMS + 1)} - {*history}
            assert {*items[: len(unseen)]} == unseen
            assert items[len(unseen) :] == [0] * (NUM_ITEMS - len(unseen))
            assert torch.isfinite(scores[: len(unseen)]).all()
            assert (scores[len(unseen) :] == -torch.inf).all()

    def test_further_items_can_be_left_out(self, model, histories):
        exclude = torch.tensor([[5, 0, 61]]).expand(NUM_USERS, -1)
        with_seen = model.recommend(histories, NUM_ITEMS, exclude_seen=False, exclude=exclude).items
        assert all({*row} == {*range(1, NUM_ITEMS + 1)} - {5, 61} | {0} for row in with_seen.tolist())
        without_seen = model.recommend(histories, NUM_ITEMS, exclude=exclude).items
        for row, history in zip(without_seen.tolist(), histories.tolist(), strict=True):
            assert {*row} - {0} == {*range(1, NUM_ITEMS + 1)} - {*history} - {5, 61}

    def test_an_empty_history_gets_a_list(self, model):
        nothing = torch.zeros(2, 0, dtype=torch.int64)
        got = model.recommend(nothing, NUM_ITEMS)
        assert [sorted(row) for row in got.items.tolist()] == [list(range(1, NUM_ITEMS + 1))] * 2
        padding = torch.zeros(2, 4, dtype=torch.int64)
        assert torch.equal(model.recommend(padding, NUM_ITEMS).items, got.items)

    def test_items_that_training_never_met_are_read_and_ranked(self, model):
        unknown = torch.tensor([[61, 62], [64, 0]])
        got = model.recommend(unknown, NUM_ITEMS).items.tolist()
        assert {*got[0]} == {*range(61)} | {63, 64}
        assert {*got[1]} == {*range(64)}

    def test_numbers_outside_the_catalogue_are_refused(self, model):
        for history in ([[1, NUM_ITEMS + 1]], [[-1, 2]]):
            with pytest.raises(UsageError, match=f"must lie in 1..{NUM_ITEMS}"):
                model.recommend(torch.tensor(history))
        with pytest.raises(UsageError, match="k must be a whole number from 1"):
            model.recommend(torch.tensor([[1]]), 0)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_left_as_it_was_and_changes_no_list(self, model, histories, lists, training):
        model.train(training)
        modes = [module.training for module in model.modules()]
        got = model.recommend(histories, K).items
        left = [module.training for module in model.modules()]
        model.eval()
        assert left == modes == [training] * len(modes)
        assert torch.equal(got, lists.items)

    def test_the_loss_reaches_every_parameter(self, name, data, batch):
        model = built(name)
        if isinstance(model, ClosedFormRecommender):
            assert not list(model.parameters()), "a closed form is solved, not trained"
            return
        model.prepare_on(data.split)
        gradients = gradients_of(model, batch)
        assert gradients
        for parameter, grad in gradients.items():
            assert grad is not None, parameter
            assert torch.isfinite(grad).all(), parameter
            assert grad.abs().sum() > 0, parameter

    def test_training_moves_every_parameter(self, name, model):
        before, after = dict(built(name).named_parameters()), dict(model.named_parameters())
        assert before.keys() == after.keys()
        moved = {parameter: not torch.equal(before[parameter], after[parameter]) for parameter in before}
        assert moved == {parameter: value.requires_grad for parameter, value in after.items()}

    def test_scores_follow_the_weights_in_training(self, name, data, histories, batch):
        """What a model keeps between requests must not outlive an optimiser step."""
        model = built(name)
        if isinstance(model, ClosedFormRecommender):
            return
        model.prepare_on(data.split)
        scores_of(model.eval(), histories)
        optimizer = optimizer_of(model)
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        gradients_of(model, batch)
        optimizer.step()
        fresh = built(name, seed=1)
        fresh.load_state_dict(model.state_dict())
        assert_close(scores_of(model.eval(), histories), scores_of(fresh.eval(), histories))

    def test_the_loss_of_a_position_reads_nothing_after_it(self, name, model, batch):
        """Where every position of a sequence is an example, what follows it is what it has to predict."""
        if model.examples != "next":
            return
        position = 2
        chosen = batch.history[:, position + 1] > 0
        history, target = batch.history[chosen], torch.zeros_like(batch.target[chosen])
        target[:, position] = batch.target[chosen, position]
        later, others = torch.arange(history.shape[1]) > position, torch.where(history > 0, 1 + history % NUM_ITEMS, 0)

        def loss(items: torch.Tensor) -> float:
            torch.manual_seed(0)
            with torch.inference_mode():
                return float(model.training_loss(Batch(items, target, key=batch.key[chosen])))

        assert loss(torch.where(later, others, history)) == loss(history)
        assert loss(torch.where(later, history, others)) != loss(history), "what is before it counts"

    def test_nothing_that_is_asked_later_reaches_weights_or_scores(self, name):
        for protocol in protocols_of(name):
            check_no_leak(lambda data: fitted(name, data, epochs=1, validate=True), protocol)

    def test_the_same_seed_trains_the_same_model(self, name, histories, lists, data):
        again = fitted(name, data)
        assert torch.equal(again.recommend(histories, K).items, lists.items)

    # keeping

    def test_a_state_dict_carries_everything_that_was_learnt(self, name, model, histories, scores):
        fresh = built(name, seed=1).eval()
        assert not torch.equal(scores_of(fresh, histories), scores)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(scores_of(fresh, histories), scores)

    def test_a_saved_model_gives_the_same_lists(self, model, histories, lists, dataset, tmp_path):
        loaded = diffrec.load(diffrec.save(model, tmp_path / "entry", dataset=dataset))
        assert type(loaded) is type(model)
        assert not loaded.training
        assert torch.equal(loaded.recommend(histories, K).items, lists.items)
        by_id = loaded.recommend(["id:item-3", "id:item-61"], K).items
        assert torch.equal(by_id, model.recommend(torch.tensor([[3, 61]]), K).items)
