"""Noise schedules: functions from a number of steps T to betas (T,) in float64. No state.

beta_t is the variance added by step t = 0..T-1 (large t is noisy), alpha_t = 1 - beta_t, and
alpha_bar_t = prod_{s<=t} alpha_s is what is left of the signal's variance.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffrec.errors import UsageError, choose, is_whole

Betas = NDArray[np.float64]
Schedule = Literal[
    "linear", "cosine", "exponential", "truncated_linear", "sqrt", "truncated_cosine", "piecewise_linear", "binomial"
]
VarianceSchedule = Literal["linear_variance", Schedule]
Grid = tuple[NDArray[np.int64], NDArray[np.int64]]  # the visited steps, rising, and what the network is told there


def linear(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """beta rises linearly (Ho et al. 2020, section 4)."""
    return np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64)


def linear_variance(
    num_train_timesteps: int, scale: float, low: float, high: float, first_beta: float | None = None
) -> Betas:
    """1 - alpha_bar rises linearly from scale*low to scale*high (DiffRec, eq. 4).

    beta is capped at 0.999. first_beta replaces beta_0 afterwards, which moves every later alpha_bar
    too: the DiffRec code does so with 1e-5, the L-DiffRec code does not. scale = 0 is no noise: every
    beta is 1e-14, which float32 does not see.
    """
    if scale == 0:
        return np.full(num_train_timesteps, 1e-14)
    alpha_bar = 1 - np.linspace(scale * low, scale * high, num_train_timesteps, dtype=np.float64)
    betas = np.minimum(1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]]), 0.999)
    if first_beta is not None:
        betas[0] = first_beta
    return betas


def cosine(num_train_timesteps: int, offset: float = 0.008, low: float = 1e-4, high: float = 0.9999) -> Betas:
    """alpha_bar follows a squared cosine (Nichol and Dhariwal 2021, eq. 17); beta is clipped to [low, high]."""
    u = np.arange(num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], low, high)


def exponential(num_train_timesteps: int, rate_min: float = 0.1, rate_max: float = 10.0) -> Betas:
    """The variance-preserving SDE in T steps (Song et al. 2021, eq. 33), as DreamRec spells it."""
    x = np.linspace(1, 2 * num_train_timesteps + 1, num_train_timesteps, dtype=np.float64)
    return 1 - np.exp(-rate_min / num_train_timesteps - x * 0.5 * (rate_max - rate_min) / num_train_timesteps**2)


def truncated_linear(num_train_timesteps: int) -> Betas:
    """beta rises linearly from 1e-4 r + 0.01 to 0.02 r + 0.01, r = 1000 / T (DiffuRec, eq. 20).

    Where the end would pass 1 it is 1e-3 r + 0.01 instead.
    """
    r = 1000 / num_train_timesteps
    end = 0.02 * r + 0.01
    return np.linspace(1e-4 * r + 0.01, end if end <= 1 else 1e-3 * r + 0.01, num_train_timesteps, dtype=np.float64)


def sqrt(num_train_timesteps: int, offset: float = 1e-4, high: float = 0.999) -> Betas:
    """alpha_bar(u) = 1 - sqrt(u + offset): noise comes fast and early (Li et al. 2022, appendix A); beta is capped."""
    u = np.arange(num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
    alpha_bar = 1 - np.sqrt(u + offset)
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], high)


def truncated_cosine(num_train_timesteps: int, offset: float = 0.1) -> Betas:
    """The squared cosine of u = t / T from t = 0 on: it starts with noise and stops before all is lost (DiffuRec)."""
    u = np.arange(num_train_timesteps, dtype=np.float64) / num_train_timesteps
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


def piecewise_linear(num_train_timesteps: int) -> Betas:
    """beta falls from 1e-4 r + 0.01 to 1e-4 r in ten steps and rises to 0.02 r in the others, r = 1000 / T (DiffuRec).

    Raises UsageError for T up to 20, where it would reach 1.
    """
    if num_train_timesteps <= 20:
        raise UsageError(f"piecewise_linear needs more than 20 timesteps, got {num_train_timesteps}")
    r = 1000 / num_train_timesteps
    falling = np.linspace(1e-4 * r + 0.01, 1e-4 * r, 10, dtype=np.float64)
    return np.concatenate([falling, np.linspace(1e-4 * r, 0.02 * r, num_train_timesteps - 10, dtype=np.float64)])


def binomial(num_train_timesteps: int) -> Betas:
    """beta_t = 1 / (T - t + 1): alpha_bar falls linearly (Sohl-Dickstein et al. 2015, for binary states)."""
    return 1 / np.arange(num_train_timesteps + 1, 1, -1, dtype=np.float64)


def betas_of(schedule: str, num_train_timesteps: int) -> Betas:
    """The schedules that only need a number of steps, by name; NotFoundError for any other."""
    schedules = {"linear": linear, "cosine": cosine, "exponential": exponential, "truncated_linear": truncated_linear,
                 "sqrt": sqrt, "truncated_cosine": truncated_cosine, "piecewise_linear": piecewise_linear,
                 "binomial": binomial}  # fmt: skip
    return schedules[choose("schedule", schedule, schedules)](num_train_timesteps)


def variances_of(
    schedule: str, num_train_timesteps: int, scale: float, low: float, high: float, first_beta: float | None = None
) -> Betas:
    """ "linear_variance" with these numbers, or one of `betas_of`, which do not read them."""
    if choose("schedule", schedule, get_args(VarianceSchedule)) == "linear_variance":
        return linear_variance(num_train_timesteps, scale, low, high, first_beta)
    return betas_of(schedule, num_train_timesteps)


def rescaled_to_zero_snr(betas: Betas) -> Betas:
    """The same schedule stretched so that nothing of the signal is left at T-1 (Lin et al. 2024, algorithm 1).

    sqrt(alpha_bar) is shifted and scaled: its first value stays, its last becomes 2^-12, for solvers divide by it.
    """
    root = np.sqrt(np.cumprod(1 - betas))
    if len(root) > 1:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        root[-1] = 2**-12
    alpha_bar = root**2
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


def respaced(betas: Betas, timesteps: NDArray[np.int64]) -> Betas:
    """Betas of the process that visits only `timesteps` (rising), with the same alpha_bar there.

    (Nichol and Dhariwal 2021, eq. 19.) A scheduler with these betas takes exact steps on any grid.
    """
    alpha_bar = np.cumprod(1 - betas)[timesteps]
    return 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])


def steps_of(num_inference_steps: int | None, num_train_timesteps: int) -> int:
    """How many of T steps are visited, all for None; UsageError for what is no whole number in 1..T."""
    steps = num_train_timesteps if num_inference_steps is None else num_inference_steps
    if not (is_whole(steps) and 1 <= steps <= num_train_timesteps):
        raise UsageError(f"num_inference_steps must be a whole number in 1..{num_train_timesteps}, got {steps!r}")
    return steps


def trailing_timesteps(num_train_timesteps: int, num_inference_steps: int) -> NDArray[np.int64]:
    """The visited steps, rising, always with T-1 last (Lin et al. 2024, table 2, "trailing")."""
    grid = np.arange(1, num_inference_steps + 1) * (num_train_timesteps / num_inference_steps)
    return np.round(grid).astype(np.int64) - 1


def trailing_grid(num_train_timesteps: int, num_inference_steps: int) -> Grid:
    """`trailing_timesteps`, and the network is told where it is."""
    visited = trailing_timesteps(num_train_timesteps, num_inference_steps)
    return visited, visited


def preferdiff_grid(num_train_timesteps: int, num_inference_steps: int) -> Grid:
    """Step 0 and the last of every stride s = T / steps, where the network is told 0, s, 2s, ..., T.

    All but the first are told one step more than they are at, and T is more than training ever told (PreferDiff). With
    a stride of 1, step 0 is the end of the first stride already, and not visited twice.
    """
    stride = num_train_timesteps // num_inference_steps
    told = np.arange(0 if stride > 1 else 1, num_train_timesteps + 1, stride)
    return np.maximum(told - 1, 0), told
