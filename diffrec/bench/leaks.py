"""Does anything that is asked later reach what is learnt, or asked with? Found out by replacing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from diffrec.data.datamodule import EvaluationBatches, InteractionDataModule
from diffrec.data.dataset import Dataset, Interactions
from diffrec.data.protocol import get_protocol
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases, Split, temporal_ratio
from diffrec.data.synthetic import synthetic
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, UsageError
from diffrec.recommender import Recommender

_PARTS = ("all", "train", "valid", "test")  # what a dataset can hold, earlier items of a user first
_REQUESTS_AT_ONCE = 256

Fit = Callable[[InteractionDataModule], Recommender]


def check_no_leak(fit: Fit, protocol: str, dataset: Dataset | None = None, *, selects: bool = False) -> None:
    """Fit twice, the second time with other items wherever training may not look: nothing may change.

    fit: trains a new model on the data module it gets, for `num_items` of that, from the same seed each
    time; dataset: `walks_for(protocol)` unless given, and small. The catalogue grows by items that nobody has
    met, which take the places of all items outside of the training part. Compared bit by bit: training
    sequences, weights, and the scores of both models for every training sequence and every validation and
    test history of `dataset`. selects: `fit` chooses by validation, so the items of the validation stay.

    Raises DiffrecError naming what changed, UsageError for a `fit` that does not repeat itself; first of all
    comes `check_split`.
    """
    known = _with_spare_items(walks_for(protocol) if dataset is None else dataset)
    check_split(known, protocol)
    edited = _replaced(known, _outside_of_training(known, protocol, selects))
    before, after = (get_protocol(protocol).apply(version) for version in (known, edited))
    what = "test items" if selects else "validation and test items"
    if not _equal(before.train, after.train):
        raise DiffrecError(f"{protocol} trains on what it asks later: with other {what}, its training sequences change")
    first, second = _fitted(fit, known, protocol), _fitted(fit, edited, protocol)
    if changed := _differences(first, second, before):
        if _differences(first, _fitted(fit, known, protocol), before):
            raise UsageError(f"fit gives another {type(first).__name__} each time; it must start from the same seed")
        raise DiffrecError(
            f"{type(first).__name__} peeks under {protocol}: with other {what}, {_listed(changed)} change"
        )


def check_split(dataset: Dataset, protocol: str) -> None:
    """A target stands behind the history it is asked with, and in nothing that is known before it is asked.

    Other targets of the test may change neither training, validation, test histories nor what is masked;
    other targets of the validation neither training nor the requests of the validation, which a protocol that
    trains on them does not choose by. Items may repeat: what counts is the place in the dataset. Raises DiffrecError
    naming the protocol and what is wrong.
    """
    known = _with_spare_items(dataset)
    origin, before = _origins(known, protocol), get_protocol(protocol).apply(known)
    asked = {"validation": origin.valid, "test": origin.test}
    if get_protocol(protocol).selected_by is not None:
        del asked["validation"]
    for part, cases in asked.items():
        if late := _from_later(cases):
            raise DiffrecError(f"{protocol} asks {late} {part} cases with their target, or with what comes after it")
        after = get_protocol(protocol).apply(_replaced(known, cases.target.values))
        both = zip(_known_before(part, before), _known_before(part, after), strict=True)
        if changed := [name for (name, old), (_, new) in both if not _equal(old, new)]:
            raise DiffrecError(f"{protocol} gives away its {part} targets: with others, {_listed(changed)} change")


def walks_for(protocol: str, num_users: int = 40, num_items: int = 30) -> Dataset:
    """Generated walks in the first form that the protocol takes.

    These are: whole; train, validation and test files of the same users; sequences of some users and every
    prefix of those of others. Raises UsageError where the protocol takes none of them.
    """
    whole = synthetic(num_users, num_items, mean_length=9.0)
    for dataset in (whole, _as_files(whole), _as_prefixes(whole)):
        try:
            get_protocol(protocol).apply(dataset)
        except UsageError:
            continue
        return dataset
    raise UsageError(f"no generated dataset has a form that {protocol} takes; pass a dataset that has")


def _as_files(whole: Dataset) -> Dataset:
    everybody = whole.parts["all"]
    assert everybody.timestamps is not None
    items, times = (
        temporal_ratio(replace(whole, parts={"all": replace(everybody, items=values)}))
        for values in (everybody.items, everybody.timestamps)
    )
    parts = {
        "train": (items.train, times.train),
        "valid": (items.valid.target, times.valid.target),
        "test": (items.test.target, times.test.target),
    }
    users = everybody.user_ids
    return replace(whole, parts={name: Interactions(part, users, at) for name, (part, at) in parts.items()})


def _as_prefixes(whole: Dataset) -> Dataset:
    everybody = whole.parts["all"]
    train, valid, test = (everybody.take(rows) for rows in np.array_split(np.arange(len(everybody)), 3))
    return replace(whole, parts={"train": train, "valid": _prefixes(valid), "test": _prefixes(test)}, aligned=False)


def _prefixes(part: Interactions) -> Interactions:
    """Every prefix of at least one item as a row of its own."""
    rows, stops = part.items.row_of_entry, part.items.position_of_entry + 1
    assert part.timestamps is not None
    items, times = (x.slices(np.zeros_like(stops), stops, rows) for x in (part.items, part.timestamps))
    return Interactions(items, part.user_ids[rows], times)


def _outside_of_training(dataset: Dataset, protocol: str, selects: bool) -> np.ndarray:
    """The numbers of the places that a fit has to do without."""
    origin = _origins(dataset, protocol)
    kept = [origin.train, *((origin.valid.history, origin.valid.target, origin.valid.seen) if selects else ())]
    return np.setdiff1d(np.arange(1, dataset.num_interactions + 1), np.concatenate([part.values for part in kept]))


def _with_spare_items(dataset: Dataset) -> Dataset:
    """The same interactions in a catalogue with one more item for every place that a user's items can have."""
    spare = sum(_longest(dataset))
    ids = (*dataset.vocabulary.item_ids, *(f"spare item {number}" for number in range(1, spare + 1)))
    return replace(dataset, vocabulary=Vocabulary(ids))


