"""Codes of items in any order: which codes can join those that are known, and the items nearest to a tuple."""

from __future__ import annotations

import torch

from diffrec.errors import UsageError
from diffrec.typing import Bool, Float, Int, Tensor

_COMPARED_AT_ONCE = 1 << 24  # pairs of a tuple that is no item, and an item


class CodeSets:
    """All parts of all tuples of items, as sorted numbers; a part is a set of levels and their codes.

    codes: (items, levels), each from 0 to below `size`. -1 stands for a code that is not known. Memory: 2^levels
    numbers an item. UsageError where numbers do not fit 63 bits.
    """

    def __init__(self, codes: Int[Tensor, "items levels"], size: int) -> None:
        levels = codes.shape[1]
        if levels + levels * (size - 1).bit_length() > 62:
            raise UsageError(f"{levels} levels of {size} codes are too many to be unmasked in any order")
        self.size, self.levels = size, levels
        self.place = size ** torch.arange(levels, device=codes.device)  # of a code in the number of a part
        self.flag = (1 << torch.arange(levels, device=codes.device)) * size**levels
        subsets = (
            torch.arange(1 << levels, device=codes.device)[:, None] >> torch.arange(levels, device=codes.device) & 1
        )
        parts = torch.where(subsets[:, None].bool(), codes.unique(dim=0), -1)
        self.known = self.number(parts).flatten().unique()

    def number(self, codes: Int[Tensor, "*shape levels"]) -> Int[Tensor, "*shape"]:
        """The number of a part."""
        return torch.where(codes >= 0, codes * self.place + self.flag, 0).sum(-1)

    def can_follow(
        self, codes: Int[Tensor, "*shape levels"], level: Int[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape size"]:
        """Which codes of a hidden level some item has together with the known ones."""
        step = self.place[level][..., None] * torch.arange(self.size, device=codes.device)
        return self._is_known((self.number(codes) + self.flag[level])[..., None] + step)

    def _is_known(self, numbers: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        place = torch.searchsorted(self.known, numbers).clamp(max=len(self.known) - 1)
        return self.known[place] == numbers

    def nearest(
        self, codes: Int[Tensor, "batch found levels"], catalogue: Int[Tensor, "tuples levels"]
    ) -> Int[Tensor, "batch found"]:
        """The number of each tuple in the catalogue, or what `projected` makes of it, where it is not there."""
        numbers, order = self.number(catalogue).sort(stable=True)
        asked = self.number(codes)
        place = torch.searchsorted(numbers, asked).clamp(max=len(numbers) - 1)
        missing = numbers[place] != asked
        return order[place].masked_scatter(missing, projected(codes[missing][None], catalogue)[0])

    def are_items(self, codes: Int[Tensor, "*shape levels"]) -> Bool[Tensor, "*shape"]:
        """Which tuples, known in full, are those of an item."""
        return self._is_known(self.number(codes))


def projected(
    codes: Int[Tensor, "batch found levels"], catalogue: Int[Tensor, "tuples levels"]
) -> Int[Tensor, "batch found"]:
    """The number of the tuple of the catalogue with the most equal codes, the first where several have as many."""
    parts = codes.flatten(0, 1).split(max(1, _COMPARED_AT_ONCE // len(catalogue)))
    return torch.cat([_most_equal(part, catalogue) for part in parts]).view(codes.shape[:2])


def _most_equal(codes: Int[Tensor, "found levels"], catalogue: Int[Tensor, "tuples levels"]) -> Int[Tensor, " found"]:
    equal = torch.zeros(len(codes), len(catalogue), dtype=torch.uint8, device=codes.device)
    for level in range(codes.shape[1]):
        equal += codes[:, level, None] == catalogue[:, level]
    return equal.argmax(-1)


def without_repeats(
    numbers: Int[Tensor, "batch found"], scores: Float[Tensor, "batch found"]
) -> Float[Tensor, "batch found"]:
    """Scores in which all but the best of equal numbers are -inf."""
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    ordered = numbers.gather(1, by_score)
    by_number = ordered.argsort(dim=1, stable=True)
    grouped = ordered.gather(1, by_number)
    repeated = torch.zeros_like(grouped, dtype=torch.bool)
    repeated[:, 1:] = grouped[:, 1:] == grouped[:, :-1]
    places = by_score.gather(1, by_number)
    return scores.masked_fill(torch.zeros_like(repeated).scatter(1, places, repeated), -torch.inf)
