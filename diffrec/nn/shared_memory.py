"""Slots of many beams that see one another and a history which all beams of a request share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from diffrec.nn.transformer import Slots, Transformer, TransformerBlock, Visible
from diffrec.typing import Bool, Float, Int, Tensor

Memory = tuple[Float[Tensor, "batch slots inner"], Float[Tensor, "batch slots inner"], Bool[Tensor, "batch slots"]]
Written = tuple[Float[Tensor, "batch beams written inner"], Float[Tensor, "batch beams written inner"]]
Longer = tuple[Float[Tensor, "batch beams now inner"], Float[Tensor, "batch beams now inner"]]


def memory_of(transformer: Transformer, x: Slots, visible: Visible | None, kept: Visible) -> list[Memory]:
    """Keys and values of the slots in every pre-norm block, and which of them are to be seen: visible and kept.

    visible: the slots that all read; None: each reads those up to itself.
    """
    memory = []
    seen = kept if visible is None else visible & kept
    for block in cast("list[TransformerBlock]", transformer.blocks):
        _, keys, values = block.qkv(block.norm_attention(x)).chunk(3, dim=-1)
        memory.append((keys, values, seen))
        x = block(x, visible)
    return memory


def beside_memory(
    transformer: Transformer, x: Float[Tensor, "batch beams own dim"], memory: Sequence[Memory]
) -> Float[Tensor, "batch beams own dim"]:
    """The states of slots of beams, each of which sees the slots of its beam and the memory of its request."""
    for block, remembered in zip(transformer.blocks, memory, strict=True):
        x, _ = _behind(cast(TransformerBlock, block), x, remembered)
    return transformer.norm(x)


class Writing:
    """Beams that are written slot by slot behind a memory; what was computed for slots already written is kept."""

    def __init__(self, transformer: Transformer, memory: Sequence[Memory]) -> None:
        self.transformer, self.memory = transformer, memory
        self.written: list[Longer] | None = None

    def step(
        self, x: Float[Tensor, "batch beams dim"], parents: Int[Tensor, "batch beams"]
    ) -> Float[Tensor, "batch beams dim"]:
        """The states of one more slot of every beam; parents: the beams of the last step that these go on from."""
        before: Sequence[Written | None] = [None] * len(self.memory)
        if self.written is not None:
            rows = torch.arange(len(parents), device=parents.device)[:, None]
            before = [(keys[rows, parents], values[rows, parents]) for keys, values in self.written]
        now, own = [], x[:, :, None]
        for block, remembered, written in zip(self.transformer.blocks, self.memory, before, strict=True):
            own, longer = _behind(cast(TransformerBlock, block), own, remembered, written)
            now.append(longer)
        self.written = now
        return self.transformer.norm(own[:, :, 0])


def _behind(
    block: TransformerBlock, x: Float[Tensor, "batch beams own dim"], memory: Memory, written: Written | None = None
) -> tuple[Float[Tensor, "batch beams own dim"], Longer]:
    """One block: a softmax over both kinds of slots, whose products are made apart; the own keys and values."""
    keys, values, seen = memory
    asked, own_keys, own_values = block.qkv(block.norm_attention(x)).chunk(3, dim=-1)
    if written is not None:
        own_keys, own_values = torch.cat([written[0], own_keys], 2), torch.cat([written[1], own_values], 2)
    heads = block.num_heads
    q, k, v = (  # (batch, heads, beams, own, size)
        part.unflatten(-1, (heads, -1)).movedim(-2, 1) for part in (asked, own_keys, own_values)
    )
    far_keys, far_values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (keys, values))
    q = q * q.shape[-1] ** -0.5
    far = (q.flatten(2, 3) @ far_keys.mT).masked_fill(~seen[:, None, None], -torch.inf).unflatten(2, q.shape[2:4])
    weights = torch.cat([far, q @ k.mT], dim=-1).softmax(dim=-1)
    far, near = weights.split([far.shape[-1], k.shape[-2]], dim=-1)
    attended = (far.flatten(2, 3) @ far_values).unflatten(2, q.shape[2:4]) + near @ v
    x = x + block.out(attended.movedim(1, -2).flatten(-2))
    return x + block.feed(block.norm_feed(x)), (own_keys, own_values)
