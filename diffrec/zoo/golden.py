"""golden.json: the ten best items of an entry for fixed histories, so that anybody can see that it still gives them.

The histories are drawn from the items of the entry, not taken from users, whose data may not be passed on: different
items, every one as likely, in lengths from 1 to beyond the windows that models read. They are written out as item ids
(as numbers for an entry without ids), so nothing has to be drawn again to check them. No times are given: to a model
that reads them, all happens at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diffrec.data.ragged import Ragged
from diffrec.data.vocabulary import Vocabulary
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import IntegrityError
from diffrec.lists import Recommendations
from diffrec.recommender import Recommender
from diffrec.strict_json import from_json, record, short, to_json
from diffrec.typing import Float, History, Tensor
from diffrec.zoo.entry import SCHEMA_VERSION, check_version
from diffrec.zoo.sampling import sampling_of

K, SEED = 10, 0
LENGTHS = (1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10, 13, 20, 34, 50, 80)
TOLERANCE = 1e-4  # of the largest score of a list: what other processors and packages round otherwise
_NONE = type(None)


@dataclass(frozen=True)
class Golden:
    """histories: item numbers, oldest first; seed: of the sampling noise; sampling: how the model sampled; items,
    scores: the best for each history, its own items left out, fewer where there are no more."""

    histories: Sequence[Sequence[int]]
    seed: int
    sampling: Mapping[str, Any] | None
    items: Sequence[Sequence[int]]
    scores: Sequence[Sequence[float]]

    @classmethod
    def of(cls, model: Recommender) -> Golden:
        """What `model` gives for the fixed histories."""
        histories = fixed_histories(model.num_items)
        best = _asked(model, histories, SEED, K)
        there = best.items > 0
        rows = list(zip(best.items.tolist(), best.scores.tolist(), there.sum(1).tolist(), strict=True))
        return cls(
            histories=histories,
            seed=SEED,
            sampling=sampling_of(model),
            items=[items[:count] for items, _, count in rows],
            scores=[[float(f"{score:.9g}") for score in scores[:count]] for _, scores, count in rows],
        )

    def to_bytes(self, vocabulary: Vocabulary | None) -> bytes:
        """The content of golden.json."""
        ids = None if vocabulary is None else vocabulary.item_ids
        told = [[number if ids is None else ids[number - 1] for number in history] for history in self.histories]
        return to_json({"schema_version": SCHEMA_VERSION, **vars(self), "histories": told})

    @classmethod
    def parse(cls, data: bytes, vocabulary: Vocabulary | None, num_items: int, where: str) -> Golden:
        """From the content of golden.json; IntegrityError where it is not one of these items."""
        kinds = {"schema_version": int, "histories": list, "seed": int, "sampling": (dict, _NONE), "items": list,
                 "scores": list}  # fmt: skip
        fields = record(from_json(data, where), where, kinds)
        check_version(fields.pop("schema_version"), where)
        if not -(1 << 63) <= fields["seed"] < 1 << 63:
            raise IntegrityError(f"{where} has an impossible seed")
        ids = range(1, num_items + 1) if vocabulary is None else vocabulary.item_ids
        numbers = {text: number for number, text in enumerate(ids, start=1)}
        histories = _rows(fields["histories"], (str, int), f"{where}: histories")
        if unknown := [text for row in histories for text in row if text not in numbers]:
            raise IntegrityError(f"{where} asks for {short(unknown[0])}, which is no item of the entry")
        items, scores = _rows(fields["items"], (int,), f"{where}: items"), _rows(fields["scores"], (int, float), where)
        if not len(histories) == len(items) == len(scores) or any(
            len(best) != len(of) for best, of in zip(items, scores, strict=True)
        ):
            raise IntegrityError(f"{where} must hold a list of items and one of scores for each history")
        if wrong := [number for row in items for number in row if not 1 <= number <= num_items]:
            raise IntegrityError(f"{where} lists the item {short(wrong[0])} of 1..{num_items}")
        known = [[numbers[text] for text in row] for row in histories]
        return cls(known, fields["seed"], fields["sampling"], items, scores)

    def differences(self, model: Recommender) -> list[str]:
        """One sentence for each list that `model` does not give, within TOLERANCE: items as good may change places."""
        if self.sampling != (sampling := sampling_of(model)):
            return [f"the lists were made with {short(self.sampling)}, the model samples with {short(sampling)}"]
        if not self.histories:
            return ["there is no list"]
        best = _asked(model, self.histories, self.seed, model.num_items)
        of_item = best.scores.new_full((len(best.items), model.num_items + 1), -torch.inf)
        of_item.scatter_(1, best.items, best.scores)
        first, of_first = best.items[:, :K].tolist(), best.scores[:, :K].tolist()
        told = zip(self.items, self.scores, first, of_first, of_item, strict=True)
        found = (_difference(number, *row) for number, row in enumerate(told))
        return [sentence for sentence in found if sentence]


def fixed_histories(num_items: int) -> list[list[int]]:
    """One of each of LENGTHS, or of half the items where that is less; every item at most once in each."""
    noise = RequestNoise.from_keys(torch.arange(len(LENGTHS)), SEED).normal(num_items, torch.float64)
    order = noise.argsort(dim=1, stable=True) + 1
    most = max(1, num_items // 2)
    return [row[: min(length, most)].tolist() for row, length in zip(order, LENGTHS, strict=True)]


def _asked(model: Recommender, histories: Sequence[Sequence[int]], seed: int, k: int) -> Recommendations:
    """The k best for each history, on the CPU."""
    asked: History = torch.from_numpy(Ragged.from_rows(histories).padded(np.arange(len(histories))))
    best = model.recommend(asked, k, seed=seed)
    return Recommendations(best.items.cpu(), best.scores.cpu())


def _difference(
    number: int,
    items: Sequence[int],
    scores: Sequence[float],
    best: Sequence[int],
    best_scores: Sequence[float],
    of_item: Float[Tensor, " numbers"],
) -> str | None:
    """What is wrong with one list, given the one that the model gives now and the scores of all item numbers."""
    wanted = sum(item > 0 for item in best)
    if len(items) != wanted or len(set(items)) != wanted:
        return f"list {number} holds {short(items)}, expected {wanted} different items"
    close = TOLERANCE * max(map(abs, best_scores[:wanted]), default=0.0)
    for place, (item, score) in enumerate(zip(items, scores, strict=True)):
        # an item may stand where another as good does, but no score may have moved
        if not (abs(float(of_item[item]) - score) <= close and abs(best_scores[place] - score) <= close):
            seen = f"item {item} with {score:.6g} at place {place + 1}"
            return f"list {number} has {seen}, the model {best[place]} with {best_scores[place]:.6g}"
    return None


def _rows(value: Sequence[object], kinds: tuple[type, ...], where: str) -> list[list[Any]]:
    """`value` if it is a list of lists of these types, else IntegrityError."""
    if not all(isinstance(row, list) and all(type(cell) in kinds for cell in row) for row in value):
        raise IntegrityError(f"{where} must be a list of lists of {' or '.join(kind.__name__ for kind in kinds)}")
    return [row for row in value if isinstance(row, list)]
