"""The networks of ADRec: causal blocks over the history, and over what it says beside a noised next item a slot."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from diffrec.nn.conditioner import SlotConditioner
from diffrec.nn.noisy_history import HistoryBlock
from diffrec.nn.time_embedding import cosine_sine
from diffrec.typing import Bool, Float, History, Int, Tensor


class CausalBlock(HistoryBlock):
    """Post-norm and causal: LN(x + Drop(Attn x)), then LN(x + Drop(FFN x)).

    Right-padded sequences need no other mask. attend_padding: for left-padded ones the mask of the original, by which
    items read the padding before them and padding sees all before itself alike.
    """

    def forward(
        self, x: Float[Tensor, "batch slots dim"], real: Bool[Tensor, "batch slots"]
    ) -> Float[Tensor, "batch slots dim"]:
        q, k, v = self.heads(x)
        if self.attend_padding:
            q = q * real[:, None, :, None]  # a query of zeros scores all slots alike
        return self._normed(x, self.attended(q, k, v, None, causal=True))

    def following(
        self, x: Float[Tensor, "batch dim"], keys: Tensor, values: Tensor, earlier: Bool[Tensor, "batch slots"]
    ) -> Float[Tensor, "batch dim"]:
        """The same for one slot that reads itself and the `earlier` ones, whose keys and values are known."""
        x = x[:, None]
        q, k, v = self.heads(x)
        visible = nn.functional.pad(earlier, (0, 1), value=True)[:, None, None]
        read = self.attended(q, torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2), visible)
        return self._normed(x, read)[:, 0]

    def _normed(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm_attention(x + attended)
        return self.norm_feed(x + self.fed(x))


def causal_blocks(dim: int, num_blocks: int, num_heads: int, dropout: float, attend_padding: bool) -> nn.ModuleList:
    """`num_blocks` of `CausalBlock`."""
    return nn.ModuleList(CausalBlock(dim, num_heads, dropout, attend_padding) for _ in range(num_blocks))


class CausalConditioner(SlotConditioner):
    """(batch, length, dim + 1): what blocks say of the history after every slot, and behind it 1 where it is real."""

    def __init__(self, dim: int, dropout: float, blocks: nn.ModuleList) -> None:
        super().__init__(dim, dropout)
        self.blocks = blocks

    def forward(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch slots dim_and_one"]:
        """The states of all slots."""
        slots, real = super().forward(history, embed), history > 0
        states = slots[..., :-1]
        for block in self.blocks:
            states = block(states, real)
        return torch.cat([states, slots[..., -1:]], dim=2)


class NoisyPositionsTransformer(nn.Module):
    """(x_t, t, slots) -> an estimate of every slot's next item, by blocks over c_i + weight * (x_t,i + time(t_i)).

    slots: (batch, length, dim + 1) of a `CausalConditioner`. The network is told 1000 t / T.
    """

    def __init__(self, dim: int, blocks: nn.ModuleList, num_train_timesteps: int, weight: float) -> None:
        super().__init__()
        self.dim, self.num_train_timesteps, self.weight = dim, num_train_timesteps, weight
        self.time = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.blocks = blocks

    def forward(
        self,
        x_t: Float[Tensor, "batch slots dim"],
        t: Int[Tensor, "batch slots"],
        slots: Float[Tensor, "batch slots dim_and_one"],
    ) -> Float[Tensor, "batch slots dim"]:
        real, states = slots[..., -1] > 0, self.mixed(slots[..., :-1], x_t, t)
        for block in self.blocks:
            states = block(states, real)
        return states

    def mixed(self, states: Float[Tensor, "*shape"], x_t: Float[Tensor, "*shape"], t: Tensor) -> Tensor:
        """c + weight * (x_t + time(t))."""
        steps = torch.arange(self.num_train_timesteps, device=t.device)
        times = self.time(cosine_sine(steps * (1000 / self.num_train_timesteps), self.dim))
        return states + self.weight * (x_t + times[t])

    def at_last(
        self, clean: Float[Tensor, "batch slots dim"], slots: Float[Tensor, "batch slots dim_and_one"]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t (batch, dim), t (1,)) -> the estimate at the last real slot, those before it holding `clean` at t = 0.

        What they are does not change from step to step, so it is worked out once.
        """
        states, real = slots[..., :-1], slots[..., -1] > 0
        place = torch.arange(real.shape[1], device=real.device)
        last = (place * real).amax(1)
        rows, earlier = torch.arange(len(real), device=real.device), place < last[:, None]
        before, memory = self.mixed(states, clean, torch.zeros_like(place)), []
        blocks = [cast(CausalBlock, block) for block in self.blocks]
        for block in blocks:
            memory.append(block.heads(before)[1:])
            before = block(before, real)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            state = self.mixed(states[rows, last], x_t, t)
            for block, (keys, values) in zip(blocks, memory, strict=True):
                state = block.following(state, keys, values, earlier)
            return state

        return denoise
