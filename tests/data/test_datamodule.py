"""Batches against lists cut by hand, the order of epochs, and the data module under a trainer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec.data.batch import Batch
from diffrec.data.datamodule import EpochSampler, EvaluationBatches, InteractionDataModule, TrainingBatches
from diffrec.data.ragged import Ragged
from diffrec.data.splits import leave_one_out
from diffrec.data.synthetic import synthetic
from diffrec.errors import UsageError
from diffrec.recommender import Recommender

users = st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=6)
windows = st.none() | st.integers(1, 4)
quick = settings(deadline=None, max_examples=60)

Example = tuple[list[int], list[int]]


def expected_examples(rows: list[list[int]], kind: str, window: int | None) -> list[Example]:
    """(history, target) of every example, in the order of the rows."""
    cut = slice(None if window is None else -window, None)
    if kind == "history":
        return [(row[cut], []) for row in rows if row]
    if kind == "prefix":
        return [(row[:stop][cut], [row[stop]]) for row in rows for stop in range(1, len(row))]
    if kind == "prefix-or-none":
        return [(row[:stop][cut], [row[stop]]) for row in rows for stop in range(len(row))]
    if kind == "pairs":
        return [([], [item]) for row in rows for item in sorted({*row})]
    if kind == "last":
        return [(row[:-1][cut], row[-1:]) for row in rows if len(row) > 1]
    return [(row[:-1][cut], row[1:][cut]) for row in rows if len(row) > 1]


def unpadded(tensor: torch.Tensor) -> list[list[int]]:
    """The rows of a right-padded tensor; fails on an item behind padding."""
    rows = [[item for item in row if item] for row in tensor.tolist()]
    width = tensor.shape[1]
    assert tensor.tolist() == [row + [0] * (width - len(row)) for row in rows]
    return rows


def examples_of(batch: Batch) -> list[Example]:
    return list(zip(unpadded(batch.history), unpadded(batch.target), strict=True))


def owners_of(rows: list[list[int]], kind: str) -> list[int]:
    """The row of every example."""
    count = {
        "history": lambda row: int(len(row) > 0),
        "next": lambda row: int(len(row) > 1),
        "last": lambda row: int(len(row) > 1),
        "prefix": lambda row: max(len(row) - 1, 0),
        "prefix-or-none": len,
        "pairs": lambda row: len({*row}),
    }[kind]
    return [user for user, row in enumerate(rows) for _ in range(count(row))]


# training examples


@pytest.mark.parametrize("kind", ["history", "next", "prefix", "prefix-or-none", "last", "pairs"])
@quick
@given(users, windows, st.randoms(use_true_random=False))
def test_training_examples(kind, rows, window, random):
    batches = TrainingBatches(Ragged.from_rows(rows), kind, window)
    expected = expected_examples(rows, kind, window)
    assert len(batches) == len(expected)
    assert batches.history_lengths.tolist() == [len(history) for history, _ in expected]
    indices = list(range(len(expected))) * 2
    random.shuffle(indices)
    indices = indices[: len(expected) + 1]
    batch = batches[np.array(indices, dtype=np.int64)]
    assert examples_of(batch) == [expected[i] for i in indices]
    assert batch.history.shape[1] == max((len(expected[i][0]) for i in indices), default=0), "no padding beyond need"
    assert batch.history.dtype == batch.target.dtype == torch.int64
    assert batch.seen is None
    assert batch.key.tolist() == [owners_of(rows, kind)[i] for i in indices]


def test_next_targets_stand_beside_the_item_before_them():
    batches = TrainingBatches(Ragged.from_rows([[1, 2, 3, 4, 5], [6, 7], [8]]), "next", 3)
    batch = batches[np.array([0, 1])]
    assert batch.history.tolist() == [[2, 3, 4], [6, 0, 0]]
    assert batch.target.tolist() == [[3, 4, 5], [7, 0, 0]]


def test_a_closed_form_gets_one_empty_batch():
    batches = TrainingBatches(Ragged.from_rows([[1, 2], [3, 4]]), "once", None)
    assert len(batches) == 1
    batch = batches[np.array([0])]
    assert batch.history.tolist() == [[0]]
    assert batch.target.shape == (1, 0)


@pytest.mark.parametrize("kind", ["history", "next", "prefix", "prefix-or-none", "last", "pairs"])
def test_no_training_example_holds_what_is_asked_later(kind):
    """Items occur once per user, so the row of an example is known by its items."""
    split = leave_one_out(synthetic(num_users=50, num_items=70, seed=2))
    batches = TrainingBatches(split.train, kind, None)
    batch = batches[np.arange(len(batches))]
    for row, (history, target) in zip(batches.rows.tolist(), examples_of(batch), strict=True):
        asked = {*split.valid.target[row].tolist(), *split.test.target[row].tolist()}
        assert len(asked) == 2
        assert not asked & {*history, *target}
        assert {*history, *target} <= {*split.train[row].tolist()}


# epochs


@quick
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_an_epoch_covers_every_example_once(lengths, batch_size, by_length, seed):
    sampler = EpochSampler(len(lengths), batch_size, seed, np.array(lengths) if by_length else None)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert Counter(np.concatenate(batches).tolist()) == Counter(range(len(lengths)))
        sizes = sorted(map(len, batches), reverse=True)
        assert sizes[-1] > 0
        assert by_length or sizes[:-1] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize("lengths", [None, np.arange(200) % 7])
def test_the_order_is_a_function_of_seed_and_epoch(lengths):
    def order(seed, epoch):
        sampler = EpochSampler(200, 16, seed, lengths)
        sampler.set_epoch(epoch)
        assert [b.tolist() for b in sampler] == [b.tolist() for b in sampler], "reading an epoch changes nothing"
        return [batch.tolist() for batch in sampler]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert order(1, 2) == orders[-1]
    together = [{frozenset(batch) for batch in batches} for batches in orders]
    for i in range(len(orders)):
        for j in range(i):
            assert len(together[i] & together[j]) <= 1, "the same examples meet again and again"


@pytest.mark.parametrize("lengths", [None, np.arange(200) % 7])
def test_an_epoch_goes_on_behind_the_batches_that_a_run_has_had(lengths):
    whole, sampler = EpochSampler(200, 16, 0, lengths), EpochSampler(200, 16, 0, lengths)
    sampler.go_on(2, 5)
    for epoch in (2, 3):
        whole.set_epoch(epoch)
        left = [batch.tolist() for batch in whole][5 if epoch == 2 else 0 :]
        assert [b.tolist() for b in sampler] == [b.tolist() for b in sampler] == left, "workers make two iterators"
        sampler.set_epoch(epoch + 1)


def test_batches_by_length_hold_similar_lengths_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 50, 4000)
    batches = list(EpochSampler(4000, 40, 0, lengths))
    padding = sum((lengths[batch].max() - lengths[batch]).sum() for batch in batches)
    assert padding < 0.05 * lengths.sum()
    longest = np.array([lengths[batch].max() for batch in batches])
    positions = np.array([lengths[batch].sum() for batch in batches])
    assert positions.std() < 0.05 * positions.mean(), "a mean over a batch weighs every position alike"
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5, "short and long batches alternate"


def test_batches_by_length_can_hold_the_same_number_of_examples():
    lengths = np.random.default_rng(0).integers(1, 50, 4001)
    batches = list(EpochSampler(4001, 40, 0, lengths, "examples"))
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(4001))
    assert {*map(len, batches)} <= {1, 39, 40}, "a mean over a batch weighs every example alike"
    padding = sum((lengths[batch].max() - lengths[batch]).sum() for batch in batches)
    assert padding < 0.05 * lengths.sum()


def test_an_iterator_made_before_its_epoch_is_set_follows_it():
    """Lightning does so where a run is resumed."""
    early, late = EpochSampler(20, 4, 0), EpochSampler(20, 4, 0)
    batches = iter(early)
    for sampler in (early, late):
        sampler.set_epoch(3)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in late]


def test_examples_of_one_length_alone_still_meet_others_every_epoch():
    """All lengths differ: sorting a whole epoch would form the same batches again and again."""
    sampler, epochs = EpochSampler(1000, 2, 0, np.arange(1000)), []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append({frozenset(batch.tolist()) for batch in sampler if len(batch) > 1})
    assert len(epochs[0] & epochs[1]) < 100


# evaluation


@quick
@given(users.filter(lambda rows: any(len(row) > 2 for row in rows)), windows, st.integers(1, 5))
def test_evaluation_batches_ask_every_case_once(dataset_of, rows, window, batch_size):
    cases = leave_one_out(dataset_of(rows)).test
    kept = [row for row in rows if len(row) > 2]
    cut = slice(None if window is None else -window, None)
    batches = EvaluationBatches(cases, batch_size, window)
    asked, longest = [], []
    for batch in batches:
        assert len(batch.history) <= batch_size
        parts = [unpadded(part) for part in (batch.history, batch.target, batch.seen)]
        asked += zip(batch.key.tolist(), *parts, strict=True)
        longest += [len(seen) for seen in parts[2]]
    assert sorted(asked) == [(user, row[:-1][cut], row[-1:], row[:-1]) for user, row in enumerate(kept)]
    assert longest == sorted(longest, reverse=True)
    assert len(batches) == -(-len(kept) // batch_size)
    assert [key for b in range(len(batches)) for key in cases.key[batches.rows(b)]] == [case[0] for case in asked]


# under a trainer


class Recorder(Recommender):
    """Notes what it is given; its one weight makes it trainable."""

    def __init__(self, num_items: int, max_history_length: int | None = None) -> None:
        super().__init__(num_items, max_history_length)
        self.bias = torch.nn.Parameter(torch.zeros(num_items))
        self.trained: list[list[list[Example]]] = []
        self.asked: list[int] = []

    def on_train_epoch_start(self):
        self.trained.append([])

    def training_loss(self, batch):
        self.trained[-1].append(examples_of(batch))
        return self.bias.sum()

    def score(self, history, *, noise=None):
        return self.bias.expand(len(history), -1)

    def test_step(self, batch, batch_idx):
        self.asked += batch.key.tolist()
        super().test_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(data: InteractionDataModule, window: int | None = None) -> Recorder:
    model = Recorder(data.num_items, window)
    trainer = pl.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    return model


@pytest.fixture(scope="module")
def dataset():
    return synthetic(num_users=40, num_items=50, seed=5)


def test_every_epoch_has_every_example_in_another_order(dataset):
    model = fitted(InteractionDataModule.of(dataset, "loo-full-masked@1", batch_size=8), window=6)
    train = leave_one_out(dataset).train
    expected = sorted(expected_examples([train[row].tolist() for row in range(len(train))], "next", 6))
    epochs = [[example for batch in epoch for example in batch] for epoch in model.trained]
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch) == expected
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides_the_batches(dataset):
    first, again, other = (
        fitted(InteractionDataModule.of(dataset, "loo-full-masked@1", batch_size=8, seed=seed)).trained
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_every_user_is_tested_once(dataset):
    data = InteractionDataModule.of(dataset, "loo-full-masked@1")
    data.eval_batch_size = 7
    model = fitted(data)
    assert sorted(model.asked) == list(range(40))


def test_the_model_chooses_the_examples_unless_told_otherwise(dataset, monkeypatch):
    monkeypatch.setattr(Recorder, "examples", "last")
    data = InteractionDataModule.of(dataset, "loo-full-masked@1")
    by_model = fitted(data).trained[0]
    told = InteractionDataModule("small", "loo-full-masked@1", examples="prefix")
    told.__dict__["dataset"] = dataset
    by_user = fitted(told).trained[0]
    assert sum(map(len, by_model)) == 40
    assert sum(map(len, by_user)) == int((leave_one_out(dataset).train.lengths - 1).sum())
    monkeypatch.setattr(Recorder, "examples", "history")
    assert fitted(data).trained[0] != by_model, "the next model is asked again"


def test_examples_that_a_model_cannot_learn_from_are_refused(dataset, monkeypatch):
    """A history that already holds the target, say, would train without a word."""
    told = InteractionDataModule("small", "loo-full-masked@1", examples="next")
    told.__dict__["dataset"] = dataset
    monkeypatch.setattr(Recorder, "examples", "prefix")
    wanted = "Recorder cannot learn from examples 'next'; it can from prefix, prefix-or-none, last"
    with pytest.raises(UsageError, match=wanted):
        fitted(told)
    monkeypatch.setattr(Recorder, "other_examples", ("next",))
    fitted(told)


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size"])
def test_batches_hold_something(name):
    with pytest.raises(UsageError, match=f"{name} must be a whole number from 1, got 0"):
        InteractionDataModule("small", "loo-full-masked@1", **{name: 0})


def test_an_unmasked_protocol_hands_out_no_seen_items(dataset):
    masked, unmasked = (InteractionDataModule.of(dataset, f"loo-full-{kind}@1") for kind in ("masked", "unmasked"))
    for loader in ("val_dataloader", "test_dataloader", "predict_dataloader"):
        assert all((batch.seen > 0).any(1).all() for batch in getattr(masked, loader)())
        assert all(batch.seen.shape[1] == 0 for batch in getattr(unmasked, loader)())


def test_no_training_example_at_all_is_an_error(dataset_of):
    data = InteractionDataModule.of(dataset_of([[1, 2, 3]]), "loo-full-masked@1")
    with pytest.raises(UsageError, match="no training sequence long enough"):
        data.train_dataloader()
