"""A small generated dataset in which both kinds of signal can be learnt: who likes what, and what follows what."""

from __future__ import annotations

import numpy as np

from diffrec.data.catalogue import LICENCES
from diffrec.data.dataset import Dataset, DatasetInfo, Interactions
from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary


def synthetic(
    num_users: int = 200,
    num_items: int = 100,
    seed: int = 0,
    num_groups: int = 5,
    mean_length: float = 15.0,
    successor: float = 0.5,
) -> Dataset:
    """Users of a few tastes walk through the items, each item at most once; equal arguments, equal dataset.

    Items fall into `num_groups` groups; inside a group they form a ring. A step goes to the next item of the
    ring with probability `successor`, else it jumps into the user's favourite group (7 of 10), second group
    (2 of 10) or any group; early items of a ring are jumped to more often. Lengths are 5 + Poisson.
    Timestamps are seconds, the steps of a user 1 to 60 minutes apart.
    """
    rng = np.random.default_rng(seed)
    group = rng.permutation(num_items) % num_groups
    ring = Ragged.from_groups(group, np.arange(1, num_items + 1, dtype=np.int32), num_groups)
    lengths = 5 + rng.poisson(mean_length - 5, num_users)
    # Four times the length leaves enough distinct items once repeated visits are taken out.
    walks = _walks(rng, ring, num_users, 4 * int(lengths.max()), successor)
    items = _first_visits(walks, lengths)
    gaps = Ragged(rng.integers(60, 3600, len(items.values)), items.offsets)
    start = rng.integers(1_600_000_000, 1_610_000_000, num_users)
    times = Ragged(gaps.running_total().values + np.repeat(start, gaps.lengths), gaps.offsets)
    titles = tuple(f"Item {number} (group {g + 1})" for number, g in enumerate(group, start=1))
    return Dataset(
        name="synthetic",
        vocabulary=Vocabulary(tuple(map(str, range(1, num_items + 1))), titles),
        parts={"all": Interactions(items, np.arange(1, num_users + 1).astype(str), times)},
        info=DatasetInfo("Synthetic walks", "", LICENCES["synthetic"]),
    )


def _walks(rng: np.random.Generator, ring: Ragged, num_users: int, steps: int, successor: float) -> np.ndarray:
    """(users, steps) item numbers, repeats included: jumps, and between them walks along a ring."""
    shape, num_groups = (num_users, steps), len(ring)
    favourite = rng.integers(num_groups, size=(num_users, 1))
    second = (favourite + rng.integers(1, num_groups, size=(num_users, 1))) % num_groups
    choice = rng.random(shape)
    group = np.where(choice < 0.7, favourite, np.where(choice < 0.9, second, rng.integers(num_groups, size=shape)))
    place = (rng.random(shape) ** 2 * ring.lengths[group]).astype(np.int64)
    jumps = rng.random(shape) >= successor
    jumps[:, 0] = True
    last_jump = np.maximum.accumulate(np.where(jumps, np.arange(steps), 0), axis=1)
    group, place = np.take_along_axis(group, last_jump, 1), np.take_along_axis(place, last_jump, 1)
    place = (place + np.arange(steps) - last_jump) % ring.lengths[group]
    return ring.values[ring.offsets[group] + place]


def _first_visits(walks: np.ndarray, lengths: np.ndarray) -> Ragged:
    """The first `lengths[u]` distinct items of each walk (fewer where a walk has fewer)."""
    num_users, steps = walks.shape
    keys = np.repeat(np.arange(num_users), steps) * (int(walks.max()) + 1) + walks.ravel()
    first = np.sort(np.unique(keys, return_index=True)[1])
    visits = Ragged.from_groups(first // steps, walks.ravel()[first], num_users)
    return visits.slices(np.zeros(num_users, dtype=np.int64), np.minimum(lengths, visits.lengths))