def _replaced(dataset: Dataset, places: np.ndarray) -> Dataset:
    """Spare items in the places of the given numbers, each at most once for a user, so that no mask hides a target."""
    longest, items = _longest(dataset), _items(dataset)
    before = np.cumsum([dataset.num_items - sum(longest), *longest[:-1]])
    spare = np.concatenate([1 + start + part.position_of_entry for start, part in zip(before, items, strict=True)])
    values = np.concatenate([part.values for part in items])
    values[places - 1] = spare[places - 1]
    return _with_values(dataset, values)


def _origins(dataset: Dataset, protocol: str) -> Split:
    """The split with the number of its place in the dataset, from 1, for every item."""
    numbers = np.arange(1, dataset.num_interactions + 1)
    places = Vocabulary(tuple(map(str, numbers)))
    return get_protocol(protocol).apply(replace(_with_values(dataset, numbers), vocabulary=places))


def _with_values(dataset: Dataset, values: np.ndarray) -> Dataset:
    """The dataset with `values` (interactions,) for its items, part by part."""
    items = _items(dataset)
    cuts = np.cumsum([len(part.values) for part in items])[:-1]
    rewritten = zip(_names(dataset), items, np.split(values.astype(np.int32), cuts), strict=True)
    parts = {name: replace(dataset.parts[name], items=Ragged(part, old.offsets)) for name, old, part in rewritten}
    return replace(dataset, parts=parts)


def _names(dataset: Dataset) -> list[str]:
    return sorted(dataset.parts, key=_PARTS.index)


def _items(dataset: Dataset) -> list[Ragged]:
    return [dataset.parts[name].items for name in _names(dataset)]


def _longest(dataset: Dataset) -> list[int]:
    return [int(part.lengths.max(initial=0)) for part in _items(dataset)]


def _from_later(cases: Cases) -> int:
    """How many cases ask with a place that is not before all of their targets?"""
    last, first = np.zeros(len(cases), dtype=np.int64), np.full(len(cases), np.iinfo(np.int64).max)
    np.maximum.at(last, cases.history.row_of_entry, cases.history.values)
    np.minimum.at(first, cases.target.row_of_entry, cases.target.values)
    return int((last >= first).sum())


def _known_before(part: str, split: Split) -> Iterator[tuple[str, Ragged]]:
    """By name, what is known before the targets of `part` are asked."""
    yield "training sequences", split.train
    yield "validation histories", split.valid.history
    yield "validation masks", split.valid.seen
    if part == "test":
        yield "validation targets", split.valid.target
        yield "test histories", split.test.history
        yield "test masks", split.test.seen


def _equal(first: Ragged, second: Ragged) -> bool:
    return np.array_equal(first.offsets, second.offsets) and np.array_equal(first.values, second.values)


def _fitted(fit: Fit, dataset: Dataset, protocol: str) -> Recommender:
    return fit(InteractionDataModule.of(dataset, protocol)).eval()


def _differences(first: Recommender, second: Recommender, split: Split) -> list[str]:
    """What is not the same: weights, and the scores of each part."""
    one, other = first.state_dict(), second.state_dict()
    weights = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    changed = [f"{len(weights)} of {len(one)} weights (first {weights[0]})"] if weights else []
    nothing = Ragged.empty(len(split.train))
    trained = Cases(split.train, nothing, nothing, np.arange(len(split.train)), times=split.times)
    for part, cases in (("training", trained), ("validation", split.valid), ("test", split.test)):
        if rows := _rows_scored_differently(first, second, cases):
            changed.append(f"the scores of {rows} of {len(cases)} {part} histories")
    return changed


def _rows_scored_differently(first: Recommender, second: Recommender, cases: Cases) -> int:
    batches = EvaluationBatches(cases, _REQUESTS_AT_ONCE, first.max_history_length)
    with torch.inference_mode():
        return sum(
            int((_scores(first, batches, number) != _scores(second, batches, number)).any(1).sum())
            for number in range(len(batches))
        )


def _scores(model: Recommender, batches: EvaluationBatches, number: int) -> torch.Tensor:
    batch = batches[number].to(model.device)
    assert batch.key is not None  # evaluation batches hold it
    return model.checked_scores(batch.history, RequestNoise.from_keys(batch.key, 0), batch.times)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
