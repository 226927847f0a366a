"""Items as codes, and the trie of all tuples that are items: tensors, walked for all beams of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from diffrec.errors import UsageError, check_sizes
from diffrec.nn.derived import Derived
from diffrec.nn.fitted_shape import FittedShape
from diffrec.typing import Bool, Float, Int, Tensor

Beams = Int[Tensor, "batch beams"]

_NO_CODE = -100  # what `cross_entropy` leaves out


@dataclass(frozen=True, eq=False)
class Trie:
    """Nodes are numbered level by level, the root is 0, and the children of a node follow one another.

    first_child: (nodes + 1,); code: (nodes,) that leads to a node; widths: the most children of a node of each level;
    first_leaf: number of the first node that is a whole tuple; leaf_of_item: (N,) which of the tuples an item has.
    """

    first_child: Int[Tensor, " nodes_and_one"]
    code: Int[Tensor, " nodes"]
    widths: tuple[int, ...]
    first_leaf: int
    leaf_of_item: Int[Tensor, " items"]

    @classmethod
    def of(cls, codes: Int[Tensor, "items levels"]) -> Trie:
        """The trie of the tuples of all items."""
        leaves, leaf_of_item = torch.unique(codes, dim=0, return_inverse=True)
        differs = torch.ones_like(leaves, dtype=torch.bool)
        differs[1:] = leaves[1:] != leaves[:-1]
        new = differs.cumsum(1) > 0  # where a prefix is another than that of the tuple before
        counts = new.sum(0).tolist()
        starts, children, parents = [1], [], torch.zeros(len(leaves), dtype=torch.int64, device=codes.device)
        above = 1
        for level, count in enumerate(counts):
            here = new[:, level].nonzero()[:, 0]
            children.append(torch.bincount(parents[here], minlength=above))
            parents, above = new[:, level].long().cumsum(0) - 1, count
            starts.append(starts[-1] + count)
        sizes = torch.cat([*children, torch.zeros(counts[-1], dtype=torch.int64, device=codes.device)])
        first_child = torch.cat([sizes.new_ones(1), 1 + sizes.cumsum(0)])
        code = torch.cat([sizes.new_zeros(1), *(leaves[new[:, level], level] for level in range(len(counts)))])
        return cls(first_child, code, tuple(int(part.max()) for part in children), starts[-2], leaf_of_item)

    @property
    def num_leaves(self) -> int:
        """How many different tuples there are."""
        return len(self.code) - self.first_leaf

    def children(
        self, nodes: Beams, level: int
    ) -> tuple[Int[Tensor, "batch beams width"], Bool[Tensor, "batch beams width"]]:
        """The nodes below nodes of a level, and which of the places hold one."""
        first = self.first_child[nodes][..., None]
        below = first + torch.arange(self.widths[level], device=nodes.device)
        there = below < self.first_child[nodes + 1][..., None]
        return torch.where(there, below, 0), there


@dataclass(eq=False)
class BeamCounts:
    """What the beams of some requests ended at, see `ItemCodes.counting`.

    found: beams at a tuple of items that no better beam has; shared: those of them whose tuple several items have;
    repeated: beams at the tuple of a better one; invalid: beams at a tuple of no item, which are taken for the tuple
    nearest to theirs and so count as found or repeated too.
    """

    requests: int = 0
    found: int = 0
    shared: int = 0
    repeated: int = 0
    invalid: int = 0


class ItemCodes(FittedShape):
    """`codes` (N, levels) of items 1..N, each from 0 to below `size`; every item has the same until `fill`."""

    codes: Tensor

    def __init__(self, num_items: int, levels: int, size: int) -> None:
        super().__init__()
        check_sizes(num_items=num_items, levels=levels, size=size)
        self.levels, self.size = levels, size
        self.register_buffer("codes", torch.zeros(num_items, levels, dtype=torch.int64))
        self._trie: Derived[Trie] = Derived()
        self.counts: BeamCounts | None = None

    def fill(self, codes: Int[Tensor, "items levels"]) -> None:
        """Take these codes; UsageError where they are not of these items, levels and size."""
        if codes.shape != self.codes.shape or not 0 <= int(codes.min()) <= int(codes.max()) < self.size:
            seen = f"{tuple(codes.shape)} from {int(codes.min())} to {int(codes.max())}"
            needed = f"{tuple(self.codes.shape)} from 0 to below {self.size}"
            raise UsageError(f"codes of shape {needed} are needed, got {seen}")
        self.codes.copy_(codes)

    def tokens(self, items: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape levels"]:
        """Rows of a table of tokens: 1 + level * size + code, and 0 for padding."""
        return self.tokens_of(self.codes[(items - 1).clamp(min=0)]) * (items > 0)[..., None]

    def tokens_of(self, codes: Int[Tensor, "*shape levels"]) -> Int[Tensor, "*shape levels"]:
        """The same rows for codes of all levels."""
        return 1 + self.size * torch.arange(self.levels, device=codes.device) + codes

    def of_level(self, table: Float[Tensor, "padding_and_tokens dim"], level: int) -> Float[Tensor, "size dim"]:
        """The rows of a table of tokens that belong to the codes of a level."""
        return table[1 + level * self.size : 1 + (level + 1) * self.size]

    def targets(self, items: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape levels"]:
        """The codes, and for padding a number that `cross_entropy` leaves out."""
        return self.codes[(items - 1).clamp(min=0)].masked_fill((items == 0)[..., None], _NO_CODE)

    @property
    def trie(self) -> Trie:
        """That of the codes as they are; it is made anew after they have changed."""
        return self._trie.of((self.codes,), self._made)

    def _made(self) -> Trie:
        if not 0 <= int(self.codes.min()) <= int(self.codes.max()) < self.size:
            raise UsageError(f"codes must lie from 0 to below {self.size}")
        return Trie.of(self.codes)

    @contextmanager
    def counting(self) -> Iterator[BeamCounts]:
        """Counts of the beams of all requests inside the block; all 0 of a model that writes no beams."""
        self.counts = counts = BeamCounts()
        try:
            yield counts
        finally:
            self.counts = None

    def shared(self) -> Bool[Tensor, " leaves"]:
        """Which tuples several items have."""
        return torch.bincount(self.trie.leaf_of_item, minlength=self.trie.num_leaves) > 1

    def item_scores(
        self, leaves: Int[Tensor, "batch found"], scores: Float[Tensor, "batch found"]
    ) -> Float[Tensor, "batch items"]:
        """(batch, N) the score of each item's tuple; all that were not found lie 1 below the least that was.

        leaves: tuples by number; a score of -inf says that there is none.
        """
        if self.counts is not None:
            there = ~torch.isneginf(scores)
            self.counts.requests += len(scores)
            self.counts.found += int(there.sum())
            self.counts.shared += int((there & self.shared()[leaves]).sum())
        least = torch.where(torch.isneginf(scores), torch.inf, scores).amin(1, keepdim=True)
        floor = torch.where(torch.isposinf(least), 0.0, least) - 1
        of_leaf = floor.expand(-1, self.trie.num_leaves).clone()
        return of_leaf.scatter_reduce(1, leaves, torch.maximum(scores, floor), "amax")[:, self.trie.leaf_of_item]


def level_logits(
    states: Float[Tensor, "*shape levels dim"], table: Float[Tensor, "padding_and_tokens dim"]
) -> Float[Tensor, "*shape levels size"]:
    """Products of the state at each level with the codes of that level; table: of tokens, its first row is padding."""
    return torch.einsum("...ld,lsd->...ls", states, table[1:].unflatten(0, (states.shape[-2], -1)))


def beam_search(
    trie: Trie,
    num_beams: int,
    batch: int,
    step: Callable[[int, Beams, Beams], Float[Tensor, "batch beams size"]],
) -> tuple[Int[Tensor, "batch found"], Float[Tensor, "batch found"]]:
    """The tuples of items that are found with `num_beams`, by number, and the sum of their log-probabilities.

    step(level, codes, parents): log-probabilities of the codes of a level behind each beam; codes: what each beam took
    last, and parents: the beam of the call before that it goes on from (both (batch, 1) of zeros at level 0). Where
    fewer tuples go on than there are beams, the rest scores -inf. With as many beams as tuples the search is exact.
    """
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=trie.code.device)
    parents, scores = nodes, None
    for level in range(len(trie.widths)):
        logits = step(level, trie.code[nodes], parents)
        below, there = trie.children(nodes, level)
        found = logits.gather(2, trie.code[below]).masked_fill(~there, -torch.inf)
        found = found if scores is None else found + scores[..., None]
        scores, best = found.flatten(1).topk(min(num_beams, found.shape[1] * found.shape[2]), dim=1)
        parents, nodes = best // trie.widths[level], below.flatten(1).gather(1, best)
    assert scores is not None
    return (nodes - trie.first_leaf).clamp(min=0), scores
