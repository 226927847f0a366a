"""A decoder that writes the codes of one item, beside a memory of the history that all of its beams share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from diffrec.nn.transformer import Slots, TransformerBlock, attention
from diffrec.typing import Bool, Float, Int, Tensor

States = Float[Tensor, "batch remembered dim"]
Visible = Bool[Tensor, "batch remembered"]
Kept = Float[Tensor, "batch remembered inner"]
Memory = tuple[Kept, Kept, Visible]  # keys, values, and which slots hold something
Own = Float[Tensor, "rows written inner"]
Longer = Float[Tensor, "rows now inner"]
Written = tuple[Own, Own]  # keys and values of what a beam has written, (batch * beams, written, heads * size)
Beams = Float[Tensor, "batch beams dim"]


class DecoderBlock(TransformerBlock):
    """A pre-norm block that looks at the memory, x + Drop(Attn(LN x, memory)), before its feed-forward layer."""

    def __init__(self, dim: int, num_heads: int, dropout: float, head_size: int, feed_size: int) -> None:
        super().__init__(dim, num_heads, dropout, head_size=head_size, feed_size=feed_size)
        inner = num_heads * head_size
        self.norm_memory = nn.LayerNorm(dim)
        self.ask, self.key_value, self.answer = nn.Linear(dim, inner), nn.Linear(dim, 2 * inner), nn.Linear(inner, dim)

    def remember(self, states: States, visible: Visible) -> Memory:
        """What this block reads of encoder states, for every beam and step."""
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return keys, values, visible

    def forward(self, x: Slots, memory: Memory) -> Slots:  # pyright: ignore[reportIncompatibleMethodOverride]
        """All codes of an item at once, each seeing those before it: for training."""
        x = x + self.attended(self.norm_attention(x), None)
        return self._behind(x, memory)

    def step(self, x: Beams, memory: Memory, written: Written | None) -> tuple[Beams, tuple[Longer, Longer]]:
        """One more code of every beam; written: by the beams that these go on from, in their order."""
        batch, beams = x.shape[:2]
        q, k, v = (part.flatten(0, 1)[:, None] for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1))
        if written is not None:
            k, v = torch.cat([written[0], k], dim=1), torch.cat([written[1], v], dim=1)
        everything = torch.ones(k.shape[:2], dtype=torch.bool, device=x.device)
        seen = attention(q, k, v, self.num_heads, visible=everything).view(batch, beams, q.shape[-1])
        return self._behind(x + self.dropout(self.out(seen)), memory), (k, v)

    def _behind(self, x: Slots, memory: Memory) -> Slots:
        """The halves of the block that follow attention to what is written; (batch, slots or beams, dim)."""
        keys, values, visible = memory
        dropout = self.attention_dropout if self.training else 0.0
        seen = attention(self.ask(self.norm_memory(x)), keys, values, self.num_heads, dropout, visible)
        x = x + self.dropout(self.answer(seen))
        return x + self.dropout(self.feed(self.norm_feed(x)))


class CodeDecoder(nn.Module):
    """Blocks, then a norm. Weights start as N(0, .02^2), biases at 0."""

    def __init__(self, blocks: Iterable[DecoderBlock], dim: int) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Slots, states: States, visible: Visible) -> Slots:
        """States of all codes of an item (batch, levels, dim), each from those before it and the encoder's states."""
        for block in cast("list[DecoderBlock]", self.blocks):
            x = block(x, block.remember(states, visible))
        return self.norm(x)

    def reading(self, states: States, visible: Visible) -> Writing:
        """Beams that have written nothing, before these encoder states."""
        return Writing(self, [block.remember(states, visible) for block in cast("list[DecoderBlock]", self.blocks)])


class Writing:
    """Beams that are written code by code; what was computed for codes already written is kept."""

    def __init__(self, decoder: CodeDecoder, memories: list[Memory]) -> None:
        self.decoder, self.memories = decoder, memories
        self.written: list[Written] | None = None

    def step(self, x: Beams, parents: Int[Tensor, "batch beams"]) -> Beams:
        """The states behind one more code of every beam; parents: the beams of the last step that these go on from."""
        kept: list[Written | None] = [None] * len(self.memories)
        if self.written is not None:
            before = len(self.written[0][0]) // max(1, len(parents))
            rows = (parents + before * torch.arange(len(parents), device=parents.device)[:, None]).flatten()
            kept = [(keys[rows], values[rows]) for keys, values in self.written]
        now = []
        for block, memory, own in zip(self.decoder.blocks, self.memories, kept, strict=True):
            x, written = cast(DecoderBlock, block).step(x, memory, own)
            now.append(written)
        self.written = now
        return self.decoder.norm(x)
