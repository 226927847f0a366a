"""TIGER: write the semantic ID of the next item, code by code.

Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065; there is no official
code.

Differs from the original in:
- codes may come from any tokenizer (`diffrec data tokenize`), residual k-means by default;
- no token for the user, which other implementations found to be of no use;
- pre-norm blocks with GELU and learned positions of items, counted from the end of the window, instead of those of T5;
- only tuples that are items are written: beams walk a trie, so nothing else comes out, and what is counted are items;
- AdamW, behind a warm-up at a constant rate or one that falls as a cosine.

Items that are on no beam share the last place. A list is as long as the beams at most: `num_beams` should be well above
the length that is asked for, all the more where items that a user knows are left out.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from diffrec.coded_items import CodedRecommender
from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.code_decoder import CodeDecoder, DecoderBlock
from diffrec.nn.dropout import Dropout
from diffrec.nn.item_codes import beam_search, level_logits
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.transformer import Transformer, TransformerBlock
from diffrec.recommender import LrSchedule
from diffrec.typing import Bool, Float, History, Int, Scores, Tensor


class TIGER(CodedRecommender):
    """An encoder over the codes of the history, a decoder over those of the next item.

    codes, num_levels, codebook_size, warmup_steps, lr_schedule: see `CodedRecommender`; head_size: of each of the
    heads, whatever the width; num_beams: how many tuples are kept from code to code.
    """

    examples = "prefix"
    similar_lengths = True
    sampling_settings = ("num_beams",)

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        num_levels: int = 4,
        codebook_size: int = 256,
        embedding_size: int = 128,
        num_encoder_blocks: int = 4,
        num_decoder_blocks: int = 4,
        num_heads: int = 6,
        head_size: int = 64,
        feed_size: int = 1024,
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
        check_sizes(num_encoder_blocks=num_encoder_blocks, num_decoder_blocks=num_decoder_blocks, num_beams=num_beams)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        dim = embedding_size
        self.tokens = self.token_table(dim)
        self.position, self.dropout = PositionsFromEnd(max_history_length, dim), Dropout(dropout)
        self.place = nn.Parameter(0.02 * torch.randn(num_levels, dim))
        encoder = [
            TransformerBlock(dim, num_heads, dropout, head_size=head_size, feed_size=feed_size)
            for _ in range(num_encoder_blocks)
        ]
        self.encoder = Transformer(encoder, nn.LayerNorm(dim))
        decoder = [DecoderBlock(dim, num_heads, dropout, head_size, feed_size) for _ in range(num_decoder_blocks)]
        self.decoder = CodeDecoder(decoder, dim)
        self.num_beams = num_beams

    @property
    def denoiser_calls(self) -> int:
        """Passes of the decoder."""
        return self.item_codes.levels

    def encoded(self, history: History) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"]]:
        """The states of all codes of the history, (batch, length * levels, dim), and which are real."""
        real = history > 0
        read = self.tokens(self.item_codes.tokens(history)) + self.position(real)[:, :, None]
        visible = real.repeat_interleave(self.item_codes.levels, dim=1)
        visible[:, 0] = True  # something to look at in an empty history
        return self.encoder(self.dropout(read.flatten(1, 2)), visible), visible

    def logits(self, state: Float[Tensor, "*shape dim"], level: int) -> Float[Tensor, "*shape size"]:
        """Of the codes of one level."""
        return state @ self.item_codes.of_level(self.tokens.weight, level).T

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean cross-entropy of the codes of the target, each behind those before it."""
        states, visible = self.encoded(batch.history)
        tokens = self.item_codes.tokens(batch.target[:, 0])
        behind = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        written = self.decoder(self.dropout(self.tokens(behind) + self.place), states, visible)
        codes = self.item_codes.codes[batch.target[:, 0] - 1]
        return cross_entropy(level_logits(written, self.tokens.weight).flatten(0, 1), codes.flatten())

    def beams(self, history: History) -> tuple[Int[Tensor, "batch found"], Float[Tensor, "batch found"]]:
        """Tuples of the trie by number, best first, and their log-probabilities."""
        writing = self.decoder.reading(*self.encoded(history))
        size = self.item_codes.size

        def step(level: int, codes: Tensor, parents: Tensor) -> Tensor:
            rows = torch.zeros_like(codes) if level == 0 else 1 + (level - 1) * size + codes
            state = writing.step(self.tokens(rows) + self.place[level], parents)
            return log_softmax(self.logits(state, level), dim=-1)

        return beam_search(self.item_codes.trie, self.num_beams, len(history), step)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Log-probabilities of the items that the beams end at; nothing is sampled, `noise` is not used."""
        return self.item_codes.item_scores(*self.beams(history))
