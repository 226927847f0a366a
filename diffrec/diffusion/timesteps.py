"""How training draws timesteps, and what weight each draw carries. State lives in buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Num
from torch import nn

from diffrec.errors import check_numbers, choose
from diffrec.typing import Float, Int, Tensor

TimeDensity = Literal["uniform", "mode", "cosmap", "logit_normal"]


@dataclass(frozen=True)
class TimestepDraw:
    """t: (batch,) steps 0..T-1, or times in [0, 1]; weight: (batch,) importance weights 1 / (T p_t)."""

    t: Num[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


@runtime_checkable
class TimestepSampler(Protocol):
    """Draws the steps that training sees, and may learn from the losses (batch,) they had."""

    def draw(self, size: int, device: torch.device, generator: torch.Generator | None = None) -> TimestepDraw: ...

    def update(self, t: Int[Tensor, " batch"], loss: Float[Tensor, " batch"]) -> None: ...


class UniformTimesteps(nn.Module):
    """Every step is equally likely."""

    def __init__(self, num_train_timesteps: int) -> None:
        super().__init__()
        self.num_train_timesteps = num_train_timesteps

    def draw(self, size: int, device: torch.device, generator: torch.Generator | None = None) -> TimestepDraw:
        """`size` steps with weight 1."""
        t = torch.randint(self.num_train_timesteps, (size,), device=device, generator=generator)
        return TimestepDraw(t, torch.ones(size, device=device))

    def update(self, t: Int[Tensor, " batch"], loss: Float[Tensor, " batch"]) -> None:
        """Nothing is learned from losses."""


class LateTimesteps(UniformTimesteps):
    """t = floor(T u^(1 / power)) with u uniform: the larger `power`, the more of training is spent near T - 1.

    For walks of few steps, whose first network call decides most: power 1 is uniform.
    """

    def __init__(self, num_train_timesteps: int, power: float) -> None:
        super().__init__(num_train_timesteps)
        self.power = power

    def draw(self, size: int, device: torch.device, generator: torch.Generator | None = None) -> TimestepDraw:
        """`size` steps with weight 1: what is drawn more often counts more."""
        u = torch.rand(size, device=device, generator=generator) ** (1 / self.power)
        t = (u * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)
        return TimestepDraw(t, torch.ones(size, device=device))


class FlowTimes(nn.Module):
    """Times in [0, 1 - shortest] of a rectified flow, 0 being the data.

    density: "uniform"; "mode" and "cosmap" favour the middle or the ends; "logit_normal" is a squashed N(0, scale^2)
    (Esser et al., "Scaling Rectified Flow Transformers", ICML 2024, section 3.1). scale: of "mode", from -1 to
    2 / (pi - 2), and of "logit_normal".
    """

    def __init__(self, density: str = "uniform", scale: float = 1.0, shortest: float = 1e-3) -> None:
        super().__init__()
        self.density = choose("density", density, get_args(TimeDensity))
        check_numbers(low=-1.0, high=1.75, scale=scale)
        check_numbers(low=0.0, high=1.0, shortest=shortest)
        self.scale, self.shortest = scale, shortest

    def draw(self, size: int, device: torch.device, generator: torch.Generator | None = None) -> TimestepDraw:
        """`size` times with weight 1: what is drawn more often counts more."""
        source = torch.randn if self.density == "logit_normal" else torch.rand
        numbers = source(size, device=device, generator=generator)
        return TimestepDraw(self.placed(numbers), torch.ones(size, device=device))

    def placed(self, numbers: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The times that these uniform numbers stand for; standard normal ones for "logit_normal"."""
        if self.density == "mode":
            share = 1 - numbers - self.scale * ((torch.pi / 2 * numbers).cos().square() - 1 + numbers)
        elif self.density == "cosmap":
            share = 1 - 1 / ((torch.pi / 2 * numbers).tan() + 1)
        elif self.density == "logit_normal":
            share = torch.sigmoid(self.scale * numbers)
        else:
            share = numbers
        return (1 - share) * (1 - self.shortest)

    def update(self, t: Float[Tensor, " batch"], loss: Float[Tensor, " batch"]) -> None:
        """Nothing is learned from losses."""


class LossAwareTimesteps(nn.Module):
    """Steps are drawn in proportion to the root mean square of their last losses.

    Until every step has `history_size` losses all are equally likely; then p_t = (1 - u) m_t / sum m
    + u / T with u = `uniform_share` (Nichol and Dhariwal 2021, eq. 18; the constants of DiffRec).
    """

    losses: Tensor
    filled: Tensor

    def __init__(self, num_train_timesteps: int, history_size: int = 10, uniform_share: float = 0.001) -> None:
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self.history_size, self.uniform_share = history_size, uniform_share
        self.register_buffer("losses", torch.zeros(num_train_timesteps, history_size, dtype=torch.float64))
        self.register_buffer("filled", torch.zeros(num_train_timesteps, dtype=torch.int64))

    def probabilities(self) -> Float[Tensor, " steps"]:
        """p_t, (T,) float64."""
        if (self.filled < self.history_size).any():
            return torch.full_like(self.losses[:, 0], 1 / self.num_train_timesteps)
        rms = self.losses.square().mean(1).sqrt()
        return rms / rms.sum() * (1 - self.uniform_share) + self.uniform_share / self.num_train_timesteps

    def draw(self, size: int, device: torch.device, generator: torch.Generator | None = None) -> TimestepDraw:
        """`size` steps and their weights 1 / (T p_t)."""
        p = self.probabilities()
        t = (_drawn if p.device.type == "cpu" else _drawn_one_by_one)(p, size, generator)
        return TimestepDraw(t.to(device), (1 / (p[t] * self.num_train_timesteps)).float().to(device))

    @torch.no_grad()
    def update(self, t: Int[Tensor, " batch"], loss: Float[Tensor, " batch"]) -> None:
        """Append each loss (before its importance weight) to its step's row, the oldest falling out.

        All at once: a new loss of rank r in its row goes to slot filled + r - shift, where shift is
        how far the row overflows; old losses move left by the same shift.
        """
        arrivals = torch.bincount(t, minlength=self.num_train_timesteps)
        shift = (self.filled + arrivals - self.history_size).clamp(min=0)
        slots = torch.arange(self.history_size, device=t.device)
        source = slots + shift[:, None]
        moved = self.losses.gather(1, source.clamp(max=self.history_size - 1))
        kept = torch.where(source < self.filled[:, None], moved, torch.zeros_like(moved))
        order = torch.argsort(t, stable=True)
        row = t[order]
        rank = torch.arange(len(t), device=t.device) - (arrivals.cumsum(0) - arrivals)[row]
        slot = self.filled[row] + rank - shift[row]
        fits = slot >= 0
        kept[row[fits], slot[fits]] = loss[order][fits].to(kept.dtype)
        self.losses.copy_(kept)
        self.filled.copy_((self.filled + arrivals).clamp(max=self.history_size))


def _drawn(p: Float[Tensor, " steps"], size: int, generator: torch.Generator | None) -> Int[Tensor, " batch"]:
    return torch.multinomial(p, size, replacement=True, generator=generator)


def _drawn_one_by_one(
    p: Float[Tensor, " steps"], size: int, generator: torch.Generator | None
) -> Int[Tensor, " batch"]:
    """The same from `size` rows, for CUDA: many draws of one row rest on a sum that it refuses to repeat exactly."""
    return torch.multinomial(p.expand(size, -1), 1, generator=generator)[:, 0]
