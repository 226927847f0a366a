"""RPG: all codes of the next item at once, from one pass, so that every item has its exact score.

Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025, arXiv 2506.05781; official code
github.com/facebookresearch/RPG_KDD2025 (nothing is taken from it).

Differs from the original in:
- pre-norm blocks of this project with a layer of 4 d instead of GPT-2's, which drop out of both branches at the rate
  that the original has for embeddings and attention, and positions counted from the end of the window;
- codes may come from any tokenizer; those of OPQ (`diffrec data tokenize --method opq`) have no order, as in the paper;
- every item is scored; the original also offers a walk over a graph of items for large catalogues;
- AdamW, behind a warm-up at a constant rate or one that falls as a cosine.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, normalize, silu

from diffrec.coded_items import CodedRecommender
from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.transformer import CausalTransformer, check_blocks, last_state
from diffrec.recommender import LrSchedule
from diffrec.typing import Float, History, Scores, Tensor


class RPG(CodedRecommender):
    """A causal transformer over items, each the mean of its codes' embeddings; a head for every code of the next one.

    codes, num_levels, codebook_size, warmup_steps, lr_schedule: see `CodedRecommender`; temperature: what cosines
    are divided by.
    """

    examples = "next"

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        num_levels: int = 16,
        codebook_size: int = 256,
        embedding_size: int = 448,
        num_blocks: int = 2,
        num_heads: int = 4,
        max_history_length: int = 50,
        temperature: float = 0.03,
        dropout: float = 0.5,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        warmup_steps: int = 1000,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        schedule = (lr, weight_decay, warmup_steps, lr_schedule)
        super().__init__(num_items, max_history_length, codes, num_levels, codebook_size, *schedule)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_numbers(above=0.0, temperature=temperature)
        dim = embedding_size
        self.tokens = self.token_table(dim)
        self.position, self.dropout = PositionsFromEnd(max_history_length, dim), Dropout(dropout)
        self.transformer = CausalTransformer(dim, num_blocks, num_heads, dropout)
        self.heads = nn.Parameter(torch.zeros(num_levels, dim, dim))
        self.temperature = temperature

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        items = self.tokens(self.item_codes.tokens(history)).mean(2)
        return self.transformer(self.dropout(items + self.position(history > 0)))

    def logits(self, states: Float[Tensor, "positions dim"]) -> Float[Tensor, "positions levels size"]:
        """Cosines of each head, x + SiLU(W x), with the codes of its level, divided by the temperature."""
        heads = normalize(states[:, None] + silu(torch.einsum("pd,lcd->plc", states, self.heads)), dim=-1)
        codes = normalize(self.tokens.weight[1:], dim=-1).unflatten(0, (self.item_codes.levels, -1))
        return torch.einsum("pld,lcd->plc", heads, codes) / self.temperature

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean cross-entropy of all codes of the item behind every position."""
        real = batch.target > 0
        logits = self.logits(self.states(batch.history)[real])
        codes = self.item_codes.codes[batch.target[real] - 1]
        return cross_entropy(logits.flatten(0, 1), codes.flatten())

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """The mean log-probability of each item's codes; nothing is sampled, `noise` is not used."""
        state = last_state(self.states(history), (history > 0).sum(1).clamp(min=1))
        log_p = log_softmax(self.logits(state), dim=-1)
        scores = log_p.new_zeros(len(history), self.num_items)
        for level, codes in enumerate(self.item_codes.codes.T):
            scores += log_p[:, level, codes]
        return scores / self.item_codes.levels
