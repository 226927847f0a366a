"""Normal noise that belongs to a request: the same for a batch of 1 or 1,000, on any number of threads.

Each number is a hash of (request, draw, coordinate), so nothing depends on what else is in the batch.
Normals: Box and Muller (1958).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from diffrec.errors import UsageError, is_whole
from diffrec.hashing import GOLDEN, mixed, shifted
from diffrec.typing import Float, Int, Tensor


@dataclass
class RequestNoise:
    """A source of noise for one batch. state: (batch,) int64, one hash per request."""

    state: Int[Tensor, " batch"]
    draws: int = 0

    @classmethod
    def from_keys(cls, keys: Int[Tensor, " batch"], seed: int = 0) -> RequestNoise:
        """From a number per request (a user number, say) and the seed of the run, a whole number of 64 bits."""
        if not (is_whole(seed) and -(1 << 63) <= seed < 1 << 63):
            raise UsageError(f"seed must be a whole number that 64 bits hold, got {seed!r}")
        return cls(mixed(mixed(keys + GOLDEN) ^ mixed(torch.tensor(seed, device=keys.device) - GOLDEN)))

    @classmethod
    def from_history(cls, history: Int[Tensor, "batch length"], seed: int = 0) -> RequestNoise:
        """From the items themselves: the same history gets the same list. Padding does not count."""
        slots = torch.arange(1, history.shape[1] + 1, device=history.device)
        return cls.from_keys((mixed(history + GOLDEN * slots) * (history > 0)).sum(1), seed)

    def normal(self, size: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch size"]:
        """The next (batch, size) standard normal numbers."""
        return self.slots(1, size, dtype)[:, 0]

    def slots(self, length: int, size: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch length size"]:
        """The next (batch, length, size) standard normal numbers; the first slots are the same for every length."""
        self.draws += 1
        half = (size + 1) // 2
        column = torch.arange(length * half, device=self.state.device) + (self.draws << 32)
        bits = mixed(self.state[:, None] + column * GOLDEN)
        radius = shifted(bits, 32).to(torch.float64).add_(0.5).div_(1 << 32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).to(torch.float64).mul_(2 * math.pi / (1 << 32))
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)  # (batch, 2, length * half)
        return pairs.unflatten(2, (length, half)).transpose(1, 2).flatten(2)[..., :size].to(dtype)

    def uniform(self, size: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch size"]:
        """The next (batch, size) numbers, uniform in (0, 1)."""
        self.draws += 1
        column = torch.arange(size, device=self.state.device) + (self.draws << 32)
        bits = shifted(mixed(self.state[:, None] + column * GOLDEN), 42)  # 22 bits: (bits + .5) / 2^22 < 1
        return bits.to(dtype).add_(0.5).div_(1 << 22)

    def take(self, rows: Int[Tensor, " chosen"]) -> RequestNoise:
        """The same noise for some requests, in the given order; repeats allowed."""
        return RequestNoise(self.state[rows], self.draws)

    def split(self, rows: int) -> list[RequestNoise]:
        """The same noise for consecutive parts of the batch, `rows` requests each."""
        return [RequestNoise(part, self.draws) for part in self.state.split(rows)]
