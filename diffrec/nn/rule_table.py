"""Counting rules i -> j inside a network: the strongest of every item, their decayed sum over a history."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import embedding_bag, pad

from diffrec.typing import Bool, Float, History, Int, Tensor

_ROUNDING = 1e-5  # of a count: what is left below it is no rule of others, but the difference of equal sums


@dataclass(frozen=True)
class Rules:
    """What the events of a batch of histories speak for: items and how strongly, 0 where there is nothing."""

    items: Int[Tensor, "batch length rules"]
    strength: Float[Tensor, "batch length rules"]


class RuleTable(nn.Module):
    """r_j after event i = sum over the last `reach` events k of decay^(i - k) S[h_k, j].

    S_ij is the sum over training pairs of i and a later j, at most `window` apart, of one over their distance; row i
    keeps its `width` largest. shares: divide row i by one plus its sum. `counts` (N + 1, width) and the rest are
    filled by the model, row 0 is padding and empty.
    """

    items: Tensor
    counts: Tensor
    totals: Tensor

    def __init__(self, num_items: int, width: int, window: int, reach: int, decay: float, shares: bool) -> None:
        super().__init__()
        width = min(width, num_items)
        self.num_items, self.window, self.reach, self.decay, self.shares = num_items, window, reach, decay, shares
        self.register_buffer("items", torch.zeros(num_items + 1, width, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(num_items + 1, width))
        self.register_buffer("totals", torch.zeros(num_items + 1))

    def forward(self, history: History, following: Int[Tensor, "batch length"] | None = None) -> Rules:
        """The rules of every event.

        following: the item after each event of a training sequence; what this sequence added to the counts is taken
        out again, or its own future would be among the rules that are to predict it.
        """
        items, strength, totals = self.items[history], self.counts[history], self.totals[history]
        if following is not None:
            own, own_totals = self._own(history, following, items)
            others = strength - own
            strength = torch.where(others > _ROUNDING * strength, others, 0.0)
            totals = (totals - own_totals).clamp(min=0)
        return Rules(items, strength / (1 + totals)[..., None] if self.shares else strength)

    def _own(
        self, history: History, following: Int[Tensor, "batch length"], items: Int[Tensor, "batch length rules"]
    ) -> tuple[Float[Tensor, "batch length rules"], Float[Tensor, "batch length"]]:
        """What the sequence itself counts for the rules of each event, by all events of the same item in the window.

        In float64, which neither autocast nor TF32 rounds.
        """
        own, totals = torch.zeros_like(items, dtype=torch.float64), torch.zeros_like(history, dtype=torch.float64)
        for distance in range(1, min(self.window, history.shape[1]) + 1):
            later = pad(following, (0, distance - 1))[:, distance - 1 :]
            own += (later[..., None] == items) / distance
            totals += (later > 0) / distance
        same = (history[:, :, None] == history[:, None, :]).double()
        return (same @ own).float(), (same @ totals[..., None]).squeeze(-1).float()

    def mean(self, rules: Rules, table: Float[Tensor, "rows dim"]) -> Float[Tensor, "batch length dim"]:
        """The mean row of `table` under r, after every event; zeros where no rule speaks."""
        flat = embedding_bag(
            rules.items.flatten(0, 1), table, mode="sum", per_sample_weights=rules.strength.flatten(0, 1)
        )
        sums = torch.cat(
            [flat.view(*rules.items.shape[:2], table.shape[1]), rules.strength.sum(-1, keepdim=True)], dim=-1
        )
        back = torch.arange(sums.shape[1], device=sums.device)
        back = back[:, None] - back
        faded = torch.where((back >= 0) & (back < self.reach), self.decay ** back.clamp(min=0).float(), 0.0) @ sums
        return faded[..., :-1] / faded[..., -1:].clamp(min=1e-12)

    def log_scores(
        self, rules: Rules, row: Int[Tensor, " positions"], event: Int[Tensor, " positions"], floor: float
    ) -> Float[Tensor, "positions items"]:
        """log((r_j + floor) / floor) after the given events: 0 where no rule speaks for item j + 1."""
        back = torch.arange(min(self.reach, rules.items.shape[1]), device=row.device)
        there: Bool[Tensor, "positions reach"] = event[:, None] >= back
        places = row[:, None], (event[:, None] - back).clamp(min=0)
        weight = torch.where(there, self.decay ** back.float(), 0.0)
        strength = rules.strength[places] * weight[..., None]
        # one flat index_add has a deterministic form on every device; column 0 takes what is no item
        cells = rules.items[places] + torch.arange(len(row), device=row.device)[:, None, None] * (self.num_items + 1)
        scores = strength.new_zeros(len(row) * (self.num_items + 1))
        scores.index_add_(0, cells.flatten(), strength.flatten())
        return scores.view(len(row), self.num_items + 1)[:, 1:].div(floor).log1p_()
