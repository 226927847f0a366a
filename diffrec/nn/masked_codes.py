"""Which codes training hides, what each of them weighs, and in which order hidden codes are read.

Hidden codes are those of a masked diffusion: a share of all, whose cross-entropy is divided by that share, bounds the
likelihood. Sources: Sahoo et al., "Simple and Effective Masked Diffusion Language Models" (NeurIPS 2024); for codes of
items MaskGR (arXiv 2511.23021), LLaDA-Rec (arXiv 2511.06254) and DiffGRM (arXiv 2510.21805).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from diffrec.typing import Bool, Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Hidden:
    """which: the codes that are hidden; weight: 1 / (probability of being hidden), the same shape."""

    which: Bool[Tensor, "*slots"]
    weight: Float[Tensor, "*slots"]


def hide_share(real: Bool[Tensor, "*slots"], share: Float[Tensor, " batch"], u: Float[Tensor, "*slots"]) -> Hidden:
    """Each real code of a row with the row's probability: where u < share."""
    share = share.view(-1, *[1] * (u.ndim - 1)).expand_as(u)
    return Hidden((u < share) & real, 1 / share.clamp(min=torch.finfo(share.dtype).tiny))


def hide_by_item(
    real: Bool[Tensor, "batch items levels"],
    count: Int[Tensor, "batch items"],
    u: Float[Tensor, "batch items levels"],
) -> Hidden:
    """Each real code of an item with probability count / levels, which an item's codes share."""
    share = (count / u.shape[2])[..., None].expand_as(u)
    return Hidden((u < share) & real, torch.where(share > 0, 1 / share, 0.0))


def hide_exactly(count: Int[Tensor, " batch"], u: Float[Tensor, "batch levels"]) -> Hidden:
    """The `count` codes with the least u of each row, each of which weighs levels / count."""
    rank = u.argsort(dim=1).argsort(dim=1)
    return Hidden(rank < count[:, None], (u.shape[1] / count)[:, None].expand_as(u))


def hide_least_confident(
    count: Int[Tensor, " batch"], probabilities: Float[Tensor, "batch levels size"]
) -> Bool[Tensor, "batch levels"]:
    """The `count` levels of each row whose greatest probability is least: those that are read last."""
    rank = by_confidence(probabilities).argsort(dim=1)
    return rank >= rank.shape[1] - count[:, None]


def hidden_loss(
    logits: Float[Tensor, "hidden codes"],
    codes: Int[Tensor, " hidden"],
    weight: Float[Tensor, " hidden"],
    total: Float[Tensor, ""] | float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum of the weighed cross-entropies of hidden codes, divided by `total`."""
    losses = cross_entropy(logits, codes, reduction="none", label_smoothing=label_smoothing)
    return (losses * weight).sum() / total


def by_confidence(probabilities: Float[Tensor, "*shape levels size"]) -> Int[Tensor, "*shape levels"]:
    """Levels in falling order of their greatest probability."""
    return probabilities.amax(-1).argsort(dim=-1, descending=True, stable=True)
