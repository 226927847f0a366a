"""Each protocol id: what is asked, what is masked, and which datasets it refuses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from diffrec.bench.evaluate import evaluate
from diffrec.bench.leaks import walks_for
from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.protocol import PROTOCOLS, get_protocol, refuse_other_part
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases, TrainingPart, global_time
from diffrec.data.synthetic import synthetic
from diffrec.errors import NotFoundError, UsageError
from diffrec.metrics.functional import metric_names
from diffrec.metrics.ranking import RankingMetrics
from diffrec.recommender import Recommender

WHOLE = [[number, number + 1, number + 2, number + 3] for number in range(1, 31)]
FILES = {"train": [[1, 2], [3]], "valid": [[3], [4]], "test": [[4, 5], [1]]}
PREFIXES = {"train": [[1, 2, 3]], "valid": [[2], [2, 4]], "test": [[3], [3, 1], [3, 1, 2]]}


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@pytest.fixture
def dataset(dataset_of, protocol_id):
    if protocol_id.startswith("prefix"):
        return dataset_of(**PREFIXES, aligned=False)
    if protocol_id.startswith("gts"):
        return synthetic(num_users=60, num_items=40)
    files = protocol_id.startswith(("diffrec-temporal", "cf-lightgcn"))
    return dataset_of(**FILES) if files else dataset_of(WHOLE)


every_protocol = pytest.mark.parametrize("protocol_id", PROTOCOLS)


@every_protocol
def test_the_headline_is_a_reported_metric(protocol_id):
    protocol = get_protocol(protocol_id)
    assert protocol.id == protocol_id
    assert re.fullmatch(r"[a-z0-9-]+@\d+", protocol_id)
    assert protocol.headline in metric_names(protocol.cutoffs)


def test_what_an_id_means_does_not_change():
    """Numbers are stored under these ids: another mask, headline or length of list needs another id."""
    sequential, collaborative = (5, 10, 20, 50), (10, 20, 50, 100)
    assert {p.id: (p.masked, p.headline, p.cutoffs) for p in PROTOCOLS.values()} == {
        "loo-full-masked@1": (True, "ndcg@10", sequential),
        "loo-full-unmasked@1": (False, "ndcg@10", sequential),
        "user-split-811@1": (False, "ndcg@10", sequential),
        "user-split-811-masked@1": (True, "ndcg@10", sequential),
        "prefix-811@1": (False, "recall@20", sequential),
        "temporal-811@1": (True, "recall@20", collaborative),
        "diffrec-temporal@1": (True, "recall@20", collaborative),
        "diffrec-temporal-wval@1": (True, "recall@20", collaborative),
        "cf-lightgcn@1": (True, "recall@20", collaborative),
        "cf-lightgcn-refit@1": (True, "recall@20", collaborative),
        "gts-last@1": (True, "ndcg@10", sequential),
    }


@every_protocol
def test_seen_items_are_masked_or_nothing_is(protocol_id, dataset):
    protocol = get_protocol(protocol_id)
    raw, split = protocol.split(dataset), protocol.apply(dataset)
    for before, after in ((raw.valid, split.valid), (raw.test, split.test)):
        assert len(after) > 0
        assert rows_of(after.history) == rows_of(before.history)
        assert rows_of(after.target) == rows_of(before.target)
        assert after.key.tolist() == before.key.tolist()
        assert rows_of(after.seen) == (rows_of(before.seen) if protocol.masked else [[]] * len(after))
        if protocol.masked:
            assert after.seen.contains(after.history).all()
            assert len(after.seen.values) > 0
    assert rows_of(split.train) == rows_of(raw.train)


@every_protocol
def test_settings_are_searched_on_the_same_validation(protocol_id, dataset):
    """Unless this one trains on it, and then the other holds it out."""
    protocol, searched = get_protocol(protocol_id), get_protocol(get_protocol(protocol_id).searched_by)
    assert searched.searched_by == searched.id
    assert (searched.headline, searched.masked) == (protocol.headline, protocol.masked)
    ours, theirs = protocol.apply(dataset), searched.apply(dataset)
    assert rows_of(ours.valid.target) == rows_of(theirs.valid.target)
    if protocol.selected_by is None:
        assert rows_of(ours.train) == rows_of(theirs.train)
        assert rows_of(ours.valid.history) == rows_of(theirs.valid.history)
        assert rows_of(ours.valid.seen) == rows_of(theirs.valid.seen)
    else:
        assert len(ours.train.values) == len(theirs.train.values) + len(theirs.valid.target.values)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("loo-full-masked@1", "loo-full-unmasked@1", True),
        ("user-split-811@1", "user-split-811-masked@1", True),
        ("diffrec-temporal@1", "diffrec-temporal-wval@1", True),
        ("loo-full-masked@1", "temporal-811@1", False),
        ("loo-full-masked@1", "gts-last@1", False),
        ("cf-lightgcn@1", "cf-lightgcn-refit@1", False),
    ],
)
def test_what_was_learnt_under_a_protocol_is_asked_under_those_that_train_on_the_same(one, other, alike):
    for first, second in ((one, other), (other, one)):
        learnt, asked = TrainingPart("ml", first), TrainingPart("ml", second)
        refuse_other_part("model", None, asked)
        refuse_other_part("model", learnt, None)
        refuse_other_part("model", learnt, TrainingPart("another dataset", second))
        if alike:
            refuse_other_part("model", learnt, asked)
        else:
            with pytest.raises(UsageError, match=f"was trained on {first} of ml; what {second} asks may be among"):
                refuse_other_part("model", learnt, asked)


@every_protocol
def test_a_split_says_what_its_training_part_is(protocol_id, dataset):
    assert get_protocol(protocol_id).apply(dataset).part == TrainingPart(dataset.name, protocol_id)


def test_protocols_that_choose_alike_share_a_search():
    shared = {p.id: p.searched_by for p in PROTOCOLS.values() if p.searched_by != p.id}
    assert shared == {"diffrec-temporal-wval@1": "diffrec-temporal@1", "cf-lightgcn-refit@1": "cf-lightgcn@1"}


@pytest.mark.parametrize(
    ("protocol_id", "history"),
    [
        ("diffrec-temporal@1", [[1, 2], [3]]),
        ("diffrec-temporal-wval@1", [[1, 2, 3], [3, 4]]),
        ("cf-lightgcn@1", [[1, 2, 3], [3, 4]]),
    ],
)
def test_validation_items_are_masked_at_test_whatever_the_history(protocol_id, history, dataset):
    test = get_protocol(protocol_id).apply(dataset).test
    assert rows_of(test.history) == history
    assert rows_of(test.seen) == [[1, 2, 3], [3, 4]]


def test_every_published_prefix_is_asked(dataset_of):
    split = get_protocol("prefix-811@1").apply(dataset_of(**PREFIXES, aligned=False))
    assert rows_of(split.train) == [[1, 2, 3]]
    assert (rows_of(split.valid.history), rows_of(split.valid.target)) == ([[], [2]], [[2], [4]])
    assert (rows_of(split.test.history), rows_of(split.test.target)) == ([[], [3], [3, 1]], [[3], [1], [2]])


def test_the_last_tenths_of_each_user_are_asked(dataset_of):
    split = get_protocol("temporal-811@1").apply(dataset_of([[*range(1, 21)], [1, 2, 3]]))
    assert rows_of(split.train) == [[*range(1, 17)], [1]]
    assert rows_of(split.valid.target) == [[17, 18], [2]]
    assert rows_of(split.test.history) == rows_of(split.test.seen) == [[*range(1, 19)], [1, 2]]
    assert rows_of(split.test.target) == [[19, 20], [3]]


class NewestFirst(Recommender):
    """The larger the number of an item, the better; no two items tie."""

    def score(self, history, *, noise=None):
        return torch.arange(self.num_items, dtype=torch.float32).expand(len(history), -1).clone()


@pytest.mark.parametrize("part", ["valid", "test"])
def test_items_of_the_future_are_in_no_list_and_never_hit(part, log_of):
    """Item 8 first occurs while it is validated, item 9 while it is tested; 6 and 10 to 20 never do."""
    rows = [
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (20, 8)],
        [(5, 3), (6, 4), (7, 7), (8, 2), (30, 9)],
        [(9, 1), (10, 7), (11, 2), (12, 4), (31, 8)],
        [(13, 5), (21, 1), (32, 3)],
    ]
    cases = getattr(global_time(log_of(rows), 0.75, 0.85), part)
    histories, targets, met = {
        "valid": ([[1, 2, 3, 4, 5], [5]], [[8], [1]], {1, 2, 3, 4, 5, 7}),
        "test": (
            [[3, 4, 7, 2], [1, 7, 2, 4], [5, 1]],
            [[9], [8], [3]],
            {1, 2, 3, 4, 5, 7, 8},
        ),
    }[part]
    assert (rows_of(cases.history), rows_of(cases.target)) == (histories, targets)
    lists = [sorted(met - {*history}, reverse=True) for history in histories]
    ranks = [
        1.0 + found.index(target) if target in found else math.inf
        for found, (target,) in zip(lists, targets, strict=True)
    ]
    assert math.inf in ranks
    model = NewestFirst(20).eval()
    result = evaluate(model, cases, (1, 5), batch_size=2)
    assert result.ranks.values.tolist() == ranks
    assert [[item for item in row if item] for row in result.top_items.tolist()] == [row[:5] for row in lists]
    metrics = RankingMetrics(20, (1, 5))
    for batch in (EvaluationBatches(cases, 2, None)[number] for number in range(math.ceil(len(cases) / 2))):
        metrics.update(model.score(batch.history), batch.target, batch.seen)
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(result.metrics)
    assert result.metrics["recall@5"] == np.mean([rank <= 5 for rank in ranks])


@pytest.mark.parametrize("name", ["loo-full-masked@1", "temporal-811@1", "user-split-811@1", "gts-last@1"])
def test_times_stand_beside_their_items(name):
    dataset = synthetic(num_users=40, num_items=60)
    part = dataset.parts["all"]
    moments = set(zip(part.items.values.tolist(), part.times.values.tolist(), strict=True))
    split = get_protocol(name).apply(dataset)
    parts = ((split.train, split.times), *((cases.history, cases.times) for cases in (split.valid, split.test)))
    for items, times in parts:
        assert np.array_equal(items.offsets, times.offsets)
        assert set(zip(items.values.tolist(), times.values.tolist(), strict=True)) <= moments
    rows = np.arange(len(split.test))[::-1]
    assert np.array_equal(split.test.take(rows).times[0], split.test.times[len(rows) - 1])


def test_a_dataset_without_times_has_none():
    dataset = synthetic(num_users=40, num_items=60)
    plain = replace(dataset, parts={"all": replace(dataset.parts["all"], timestamps=None)})
    split = get_protocol("loo-full-masked@1").apply(plain)
    assert split.times is split.valid.times is split.test.times is None


def test_a_dataset_with_times_in_one_file_only_has_none():
    dataset = walks_for("diffrec-temporal@1")
    assert get_protocol("diffrec-temporal@1").apply(dataset).timestamps is not None
    without = {name: replace(dataset.parts[name], timestamps=None) for name in ("valid", "test")}
    timed = replace(dataset, parts={**dataset.parts, **without})
    split = get_protocol("diffrec-temporal@1").apply(timed)
    assert split.times is split.valid.times is split.test.times is None


def test_a_mask_that_hides_a_target_is_refused(dataset_of):
    repeated = dataset_of([[1, 2, 3, 4], [1, 2, 3, 1], [5, 2, 3, 5]])
    with pytest.raises(UsageError, match="small has 2 test targets among the seen items"):
        get_protocol("loo-full-masked@1").apply(repeated)
    assert rows_of(get_protocol("loo-full-unmasked@1").apply(repeated).test.target) == [[4], [1], [5]]


@pytest.mark.parametrize(
    ("protocol", "instead"),
    [
        ("loo-full-masked@1", "loo-full-unmasked@1"),
        ("user-split-811-masked@1", "user-split-811@1"),
        ("temporal-811@1", "loo-full-unmasked@1"),
    ],
)
def test_the_refusal_names_the_option_with_a_protocol_without_mask(protocol, instead, dataset_of):
    repeated = dataset_of([[1, 2, 1, 2] * 5] * 20)
    with pytest.raises(UsageError, match=f"as in 'diffrec fit --data.protocol={instead}'$"):
        get_protocol(protocol).apply(repeated)


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(NotFoundError, match="did you mean 'loo-full-masked@1'"):
        get_protocol("loo-full-maskd@1")


def test_a_masked_validation_target_is_refused(dataset_of):
    with pytest.raises(UsageError, match="1 validation targets among the seen items"):
        get_protocol("loo-full-masked@1").apply(dataset_of([[1, 2, 1, 3]]))


@dataclass(frozen=True)
class Counts:
    """What a protocol makes of a real dataset; cold: test targets that no training sequence holds."""

    train: int
    valid_users: int
    test_users: int
    test_targets: int
    cold: int


# As published, but for what is drawn by seed: the hold-out of kgat_amazon_book.
REAL = {
    ("s3rec_beauty", "loo-full-masked@1"): Counts(198_502 - 2 * 22_363, 22_363, 22_363, 22_363, 138),
    ("s3rec_sports", "loo-full-masked@1"): Counts(296_337 - 2 * 35_598, 35_598, 35_598, 35_598, 317),
    ("s3rec_toys", "loo-full-masked@1"): Counts(167_597 - 2 * 19_412, 19_412, 19_412, 19_412, 279),
    ("s3rec_yelp", "loo-full-unmasked@1"): Counts(316_354 - 2 * 30_431, 30_431, 30_431, 30_431, 73),
    ("diffurec_ml1m", "loo-full-masked@1"): Counts(1_000_209 - 2 * 6_040, 6_040, 6_040, 6_040, 2),
    ("fmrec_ml100k", "loo-full-masked@1"): Counts(100_000 - 2 * 943, 943, 943, 943, 3),
    ("letter_instruments", "loo-full-masked@1"): Counts(206_153 - 2 * 24_772, 24_772, 24_772, 24_772, 35),
    ("collisiongenrec_scientific", "loo-full-masked@1"): Counts(58_492 - 2 * 8_317, 8_317, 8_317, 8_317, 73),
    ("iba_microlens", "loo-full-masked@1"): Counts(78_255 - 2 * 13_210, 13_210, 13_210, 13_210, 940),
    ("preferdiff_beauty", "user-split-811@1"): Counts(129_728, 2_236, 2_237, 2_237, 1),
    ("preferdiff_sports", "user-split-811@1"): Counts(205_406, 3_559, 3_561, 3_561, 1),
    ("preferdiff_toys", "user-split-811@1"): Counts(110_638, 1_941, 1_942, 1_942, 1),
    ("dreamrec_zhihu", "prefix-811@1"): Counts(61_641, 8_160, 7_911, 7_911, 569),
    ("diffrec_ml1m_clean", "diffrec-temporal@1"): Counts(403_277, 5_949, 5_949, 57_532, 0),
    ("diffrec_ml1m_noisy", "diffrec-temporal@1"): Counts(429_993, 5_949, 5_949, 57_532, 0),
    ("lightgcn_gowalla", "cf-lightgcn@1"): Counts(810_128 - 91_047, 29_858, 29_858, 217_242, 21),
    ("lightgcn_yelp2018", "cf-lightgcn@1"): Counts(1_237_259 - 143_751, 31_668, 31_668, 324_147, 165),
    ("kgat_amazon_book", "cf-lightgcn@1"): Counts(652_514 - 65_282, 43_225, 70_591, 193_920, 221),
    ("ml100k", "gts-last@1"): Counts(79_999, 197, 166, 166, 15),
    ("ml_latest_small", "gts-last@1"): Counts(80_003, 85, 82, 82, 29),
}


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "protocol_id"), REAL, ids="-".join)
def test_what_a_protocol_makes_of_a_real_dataset(name, protocol_id, real_data):
    split = get_protocol(protocol_id).apply(real_data(name))
    targets = split.test.target.values
    cold = int((~np.isin(targets, split.train.values)).sum())
    counts = Counts(len(split.train.values), len(split.valid), len(split.test), len(targets), cold)
    assert counts == REAL[name, protocol_id]
    for cases in (split.valid, split.test):
        assert not cases.seen.contains(cases.target).any()
        assert cases.target.lengths.min() > 0


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "share"), [("lightgcn_gowalla", 0.9997), ("lightgcn_yelp2018", 0.9964)])
def test_published_hold_outs_are_a_tenth_of_all_items_of_a_user(name, share, real_data):
    train, valid, test = (real_data(name).parts[part].items.lengths for part in ("train", "valid", "test"))
    assert (valid == (train + valid + test) // 10).mean() == pytest.approx(share, abs=0.00005)


@pytest.mark.real_data
def test_targets_of_yelp_are_in_its_histories_too_often_for_a_mask(real_data):
    dataset = real_data("s3rec_yelp")
    test = get_protocol("loo-full-unmasked@1").apply(dataset).test
    assert test.history.contains(test.target).sum() == 2_027
    with pytest.raises(UsageError, match="s3rec_yelp has 1640 validation targets among the seen items"):
        get_protocol("loo-full-masked@1").apply(dataset)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["ml100k", "ml_latest_small"])
def test_real_time_parts_what_is_learnt_from_what_is_asked(name, real_data):
    """The latest event of training lies before all that is validated, and that before all that is tested."""
    log = real_data(name).parts["all"]
    split = get_protocol("gts-last@1").apply(real_data(name))
    pairs = log.items.row_of_entry * (1 << 20) + log.items.values
    time_of = dict(zip(pairs.tolist(), log.timestamps.values.tolist(), strict=True))
    user_number = {user: number for number, user in enumerate(log.user_ids)}

    def times(cases: Cases) -> list[int]:
        numbers = [user_number[user] << 20 for user in cases.users]
        return [time_of[number + item] for number, item in zip(numbers, cases.target.values.tolist(), strict=True)]

    latest = np.sort(log.timestamps.values)[len(split.train.values) - 1]
    assert latest < min(times(split.valid)) <= max(times(split.valid)) < min(times(split.test))
    assert set(split.valid.unavailable) == {*range(1, len(real_data(name).vocabulary) + 1)} - {*split.train.values}
    assert set(split.test.unavailable) < set(split.valid.unavailable)


@pytest.mark.parametrize("protocol", ["loo-full-unmasked@1", "user-split-811@1", "temporal-811@1", "gts-last@1"])
def test_users_with_too_few_items_are_counted(log_of, protocol):
    rows = [[(13 * place + user, place + 1) for place in range(2 + (user > 3) * 8)] for user in range(14)]
    assert get_protocol(protocol).apply(log_of(rows)).too_short == (0 if protocol == "gts-last@1" else 4)
