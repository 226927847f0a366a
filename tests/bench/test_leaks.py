"""The check for leaks passes what is honest and finds everything that peeks; what is known of models that know nothing.

Every model and baseline goes through it in tests/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from diffrec.baselines import BASELINES
from diffrec.bench.evaluate import Evaluation, evaluate
from diffrec.bench.leaks import check_no_leak, check_split, walks_for
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import PROTOCOLS, Protocol
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split, by_user, leave_one_out
from diffrec.data.synthetic import synthetic
from diffrec.errors import DiffrecError, UsageError
from diffrec.recommender import ClosedFormRecommender, Recommender

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


class Honest(ClosedFormRecommender):
    """How often training has met each item."""

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items)
        self.register_buffer("counts", torch.zeros(num_items))

    def solve(self, sequences: Ragged) -> None:
        self.counts += torch.bincount(torch.from_numpy(sequences.values), minlength=self.num_items + 1)[1:]

    def score(self, history, *, noise=None):
        return self.counts.expand(len(history), -1).clone()


class SolvesOnEverything(Honest):
    def prepare(self, sequences):
        for part in self.trainer.datamodule.dataset.parts.values():
            self.solve(part.items)


class ReadsTheTest(Honest):
    def prepare(self, sequences):
        super().prepare(sequences)
        self.solve(self.trainer.datamodule.split.test.target)


class LearnsWhileItValidates(Honest):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.solve(Ragged.from_rows([batch.target[batch.target > 0].tolist()]))


class LooksUpTheAnswers(Honest):
    """Its weights are those of the honest one."""

    def prepare(self, sequences):
        super().prepare(sequences)
        test = self.trainer.datamodule.split.test
        self.answers = {tuple(test.history[row]): test.target[row][-1] for row in range(len(test))}

    def score(self, history, *, noise=None):
        scores = super().score(history)
        for row, asked in enumerate(history.tolist()):
            if answer := self.answers.get(tuple(item for item in asked if item)):
                scores[row, answer - 1] += 1000
        return scores


def fitting(model: type[Recommender]) -> Callable[[InteractionDataModule], Recommender]:
    """One epoch of Lightning with its validation."""

    def fit(data: InteractionDataModule) -> Recommender:
        fitted = model(data.num_items)
        trainer = pl.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(fitted, datamodule=data)
        return fitted

    return fit


def solved_on(sequences_of: Callable[[Split], Ragged]) -> Callable[[InteractionDataModule], Recommender]:
    """A fit without Lightning, on the sequences that `sequences_of(split)` hands it."""

    def fit(data: InteractionDataModule) -> Recommender:
        model = Honest(data.num_items)
        model.solve(sequences_of(data.split))
        return model

    return fit


# models


@every_protocol
def test_an_honest_model_passes(protocol):
    check_no_leak(fitting(Honest), protocol)


@pytest.mark.parametrize("protocol", ["loo-full-masked@1", "user-split-811@1", "prefix-811@1", "diffrec-temporal@1"])
@pytest.mark.parametrize(
    ("model", "changed"),
    [
        (SolvesOnEverything, r"1 of 1 weights \(first counts\), the scores of .* training histories, .* and "),
        (ReadsTheTest, r"1 of 1 weights \(first counts\)"),
        (LearnsWhileItValidates, r"1 of 1 weights \(first counts\)"),
        (LooksUpTheAnswers, "test items, the scores of .* test histories change"),
    ],
)
def test_a_model_that_peeks_is_caught(model, changed, protocol):
    with pytest.raises(DiffrecError, match=f"{model.__name__} peeks under {protocol}: .*{changed}"):
        check_no_leak(fitting(model), protocol)


def test_training_on_the_validation_is_told_from_selecting_by_it():
    refit = solved_on(lambda split: split.test.history)
    with pytest.raises(DiffrecError, match=r"Honest peeks .* with other validation and test items, 1 of 1 weights"):
        check_no_leak(refit, "loo-full-masked@1")
    check_no_leak(refit, "loo-full-masked@1", selects=True)
    for leaking in (lambda split: split.test.target, lambda split: split.test.history.joined(split.test.target)):
        with pytest.raises(DiffrecError, match=r"Honest peeks .* with other test items, 1 of 1 weights"):
            check_no_leak(solved_on(leaking), "loo-full-masked@1", selects=True)


def test_a_fit_that_does_not_repeat_itself_is_not_called_a_leak():
    def unseeded(data: InteractionDataModule) -> Recommender:
        model = Honest(data.num_items)
        model.counts = torch.rand(data.num_items)
        return model

    with pytest.raises(UsageError, match="fit gives another Honest each time"):
        check_no_leak(unseeded, "loo-full-masked@1")


def test_models_that_read_times_are_asked_with_them():
    told = []

    class ReadsTimes(Honest):
        reads_times = True

        def score(self, history, *, noise=None, times=None):
            told.append(times is not None)
            return super().score(history)

    def fit(data: InteractionDataModule) -> Recommender:
        model = ReadsTimes(data.num_items)
        model.solve(data.split.train)
        return model

    check_no_leak(fit, "loo-full-masked@1")
    assert told
    assert all(told)


def test_a_dataset_of_ones_own():
    check_no_leak(fitting(Honest), "temporal-811@1", synthetic(num_users=20, num_items=25, mean_length=7.0))
    with pytest.raises(UsageError, match="split by its files"):
        check_no_leak(fitting(Honest), "temporal-811@1", walks_for("diffrec-temporal@1"))


# splits


@every_protocol
def test_no_protocol_gives_its_targets_away(protocol):
    check_split(walks_for(protocol), protocol)


def test_repeated_items_are_no_leak():
    walks = walks_for("loo-full-unmasked@1")
    items = walks.parts["all"].items
    few = replace(walks, parts={"all": replace(walks.parts["all"], items=Ragged(1 + items.values % 3, items.offsets))})
    split = PROTOCOLS["loo-full-unmasked@1"].apply(few)
    assert split.test.history.contains(split.test.target).mean() > 0.5
    check_split(few, "loo-full-unmasked@1")


def asks_with_everything(dataset: Dataset) -> Split:
    split = leave_one_out(dataset)
    return replace(split, test=replace(split.test, history=dataset.parts["all"].items))


def asks_in_the_middle(dataset: Dataset) -> Split:
    """For the last but one item, with the last one in the history."""
    split, items = leave_one_out(dataset), dataset.parts["all"].items
    around = items.drop_last(2).joined(items.last(1))
    return replace(split, valid=replace(split.valid, history=around))


def trains_on_the_validation(dataset: Dataset) -> Split:
    return replace(leave_one_out(dataset), train=dataset.parts["all"].items.drop_last(1))


def trains_on_the_test(dataset: Dataset) -> Split:
    split = leave_one_out(dataset)
    return replace(split, train=split.train.joined(dataset.parts["all"].items.last(1)))


def masks_all_but_the_target(dataset: Dataset) -> Split:
    """No target is masked, and still the mask says which one it is."""
    split, items = leave_one_out(dataset), dataset.parts["all"].items
    catalogue = Ragged.from_lengths(
        np.tile(np.arange(1, dataset.num_items + 1), len(items)), np.full(len(items), dataset.num_items)
    )
    others = catalogue.values != np.repeat(items.last(1).values, dataset.num_items)
    seen = Ragged.from_groups(catalogue.row_of_entry[others], catalogue.values[others], len(items))
    return replace(split, test=replace(split.test, seen=seen))


def masks_the_test_target_in_the_validation(dataset: Dataset) -> Split:
    split, items = leave_one_out(dataset), dataset.parts["all"].items
    return replace(split, valid=replace(split.valid, seen=split.train.joined(items.last(1))))


def validates_on_the_test_target(dataset: Dataset) -> Split:
    split = leave_one_out(dataset)
    return replace(split, valid=replace(split.valid, target=split.test.target))


def drops_rare_items(dataset: Dataset) -> Split:
    """Rare over everything, the test included; each interaction stands alone where the places are numbered."""
    split = leave_one_out(dataset)
    counts = np.bincount(dataset.parts["all"].items.values, minlength=dataset.num_items + 1)
    kept = counts[split.train.values] >= min(8, counts.max())
    train = Ragged.from_groups(split.train.row_of_entry[kept], split.train.values[kept], len(split.train))
    return replace(split, train=train)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (asks_with_everything, "asks 40 test cases with their target, or with what comes after it"),
        (asks_in_the_middle, "asks 40 validation cases with their target, or with what comes after it"),
        (trains_on_the_validation, "gives away its validation targets: with others, training sequences change"),
        (trains_on_the_test, "gives away its test targets: with others, training sequences change"),
        (masks_the_test_target_in_the_validation, "gives away its test targets: with others, validation masks change"),
        (validates_on_the_test_target, "gives away its test targets: with others, validation targets change"),
        (masks_all_but_the_target, "gives away its test targets: with others, test masks change"),
        (drops_rare_items, "gives away its validation targets: with others, training sequences change"),
    ],
)
def test_a_split_that_gives_its_targets_away_is_caught(split, message, monkeypatch):
    leaky = Protocol("leaky@1", "made to be caught", split, True, "ndcg@10", (10,))
    monkeypatch.setitem(PROTOCOLS, leaky.id, leaky)
    with pytest.raises(DiffrecError, match=f"leaky@1 {message}"):
        check_split(walks_for("loo-full-masked@1"), leaky.id)
    with pytest.raises(DiffrecError, match=f"leaky@1 {message}"):
        check_no_leak(fitting(Honest), leaky.id)


def test_a_split_that_trains_by_the_histories_of_others_is_caught(monkeypatch):
    """Their targets do not matter, so that only the fit under this protocol is refused."""

    def split(dataset: Dataset) -> Split:
        parts = by_user(dataset)
        kept = ~np.isin(parts.train.values, parts.test.history.values)
        train = Ragged.from_groups(parts.train.row_of_entry[kept], parts.train.values[kept], len(parts.train))
        return replace(parts, train=train)

    monkeypatch.setitem(PROTOCOLS, "leaky@1", Protocol("leaky@1", "made to be caught", split, True, "ndcg@10", (10,)))
    check_split(walks_for("leaky@1"), "leaky@1")
    with pytest.raises(DiffrecError, match=r"leaky@1 trains on what it asks later: .* its training sequences change"):
        check_no_leak(fitting(Honest), "leaky@1")


def test_the_forms_of_the_generated_walks(monkeypatch):
    assert {name: {*walks_for(name).parts} for name in ("temporal-811@1", "diffrec-temporal@1", "prefix-811@1")} == {
        "temporal-811@1": {"all"},
        "diffrec-temporal@1": {"train", "valid", "test"},
        "prefix-811@1": {"train", "valid", "test"},
    }
    asked = walks_for("prefix-811@1").parts["test"]
    assert [row.tolist() for row in (asked.items[0], asked.items[1])] == [
        asked.items[2][:size].tolist() for size in (1, 2)
    ]
    assert len({*asked.user_ids}) == 13

    def refuses(dataset: Dataset) -> Split:
        raise UsageError("no")

    monkeypatch.setitem(PROTOCOLS, "picky@1", replace(PROTOCOLS["temporal-811@1"], split=refuses))
    with pytest.raises(UsageError, match="no generated dataset has a form that picky@1 takes"):
        walks_for("picky@1")


# models that know nothing


class RandomScores(Recommender):
    def score(self, history, *, noise=None):
        return noise.normal(self.num_items)


class CopiesTheHistory(Recommender):
    def score(self, history, *, noise=None):
        return torch.zeros(len(history), self.num_items + 1).scatter_(1, history, 1)[:, 1:]


def evaluated(model: Recommender, dataset: Dataset, protocol: str) -> Evaluation:
    return evaluate(model.eval(), PROTOCOLS[protocol].apply(dataset).test, (5, 10))


@every_protocol
def test_random_scores_hit_by_chance(protocol):
    """Among C candidates recall@k is k / C on average; several targets only make it vary less."""
    dataset = walks_for(protocol, num_users=1500, num_items=80)
    cases = PROTOCOLS[protocol].apply(dataset).test
    metrics = evaluated(RandomScores(80), dataset, protocol).metrics
    for k in (5, 10):
        chance = k / (80 - cases.seen.lengths)
        deviation = np.sqrt((chance * (1 - chance)).sum()) / len(cases)
        assert abs(metrics[f"recall@{k}"] - chance.mean()) < 4 * deviation


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if PROTOCOLS[name].masked])
def test_copying_the_history_is_worth_nothing_under_a_mask(protocol):
    result = evaluated(CopiesTheHistory(60), walks_for(protocol, 200, 60), protocol)
    assert {name: value for name, value in result.metrics.items() if name != "mrr" and value} == {}
    assert result.metrics["mrr"] < 0.05, "everything that is left shares a place in the middle"


def test_copying_the_history_is_worth_something_where_repeats_are_asked():
    walks = synthetic(num_users=100, num_items=60)
    items = walks.parts["all"].items
    again = items.drop_last(1).joined(items.last(1, skip=4))
    dataset = replace(walks, parts={"all": replace(walks.parts["all"], items=again, timestamps=None)})
    assert evaluated(CopiesTheHistory(60), dataset, "loo-full-unmasked@1").metrics["recall@10"] > 0.5


@pytest.mark.parametrize("protocol", ["loo-full-masked@1", "loo-full-unmasked@1", "temporal-811@1"])
@pytest.mark.parametrize("name", BASELINES)
def test_the_numbers_of_the_items_do_not_matter(name, protocol):
    module, _, class_name = BASELINES[name].partition(":")
    dataset = synthetic(num_users=80, num_items=60, seed=2)
    everybody, new_number = dataset.parts["all"], np.random.default_rng(0).permutation(60).astype(np.int32) + 1
    renumbered = Ragged(new_number[everybody.items.values - 1], everybody.items.offsets)
    results = []
    for version in (dataset, replace(dataset, parts={"all": replace(everybody, items=renumbered)})):
        model = getattr(import_module(module), class_name)(60)
        model.prepare_on(PROTOCOLS[protocol].apply(version))
        results.append(evaluated(model, version, protocol))
    before, after = results
    assert after.metrics == pytest.approx(before.metrics, abs=1e-9)
    assert after.optimistic == pytest.approx(before.optimistic, abs=1e-9)
    assert after.pessimistic == pytest.approx(before.pessimistic, abs=1e-9)
