"""Probes against slow loops over cases, and models whose answers are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffrec.baselines import Markov, Popularity, SequentialRules
from diffrec.baselines.sequential_rules import count_rules
from diffrec.bench.evaluate import evaluate
from diffrec.bench.probes import (
    PROBES,
    RULE_WINDOW,
    Subject,
    examine,
    lists,
    memorisation,
    order,
    reachable,
    shuffled,
    slices,
    steps,
)
from diffrec.data.dataset import Interactions
from diffrec.data.protocol import Protocol, get_protocol
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases, temporal_ratio
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import DiffRec, DreamRec, MaskGR, PreferGrow, RuleBridge
from diffrec.recommender import Recommender

NUM_ITEMS = 150
LOO = get_protocol("loo-full-masked@1")
SEVERAL = replace(get_protocol("temporal-811@1"), split=partial(temporal_ratio, test=0.4))


class LastItems(Recommender):
    """Whole numbers added up over the last four items, so that their order cannot matter, not even by rounding."""

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items, max_history_length=4)
        self.register_buffer("table", torch.randint(100, (num_items + 1, num_items)).float())

    def score(self, history, *, noise=None):
        return (self.table[history] * (history > 0)[:, :, None]).sum(1)


@pytest.fixture(scope="module")
def dataset():
    """80 users of 5 to 14 items; some items are met by nobody before the test."""
    return synthetic(num_users=80, num_items=NUM_ITEMS, seed=1, mean_length=9.0)


@pytest.fixture
def subject(dataset):
    """`subject(Markov)`: a solved baseline, or a model as it is given, under leave-one-out."""

    def make(model: type[Recommender] | Recommender, protocol: Protocol = LOO, **settings: int) -> Subject:
        torch.manual_seed(0)
        built = model(NUM_ITEMS) if isinstance(model, type) else model
        made = Subject(built.eval(), dataset, protocol, **settings)
        if hasattr(built, "solve"):
            built.solve(made.split.train)
        return made

    return make


def random_cases(rng: np.random.Generator) -> Cases:
    """50 histories of 0 to 9 items and 0 to 4 targets, repeats included."""
    history, target = (
        Ragged.from_lengths(rng.integers(1, 31, int(size.sum())).astype(np.int32), size)
        for size in (rng.integers(0, 10, 50), rng.integers(0, 5, 50))
    )
    return Cases(history, target, Ragged.empty(50), rng.permutation(900)[:50])


# order


def test_shuffling_belongs_to_the_request():
    cases = random_cases(np.random.default_rng(0))
    mixed = shuffled(cases, seed=3)
    assert all(sorted(mixed.history[row]) == sorted(cases.history[row]) for row in range(50))
    assert not np.array_equal(mixed.history.values, cases.history.values)
    rows = np.random.default_rng(1).permutation(50)[:20]
    assert np.array_equal(shuffled(cases.take(rows), seed=3).history.values, mixed.history.take(rows).values)
    assert not np.array_equal(shuffled(cases, seed=4).history.values, mixed.history.values)
    assert mixed.target is cases.target


def test_only_the_latest_events_change_places():
    cases = random_cases(np.random.default_rng(0))
    mixed = shuffled(cases, last=3)
    for row in range(50):
        before, after = cases.history[row].tolist(), mixed.history[row].tolist()
        assert after[: max(len(before) - 3, 0)] == before[: max(len(before) - 3, 0)]
        assert sorted(after[-3:]) == sorted(before[-3:])
    assert not np.array_equal(mixed.history.values, cases.history.values)


def test_every_order_is_as_likely():
    cases = Cases(Ragged.from_rows([[1, 2, 3]] * 3000), Ragged.empty(3000), Ragged.empty(3000), np.arange(3000))
    drawn, times = np.unique(shuffled(cases).history.values.reshape(3000, 3), axis=0, return_counts=True)
    assert len(drawn) == 6
    assert ((times - 500) ** 2 / 500).sum() < 20.5  # chi-square, 5 degrees of freedom, p = .001


@pytest.mark.parametrize("model", [Popularity, DiffRec(NUM_ITEMS, dims=(8,))])
def test_readers_of_sets_lose_nothing(model, subject):
    answer = order(subject(model))
    assert answer.whole.metrics == answer.metrics
    assert answer.whole.lost in (0, None)
    assert answer.window is None


def test_a_markov_chain_loses(subject):
    markov = subject(Markov, seed=5)
    answer = order(markov)
    mixed = evaluate(markov.model, shuffled(markov.split.test, 5), markov.protocol.cutoffs, seed=5)
    assert answer.whole.metrics == mixed.metrics
    assert answer.whole.lost == pytest.approx(1 - mixed.metrics["ndcg@10"] / answer.metrics["ndcg@10"])
    differences = markov.evaluation.values["ndcg@10"] - mixed.values["ndcg@10"]
    expected = differences.std() / len(differences) ** 0.5 / answer.metrics["ndcg@10"]
    assert answer.whole.standard_error == pytest.approx(expected)
    assert answer.whole.lost > 3 * answer.whole.standard_error > 0


def test_a_window_tells_order_from_recency(subject):
    answer = order(subject(LastItems))
    assert answer.window.last == 4
    assert answer.window.metrics == answer.metrics
    assert answer.whole.metrics != answer.metrics


def test_nothing_to_lose(subject, monkeypatch):
    everything_equal = Popularity(NUM_ITEMS)
    monkeypatch.setattr(everything_equal, "solve", lambda sequences: None)
    answer = order(subject(everything_equal))
    assert answer.metrics["ndcg@10"] == 0
    assert (answer.whole.lost, answer.whole.standard_error) == (None, None)


# memorisation


@pytest.mark.parametrize("window", [1, 3])
def test_reachable_targets_are_those_that_a_loop_finds(window, monkeypatch):
    monkeypatch.setattr("diffrec.bench.probes._ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    train = Ragged.from_lengths(rng.integers(1, 31, 60).astype(np.int32), np.array([0, 1, 2, 17, 40]))
    rules = {
        (int(train[row][a]), int(train[row][b]))
        for row in range(5)
        for a in range(len(train[row]))
        for b in range(a + 1, min(a + window, len(train[row]) - 1) + 1)
    }
    cases = random_cases(rng)
    expected = [
        any((int(item), int(target)) in rules for item in cases.history[row])
        for row in range(50)
        for target in cases.target[row]
    ]
    assert reachable(count_rules(train, 30, window), cases).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_a_model_of_copied_transitions_hits_only_what_was_seen(subject):
    answer = memorisation(subject(SequentialRules(NUM_ITEMS, window=2)), window=2)
    assert answer.seen.cases + answer.unseen.cases == 80
    assert answer.unseen.cases > 10
    assert answer.seen.hits > 0
    assert answer.unseen.hits == 0
    assert answer.unseen.metrics["ndcg@50"] == 0
    assert memorisation(subject(Popularity), window=2).unseen.hits > 0
    with pytest.raises(UsageError, match="window must be a whole number from 1, got 0"):
        memorisation(subject(Popularity), window=0)


# slices


@pytest.mark.parametrize("model", [Popularity, SequentialRules])
def test_slices_weigh_back_to_the_whole(model, subject):
    asked = subject(model)
    told, remembered = slices(asked), memorisation(asked, window=1)
    whole = asked.evaluation.metrics
    for parts in (told.popularity, told.history_length, (remembered.seen, remembered.unseen)):
        assert sum(part.cases for part in parts) == 80
        for name in whole:
            back = sum(part.cases * part.metrics[name] for part in parts if part.cases) / 80
            assert back == pytest.approx(whole[name], rel=1e-12)
        assert sum(part.hits for part in parts) == pytest.approx(80 * whole["recall@10"])


def test_slices_of_several_targets_against_a_loop(subject, monkeypatch):
    monkeypatch.setattr("diffrec.bench.probes._ROWS_AT_ONCE", 7)
    asked = subject(SequentialRules, SEVERAL)
    test, counts, ranks = asked.split.test, asked.item_counts, asked.evaluation.ranks
    assert test.target.lengths.max() > 1
    told = slices(asked)
    for part in told.popularity:
        if not part.cases:
            assert part.metrics == {}
            continue
        recalls, hits = [], 0
        for row in range(len(test)):
            inside = [
                rank
                for rank, item in zip(ranks[row], test.target[row], strict=True)
                if part.low <= counts[item - 1] <= part.high
            ]
            hits += sum(rank <= 20 for rank in inside)
            if inside:
                recalls.append(np.mean([rank <= 20 for rank in inside]))
        assert part.cases == len(recalls)
        assert part.hits == hits
        assert part.metrics["recall@20"] == pytest.approx(np.mean(recalls))
    assert sum(part.targets for part in told.popularity) == len(test.target.values)


def test_what_is_in_a_slice(subject):
    asked = subject(Popularity)
    told = slices(asked)
    bounds = [(part.low, part.high) for part in told.popularity]
    assert [name.partition(",")[0] for name in (part.name for part in told.popularity)] == [
        *(f"bucket {number}" for number in range(1, 6)),
        "cold",
    ]
    assert bounds[-1] == (0, 0)
    assert told.popularity[-1].cases > 0
    assert bounds[0][1] == asked.item_counts.max()
    assert all(low > high for (low, _), (_, high) in pairwise(bounds))
    lengths = asked.split.test.history.lengths
    assert {part.name: part.cases for part in told.history_length} == {
        "1 to 4 events": ((lengths >= 1) & (lengths <= 4)).sum(),
        "5 to 9 events": ((lengths >= 5) & (lengths <= 9)).sum(),
        "10 to 19 events": ((lengths >= 10) & (lengths <= 19)).sum(),
    }
    assert (told.history_length[0].low, told.history_length[-1].high) == (lengths.min(), lengths.max())


def test_other_item_numbers_change_nothing(subject, dataset):
    asked = subject(SequentialRules)
    number = np.concatenate([[0], np.random.default_rng(0).permutation(NUM_ITEMS) + 1]).astype(np.int32)
    part = dataset.parts["all"]
    renamed = replace(
        dataset,
        vocabulary=Vocabulary(tuple(f"item {n}" for n in range(1, NUM_ITEMS + 1))),
        parts={"all": Interactions(Ragged(number[part.items.values], part.items.offsets), part.user_ids)},
    )
    other = Subject(SequentialRules(NUM_ITEMS).eval(), renamed, asked.protocol)
    other.model.solve(other.split.train)
    assert slices(other) == slices(asked)
    assert memorisation(other) == memorisation(asked)


# lists


def test_lists_against_dense_arithmetic(subject, dataset):
    asked = subject(SequentialRules)
    told, train = lists(asked), asked.split.train
    has = np.zeros((80, NUM_ITEMS))
    has[train.row_of_entry, train.values - 1] = 1
    size = np.maximum(has.sum(0), 1) ** 0.5
    cosine = has.T @ has / size[:, None] / size
    pairs = [
        1 - cosine[a - 1, b - 1]
        for shown in asked.evaluation.top_items[:, :10]
        for place, a in enumerate(shown)
        for b in shown[place + 1 :]
    ]
    assert told.intra_list_diversity == pytest.approx(np.mean(pairs))
    assert told.k == 10
    assert (told.coverage, told.gini) == tuple(
        asked.evaluation.beyond_accuracy[f"{n}@10"] for n in ("coverage", "gini")
    )
    assert told.popularity_miscalibration < lists(subject(Popularity)).popularity_miscalibration <= 1


# steps


def dreamrec(**settings) -> DreamRec:
    torch.manual_seed(0)
    return DreamRec(NUM_ITEMS, embedding_size=8, num_train_timesteps=20, **settings).eval()


def test_steps_are_evaluations_with_that_many(subject):
    model = dreamrec(guidance_scale=2.0, num_inference_steps=3)
    asked = subject(model)
    told = steps(asked)
    assert [point.num_inference_steps for point in told] == [1, 2, 3, 5, 10, 20]
    assert [point.denoiser_calls for point in told] == [2, 4, 6, 10, 20, 40]
    assert [point.num_inference_steps for point in told if point.chosen] == [3]
    assert told[2].metrics == asked.evaluation.metrics
    assert model.num_inference_steps == 3
    model.num_inference_steps = 10
    assert told[4].metrics == asked.evaluate(asked.split.test).metrics != told[0].metrics
    assert all(point.ms_per_user > 0 and point.guidance_scale == 2 for point in told)


def test_all_steps_may_be_the_choice_and_a_grid_is_kept(subject):
    asked = subject(dreamrec(guidance_scale=1.0, num_inference_steps=None))
    told = steps(asked, [20, 4, 4])
    assert [(point.num_inference_steps, point.denoiser_calls, point.chosen) for point in told] == [
        (4, 4, False),
        (20, 20, True),
    ]
    assert asked.model.num_inference_steps is None


def test_steps_that_cannot_be_taken(subject):
    asked = subject(dreamrec(num_inference_steps=3))
    for grid, message in (
        ([1, 21], r"must be a whole number in 1\.\.20, got 21"),
        ([], "at least one"),
        ([0], "from 1"),
    ):
        with pytest.raises(UsageError, match=message):
            steps(asked, grid)
    asked.model.train()
    with pytest.raises(UsageError, match="training mode"):
        steps(asked, [1])
    assert asked.model.num_inference_steps == 3
    with pytest.raises(UsageError, match="Popularity takes no steps"):
        steps(subject(Popularity))


def test_models_that_are_no_gaussian_diffusion_have_steps_too(subject):
    torch.manual_seed(0)
    codes = {"num_levels": 3, "codebook_size": 32, "num_blocks": 1, "num_heads": 1, "feed_size": 8}
    for model, calls, guidance in (
        (MaskGR(NUM_ITEMS, embedding_size=8, **codes), {1: 1, 2: 2, 3: 3}, 1.0),
        (PreferGrow(NUM_ITEMS, embedding_size=8, num_inference_steps=3), {1: 4, 2: 6, 3: 8}, 2.0),
        (RuleBridge(NUM_ITEMS, embedding_size=8, num_train_timesteps=3), {1: 1, 2: 2, 3: 3}, 1.0),
    ):
        asked, own = subject(model), model.num_steps
        model.prepare(asked.split.train)
        told = steps(asked)
        assert {point.num_inference_steps: point.denoiser_calls for point in told} == calls
        assert {point.guidance_scale for point in told} == {guidance}
        assert [point.metrics for point in told if point.chosen] == [asked.evaluation.metrics]
        assert model.num_steps == own
    with pytest.raises(UsageError, match="num_inference_steps must be a whole number"):
        steps(asked, [4])


# all of them


def test_a_report_holds_what_was_asked(subject):
    asked, told = subject(Popularity), []
    report = examine(asked, report=lambda *words: told.append(words))
    assert told == [("order", 1, 4), ("memorisation", 2, 4), ("slices", 3, 4), ("lists", 4, 4)]
    assert (report.order, report.memorisation, report.slices, report.lists, report.steps) == (
        order(asked),
        memorisation(asked, RULE_WINDOW),
        slices(asked),
        lists(asked),
        None,
    )
    assert (report.dataset, report.protocol, report.test_cases) == ("synthetic", LOO.id, 80)
    assert report.dataset_sha256 == asked.dataset.sha256
    assert report.metrics == asked.evaluation.metrics
    one = examine(asked, ["memorisation"], window=1)
    assert one.memorisation == memorisation(asked, 1)
    assert {name for name in PROBES if getattr(one, name) is not None} == {"memorisation"}
    with pytest.raises(NotFoundError, match=r"no probe 'oder'.*did you mean 'order'\?"):
        examine(asked, ["oder"])
    with pytest.raises(UsageError, match="Popularity takes no steps"):
        examine(asked, ["steps"])


def test_batches_change_nothing(subject):
    model = dreamrec()
    one, other = (examine(subject(model, batch_size=size), ["order", "slices", "lists"]) for size in (7, 512))
    assert replace(one, batch_size=512) == other


def test_a_model_of_other_items_is_refused(dataset):
    with pytest.raises(UsageError, match="the model knows 12 items, synthetic has 150"):
        Subject(Popularity(12), dataset, LOO)
    model = Popularity(NUM_ITEMS)
    model.vocabulary = Vocabulary(tuple(reversed(dataset.vocabulary.item_ids)))
    with pytest.raises(UsageError, match="numbers its items in another way than synthetic"):
        Subject(model, dataset, LOO)


@pytest.mark.real_data
def test_rules_reach_a_third_of_the_targets_of_beauty(real_data):
    data = real_data("s3rec_beauty")
    asked = Subject(SequentialRules(data.num_items).eval(), data, LOO)
    asked.model.solve(asked.split.train)
    answer = memorisation(asked)
    assert answer.seen.targets / 22363 == pytest.approx(0.35, abs=0.005)
    assert answer.seen.metrics["recall@10"] == pytest.approx(0.23, abs=0.005)
    assert answer.unseen.hits == 0
