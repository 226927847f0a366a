"""Fading: a discrete diffusion in which an item gives way, once, to a draw from what is not preferred.

With a = exp(-sigma), x_t is x_0 with probability a, else a draw from p: the transition matrix a I + (1 - a) 1 p^T has
the rate d sigma (1 p^T - I). What is learnt are ratios of probabilities, by their logarithms l_y at y against x_t.
Sources: Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution" (2024); PreferGrow
(arXiv 2509.26063), whose official code agrees with these formulas for its graphs pair, point and adaptive.
"""

from __future__ import annotations

import math

import torch

from diffrec.typing import Float, Int, PerExample, Tensor

Ratios = Float[Tensor, "batch states"]
States = Int[Tensor, " batch"]
Distribution = Float[Tensor, " states"]


def geometric(t: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """sigma(t) = low^(1 - t) high^t; its derivative is sigma(t) ln(high / low)."""
    return torch.exp((1 - t) * math.log(low) + t * math.log(high))


def fade(x0: States, sigma: PerExample, p: Distribution) -> States:
    """x_t of each row."""
    race = p / torch.empty(len(x0), len(p), device=p.device, dtype=p.dtype).exponential_()  # the largest is a draw of p
    return torch.where(torch.rand_like(sigma) < torch.exp(-sigma), x0, race.argmax(1))


def score_entropy(log_ratios: Ratios, x0: States, x_t: States, sigma: PerExample, p: Distribution) -> PerExample:
    """p(x_t) times the sum over y other than x_t of e^l - r l + r (ln r - 1), r being the true ratio at y; at least 0.

    log_ratios: 0 at x_t, by definition. Training multiplies it by the derivative of sigma.
    """
    kept, gone = torch.exp(-sigma)[:, None], -torch.expm1(-sigma)[:, None]
    at = p[x_t][:, None]
    here = torch.where(at > 0, kept * (x_t == x0)[:, None] + gone * at, 1)  # what nothing fades to has no loss
    ratios = (gone * p).scatter_add(1, x0[:, None], kept) / here
    terms = log_ratios.exp() - ratios * log_ratios + torch.xlogy(ratios, ratios) - ratios
    return at[:, 0] * (terms.sum(1) - terms.gather(1, x_t[:, None])[:, 0])


def back(log_ratios: Ratios, x_t: States, less: Float[Tensor, "*one"], p: Distribution) -> Ratios:
    """Probabilities of where x_t was when sigma was `less` smaller, up to a factor of each row; some may be below 0.

    With the true ratios they are exact; less: (), positive.
    """
    ratios = (log_ratios - log_ratios.amax(1, keepdim=True)).exp()  # the factor is of no account
    undone = less.exp() * ratios - torch.expm1(less) * p * ratios.sum(1, keepdim=True)
    onward = (-torch.expm1(-less) * p[x_t])[:, None].expand_as(ratios)
    return undone * onward.scatter_add(1, x_t[:, None], torch.exp(-less).expand(len(x_t), 1))
