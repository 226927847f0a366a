"""Each protocol id: what is asked, what is masked, and which datasets it refuses."""

from __future__ import annotations

import re

import pytest

from diffrec.data.protocol import PROTOCOLS, get_protocol
from diffrec.data.ragged import Ragged
from diffrec.errors import NotFoundError, UsageError
from diffrec.metrics.functional import metric_names

WHOLE = [[number, number + 1, number + 2, number + 3] for number in range(1, 31)]
FILES = {"train": [[1, 2], [3]], "valid": [[3], [4]], "test": [[4, 5], [1]]}
PREFIXES = {"train": [[1, 2, 3]], "valid": [[2], [2, 4]], "test": [[3], [3, 1], [3, 1, 2]]}


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@pytest.fixture
def dataset(dataset_of, protocol_id):
    if protocol_id.startswith("prefix"):
        return dataset_of(**PREFIXES, aligned=False)
    return dataset_of(**FILES) if "diffrec-temporal" in protocol_id else dataset_of(WHOLE)


every_protocol = pytest.mark.parametrize("protocol_id", PROTOCOLS)


@every_protocol
def test_the_headline_is_a_reported_metric(protocol_id):
    protocol = get_protocol(protocol_id)
    assert protocol.id == protocol_id
    assert re.fullmatch(r"[a-z0-9-]+@\d+", protocol_id)
    assert protocol.headline in metric_names(protocol.cutoffs)


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


@pytest.mark.parametrize(
    ("protocol_id", "history"),
    [("diffrec-temporal@1", [[1, 2], [3]]), ("diffrec-temporal-wval@1", [[1, 2, 3], [3, 4]])],
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


def test_a_mask_that_hides_a_target_is_refused(dataset_of):
    repeated = dataset_of([[1, 2, 3, 4], [1, 2, 3, 1], [5, 2, 3, 5]])
    with pytest.raises(UsageError, match="small has 2 test targets among the seen items"):
        get_protocol("loo-full-masked@1").apply(repeated)
    assert rows_of(get_protocol("loo-full-unmasked@1").apply(repeated).test.target) == [[4], [1], [5]]


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(NotFoundError, match="did you mean 'loo-full-masked@1'"):
        get_protocol("loo-full-maskd@1")


def test_a_masked_validation_target_is_refused(dataset_of):
    with pytest.raises(UsageError, match="1 validation targets among the seen items"):
        get_protocol("loo-full-masked@1").apply(dataset_of([[1, 2, 1, 3]]))
