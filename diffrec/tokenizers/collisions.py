"""Items that share all of their codes, told apart."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffrec.errors import UsageError
from diffrec.tokenizers.tokens import Codes, Tokens, groups_of, place_in_group

Resolution = Literal["none", "extra", "sinkhorn"]


def resolved(tokens: Tokens, size: int, how: str) -> tuple[Codes, tuple[int, ...]]:
    """Codes (N, levels), and the number of codes of each level.

    how: one of `Resolution`. none: as they are; extra: one more level counts the items of a tuple, by item number, as
    in TIGER; sinkhorn: the last code is given anew, see `spread_last`. UsageError for a tokenizer that cannot tell
    distances of its last level.
    """
    codes = tokens.codes
    sizes = (size,) * codes.shape[1]
    if how == "none":
        return codes, sizes
    if how == "extra":
        place = place_in_group(groups_of(codes))
        return np.concatenate([codes, place[:, None]], axis=1), (*sizes, int(place.max()) + 1)
    if tokens.last_distances is None:
        raise UsageError("sinkhorn needs the distances to the codes of the last level, which these codes came without")
    return spread_last(codes, tokens.last_distances), sizes


def spread_last(codes: Codes, distances: NDArray[np.float64]) -> Codes:
    """The same with last codes that use all codes alike and are different among items that share all others.

    distances: (N, size) to each code of the last level. A plan by `sinkhorn` says what each item prefers; then, in
    rounds, every item without a code asks for what it likes best of what is free among the items that share its other
    codes, and of several that ask for one the keenest gets it. UsageError where more items share than there are codes.
    """
    groups, size = groups_of(codes[:, :-1]), distances.shape[1]
    if (most := int(np.bincount(groups).max())) > size:
        raise UsageError(f"{most} items share all but the last code, more than its {size} codes can tell apart")
    wishes = sinkhorn(distances)
    given = np.full(len(codes), -1)
    taken = np.zeros((int(groups.max()) + 1, size), dtype=bool)
    while len(waiting := np.flatnonzero(given < 0)):
        open_to = np.where(taken[groups[waiting]], -np.inf, wishes[waiting])
        asked = open_to.argmax(1)
        keenness = open_to[np.arange(len(waiting)), asked]
        order = np.lexsort((waiting, -keenness, groups[waiting] * size + asked))
        pairs = (groups[waiting] * size + asked)[order]
        won = order[np.flatnonzero(np.diff(pairs, prepend=-1))]
        given[waiting[won]] = asked[won]
        taken[groups[waiting[won]], asked[won]] = True
    return np.concatenate([codes[:, :-1], given[:, None]], axis=1)


def sinkhorn(distances: NDArray[np.float64], spread: float = 0.003, rounds: int = 10) -> NDArray[np.float64]:
    """Logarithms of a plan (N, size) whose rows hold 1 each and whose columns hold N / size, up to the last rounds.

    The plan is near exp(-distances / spread), with distances moved to [-1, 1]; large `spread` shares out more evenly.
    Source: Cuturi, "Sinkhorn Distances" (NeurIPS 2013).
    """
    middle, reach = (distances.max() + distances.min()) / 2, (distances.max() - distances.min()) / 2
    plan = -(distances - middle) / (max(reach, 1e-12) * spread)
    each = np.log(len(plan) / plan.shape[1])
    for _ in range(rounds):
        plan = plan - np.logaddexp.reduce(plan, axis=0) + each
        plan = plan - np.logaddexp.reduce(plan, axis=1)[:, None]
    return plan
