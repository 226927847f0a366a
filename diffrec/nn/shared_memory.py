"""Slots of many beams that see one another and a history which all beams of a request share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from diffrec.nn.transformer import Slots, Transformer, TransformerBlock, Visible
from diffrec.typing import Bool, Float, Tensor

Memory = tuple[Float[Tensor, "batch slots inner"], Float[Tensor, "batch slots inner"], Bool[Tensor, "batch slots"]]


def memory_of(transformer: Transformer, x: Slots, visible: Visible, kept: Visible) -> list[Memory]:
    """Keys and values of the slots in every pre-norm block, and which of them are to be seen: visible and kept."""
    memory = []
    for block in cast("list[TransformerBlock]", transformer.blocks):
        _, keys, values = block.qkv(block.norm_attention(x)).chunk(3, dim=-1)
        memory.append((keys, values, visible & kept))
        x = block(x, visible)
    return memory


def beside_memory(
    transformer: Transformer, x: Float[Tensor, "batch beams own dim"], memory: Sequence[Memory]
) -> Float[Tensor, "batch beams own dim"]:
    """The states of slots of beams, each of which sees the slots of its beam and the memory of its request."""
    for block, (keys, values, seen) in zip(transformer.blocks, memory, strict=True):
        x = _behind(cast(TransformerBlock, block), x, keys, values, seen)
    return transformer.norm(x)


def _behind(block: TransformerBlock, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """One block: a softmax over both kinds of slots, whose products are made apart."""
    heads = block.num_heads
    q, k, v = (
        part.unflatten(-1, (heads, -1)).movedim(-2, 1)  # (batch, heads, beams, own, size)
        for part in block.qkv(block.norm_attention(x)).chunk(3, dim=-1)
    )
    far_keys, far_values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (keys, values))
    q = q * q.shape[-1] ** -0.5
    far = (q.flatten(2, 3) @ far_keys.mT).masked_fill(~seen[:, None, None], -torch.inf).unflatten(2, q.shape[2:4])
    weights = torch.cat([far, q @ k.mT], dim=-1).softmax(dim=-1)
    far, near = weights.split([far.shape[-1], k.shape[-2]], dim=-1)
    attended = (far.flatten(2, 3) @ far_values).unflatten(2, q.shape[2:4]) + near @ v
    x = x + block.out(attended.movedim(1, -2).flatten(-2))
    return x + block.feed(block.norm_feed(x))
