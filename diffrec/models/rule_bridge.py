"""RuleBridge: a Brownian bridge from what the counting rules expect to the embedding of the next item.

A model of this project, not of a paper. It puts together
- the bridge of Li et al. (BBDM, CVPR 2023), here between item vectors: the walk starts at the mean item vector
  under sequential rules (Ludewig and Jannach 2018) instead of at noise;
- a causal transformer over the history as the condition, with every position an example (SASRec);
- cross-entropy over all items on the predicted x0 beside the regression to it;
- the rules once more at the end: the logits of x0 plus w log((r + floor) / floor), r the score of the rules.

Rules at a training position leave out what the sequence itself added to the counts (`RuleTable`): with it, nearly
every target would have a rule, and the network would learn to trust rules that the next user does not have.

x0 and the end are directions: item vectors are scaled to norm sqrt(d) and get no gradient from being the target,
so a table that shrinks lowers no loss.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, normalize

from diffrec.data.batch import Batch
from diffrec.data.neighbours import strongest_per_row
from diffrec.data.ragged import Ragged
from diffrec.data.rules import count_rules
from diffrec.diffusion.bridge import BrownianBridge
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.timesteps import LateTimesteps
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.next_item import NextItemRecommender
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.rule_table import RuleTable
from diffrec.nn.transformer import CausalTransformer, last_state
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor

Readout = Literal["joint", "after", "none"]


class RuleBridge(NextItemRecommender):
    """A walk of a few steps from the rules' mean item to the next item, steered by the history.

    bridge: False scores with the transformer's state, which leaves SASRec and the rules; num_train_timesteps: T;
    num_inference_steps: None for all; variance: s of the bridge; late: `LateTimesteps.power`; regression: weight of
    the squared error beside the cross-entropy; num_draws: how many noisy walks are averaged, 0 for one without noise.
    readout: "joint" trains with the rules in the softmax and learns w from `rule_weight` on, "after" adds them only
    to the scores, with w = rule_weight, "none" leaves them out of the scores. rule_window, rule_decay, rule_shares,
    rules_per_item, rule_reach: `RuleTable`; rule_floor: the score that counts as no rule.
    """

    sampling_settings = ("num_inference_steps", "num_draws")

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_blocks: int = 2,
        num_heads: int = 2,
        max_history_length: int = 50,
        dropout: float = 0.3,
        bridge: bool = True,
        num_train_timesteps: int = 4,
        num_inference_steps: int | None = 1,
        variance: float = 0.5,
        late: float = 3.0,
        regression: float = 0.1,
        num_draws: int = 0,
        readout: Readout = "after",
        rule_weight: float = 1.0,
        rule_floor: float = 1e-3,
        rule_window: int = 10,
        rule_decay: float = 0.5,
        rule_shares: bool = False,
        rules_per_item: int = 64,
        rule_reach: int = 10,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_sizes(num_blocks=num_blocks, num_heads=num_heads, rule_window=rule_window)
        check_sizes(rules_per_item=rules_per_item, rule_reach=rule_reach)
        check_sizes(least=0, num_draws=num_draws)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        check_numbers(low=0.0, regression=regression, rule_weight=rule_weight)
        check_numbers(above=0.0, late=late, rule_floor=rule_floor, rule_decay=rule_decay)
        if embedding_size < 4 or embedding_size % 2 or embedding_size % num_heads:
            wanted = "an even multiple of num_heads and at least 4"
            raise UsageError(f"embedding_size must be {wanted}, got {embedding_size} and {num_heads} heads")
        self.process = BrownianBridge(num_train_timesteps, variance)
        self.process.num_steps(num_inference_steps)
        self.readout: Readout = readout
        choose("readout", readout, get_args(Readout))
        self.items = EmbeddingSpace(num_items, embedding_size, init_std=0.02)
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.transformer = CausalTransformer(embedding_size, num_blocks, num_heads, dropout)
        self.dropout = Dropout(dropout)
        self.denoiser = ConcatDenoiser(embedding_size, layers=2) if bridge else None
        self.norm = nn.LayerNorm(embedding_size) if bridge else None
        self.timesteps = LateTimesteps(num_train_timesteps, late)
        self.rules = RuleTable(num_items, rules_per_item, rule_window, rule_reach, rule_decay, rule_shares)
        self.rule_weight = nn.Parameter(torch.tensor(float(rule_weight)), requires_grad=readout == "joint")
        self.num_inference_steps, self.num_draws = num_inference_steps, num_draws
        self.regression, self.rule_floor = regression, rule_floor

    def prepare(self, sequences: Ragged) -> None:
        """Count the rules and keep the strongest of every item."""
        counts, table = count_rules(sequences, self.num_items, self.rules.window), self.rules
        kept = strongest_per_row(counts, self.num_items, table.items.shape[1]).tocsr()
        item, slot = Ragged(kept.indices, kept.indptr).row_of_entry, Ragged(kept.indices, kept.indptr).position_of_entry
        items, strength = np.zeros(table.items.shape, dtype=np.int64), np.zeros(table.counts.shape, dtype=np.float32)
        items[item + 1, slot], strength[item + 1, slot] = kept.indices + 1, kept.data
        table.items.copy_(torch.from_numpy(items))
        table.counts.copy_(torch.from_numpy(strength))
        table.totals[1:].copy_(torch.from_numpy(counts.sum(axis=1)))

    @property
    def num_steps(self) -> int | None:
        return None if self.denoiser is None else self.process.num_steps(self.num_inference_steps)

    @property
    def all_steps(self) -> int | None:
        return None if self.denoiser is None else self.process.num_steps(None)

    @property
    def denoiser_calls(self) -> int:
        steps = self.process.num_steps(self.num_inference_steps)
        return steps * max(1, self.num_draws) if self.denoiser is not None else 1

    @property
    def uses_noise(self) -> bool:
        steps = self.process.num_steps(self.num_inference_steps)
        return self.denoiser is not None and self.num_draws > 0 and steps > 1  # the last step draws nothing

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The condition after every item."""
        return self.transformer(self.dropout(self.items.encode(history) + self.position(history > 0)))

    def predicted_x0(
        self, x_t: Float[Tensor, "batch dim"], t: Tensor, condition: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """The next item's vector, as what the state at t adds to the condition."""
        assert self.denoiser is not None
        assert self.norm is not None
        return self.norm(condition + self.denoiser(x_t, t, condition))

    def directions(self) -> Float[Tensor, "rows dim"]:
        """The table with rows of norm sqrt(d), without gradient: the vectors that are diffused."""
        table = self.items.table.weight.detach()
        return normalize(table, dim=1) * table.shape[1] ** 0.5

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy and regression over all real positions of the batch, each with a step of its own."""
        row, event = (batch.target > 0).nonzero(as_tuple=True)
        target = batch.target[row, event]
        rules = self.rules(batch.history, batch.target)
        state, error = self.states(batch.history)[row, event], 0.0
        if self.denoiser is not None:
            table = self.directions()
            end, x0 = self.rules.mean(rules, table)[row, event], table[target]
            noised = self.process.corrupt(x0, self.timesteps.draw(len(x0), x0.device).t, end)
            state = self.predicted_x0(noised.x_t, noised.t, state)
            error = self.regression * mse_loss(state, x0)
        known = {}
        if self.readout == "joint":
            known["prior"] = lambda part: self.rules.log_scores(rules, row[part], event[part], self.rule_floor)
            known["weight"] = self.rule_weight
        return cross_entropy_over_items(state, self.items.table.weight[1:], target - 1, **known) + error

    query, keys = Recommender.query, Recommender.keys  # the rules' part of a score is no product

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Inner products of the predicted x0 with every item, plus w times the logarithm of the rules' score."""
        row = torch.arange(len(history), device=history.device)
        last = (history > 0).sum(1).clamp(min=1) - 1
        rules = self.rules(history)
        state = last_state(self.states(history), last + 1)
        if self.denoiser is not None:
            end = self.rules.mean(rules, self.directions())[row, last]
            state = self._walked(end, state, noise or RequestNoise.from_history(history))
        scores = self.items.score(state)
        if self.readout == "none":
            return scores
        return scores + self.rule_weight * self.rules.log_scores(rules, row, last, self.rule_floor)

    def _walked(
        self, end: Float[Tensor, "batch dim"], condition: Float[Tensor, "batch dim"], noise: RequestNoise
    ) -> Float[Tensor, "batch dim"]:
        """x0 at the end of the walk, the mean of all draws."""
        sources = [noise.normal] * self.num_draws or [None]
        walks = [
            sample(
                lambda x, t: self.predicted_x0(x, t, condition),
                self.process,
                end,
                num_inference_steps=self.num_inference_steps,
                noise=source,
            )
            for source in sources
        ]
        return torch.stack(walks).mean(0)
