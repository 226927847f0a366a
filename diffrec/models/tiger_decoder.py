"""The decoder-only twin of TIGER: one causal transformer over the codes of the history and of the next item.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065, has an encoder and a
decoder; without the former, as language models are, the codes of every item of a sequence are an example in one pass.

Differs from TIGER in:
- a code sees those before it only, in the history too;
- an example is every item behind the first in the window, not a prefix with its target;
- at equal width and parameters there are as many blocks as the two halves have together, with a wider feed-forward
  layer where those have attention to the encoder.

Codes, trie, beams, positions of items, and what is not found are those of TIGER.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, pad

from diffrec.coded_items import CodedRecommender
from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.dropout import Dropout
from diffrec.nn.item_codes import beam_search, level_logits
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.shared_memory import Writing, memory_of
from diffrec.nn.transformer import Transformer, TransformerBlock
from diffrec.recommender import LrSchedule
from diffrec.typing import Bool, Float, History, Int, Scores, Tensor


class TIGERDecoder(CodedRecommender):
    """A causal transformer that writes the codes of the next item behind those of the history.

    codes, num_levels, codebook_size, warmup_steps, lr_schedule: see `CodedRecommender`; head_size: of each of the
    heads, whatever the width; num_beams: how many tuples are kept from code to code.
    """

    examples = "next"
    sampling_settings = ("num_beams",)

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        num_levels: int = 4,
        codebook_size: int = 256,
        embedding_size: int = 128,
        num_blocks: int = 8,
        num_heads: int = 6,
        head_size: int = 64,
        feed_size: int = 1408,
        max_history_length: int = 20,
        num_beams: int = 50,
        dropout: float = 0.1,
        lr: float = 3e-4,
        weight_decay: float = 0.035,
        warmup_steps: int = 1000,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        schedule = (lr, weight_decay, warmup_steps, lr_schedule)
        super().__init__(num_items, max_history_length, codes, num_levels, codebook_size, *schedule)
        check_sizes(embedding_size=embedding_size, num_heads=num_heads, head_size=head_size, feed_size=feed_size)
        check_sizes(num_blocks=num_blocks, num_beams=num_beams)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        dim = embedding_size
        self.tokens = self.token_table(dim)
        self.position, self.dropout = PositionsFromEnd(max_history_length + 1, dim), Dropout(dropout)
        self.place = nn.Parameter(0.02 * torch.randn(num_levels, dim))
        blocks = [
            TransformerBlock(dim, num_heads, dropout, head_size=head_size, feed_size=feed_size)
            for _ in range(num_blocks)
        ]
        self.transformer = Transformer(blocks, nn.LayerNorm(dim))
        self.num_beams = num_beams

    @property
    def denoiser_calls(self) -> int:
        """Passes of the network."""
        return self.item_codes.levels

    def embedded(self, items: History, real: Bool[Tensor, "batch places"]) -> Float[Tensor, "batch slots dim"]:
        """What goes into the blocks where the codes of these items are written: at each the code before it.

        real: the items, and behind them those that positions are to leave room for.
        """
        tokens = self.item_codes.tokens(items).flatten(1)
        before = self.tokens(pad(tokens, (1, -1))).unflatten(1, (items.shape[1], -1))
        position = self.position(real)[:, : items.shape[1], None]
        return self.dropout((before + self.place + position).flatten(1, 2))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean cross-entropy of the codes of every item behind the first."""
        items = torch.cat([batch.history[:, :1], batch.target], dim=1)
        states = self.transformer(self.embedded(items, items > 0)).unflatten(1, (items.shape[1], -1))[:, 1:]
        codes = self.item_codes.targets(batch.target)
        return cross_entropy(level_logits(states, self.tokens.weight).flatten(0, 2), codes.flatten())

    def beams(self, history: History) -> tuple[Int[Tensor, "batch found"], Float[Tensor, "batch found"]]:
        """Tuples of the trie by number, best first, and their log-probabilities."""
        real, size = history > 0, self.item_codes.size
        x = self.embedded(history, pad(real, (1, 0), value=True))
        seen = real.repeat_interleave(self.item_codes.levels, dim=1)
        writing = Writing(self.transformer, memory_of(self.transformer, x, None, seen))
        last = self.item_codes.tokens(history.gather(1, (real.sum(1, keepdim=True) - 1).clamp(min=0)))[..., -1]

        def step(level: int, codes: Tensor, parents: Tensor) -> Tensor:
            rows = last if level == 0 else 1 + (level - 1) * size + codes
            state = writing.step(self.tokens(rows) + self.place[level] + self.position.weight[-1], parents)
            return log_softmax(state @ self.item_codes.of_level(self.tokens.weight, level).T, dim=-1)

        return beam_search(self.item_codes.trie, self.num_beams, len(history), step)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Log-probabilities of the items that the beams end at; nothing is sampled, `noise` is not used."""
        return self.item_codes.item_scores(*self.beams(history))
