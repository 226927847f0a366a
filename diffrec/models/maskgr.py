"""MaskGR: the codes of the whole sequence are hidden and read back; the next item is all hidden.

"Masked Diffusion for Generative Recommendation" (MADRec), arXiv 2511.23021; official code github.com/snap-research/
MaskGR (commit b2d44f2, non-commercial licence; nothing is taken from it). `masking="counts"` hides as LLaDA-Rec does
(arXiv 2511.06254; github.com/TengShi-RUC/LLaDA-Rec, commit bd8bdc1, no licence), at its `temperature`;
`masking="guided"` hides and `order="joint"` reads as DiffGRM does (arXiv 2510.21805; github.com/liuzhao09/DiffGRM, no
licence), with its `label_smoothing`.

Differs from the original in:
- the softmax of a hidden code is over the codes of its level; the original's is over all tokens, masks and padding
  included: `fidelity="original"`. The original may answer with a token of another level, which is never offered here;
- the mask is a vector of its own on every level, for slots have no positions; the original has one for all;
- beams go on to tuples of items only, so that nothing invalid comes out; the original takes the tuple with the most
  equal codes for one that is no item, and may list it twice: `constrained=False`, with duplicates left out;
- the most confident level is read first; the original draws it from a softmax of confidences at temperature .01;
- the history is read once, while all of the next item is hidden, and all beams and passes share that; it saves most of
  the work, and is exact for the first pass only: `reread=True` reads it anew for every beam, as the original does;
- learned positions of items, counted from the end of the window, instead of rotations of every token; a norm behind the
  blocks; scores are sums of logarithms;
- of DiffGRM's views of a target, with 1, 2, ... of its codes hidden, each step draws one for each sequence, where
  DiffGRM trains on all of them; both weigh a hidden code alike;
- AdamW, behind a warm-up at a constant rate or one that falls as a cosine; gradients are clipped, at 1 in the original,
  only where the trainer is told to (`trainer.gradient_clip_val`), which no recipe here does.

Kept: one table reads and writes, logits divided by sqrt(d); what is hidden of a sequence weighs 1 / its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import log_softmax, pad

from diffrec.coded_items import CodedRecommender
from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.schedules import steps_of
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.lists import last_items
from diffrec.nn.code_sets import CodeSets, without_repeats
from diffrec.nn.dropout import Dropout
from diffrec.nn.item_codes import level_logits
from diffrec.nn.masked_codes import (
    Hidden,
    by_confidence,
    hidden_loss,
    hide_by_item,
    hide_exactly,
    hide_least_confident,
    hide_share,
)
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.shared_memory import Memory, beside_memory, memory_of
from diffrec.nn.transformer import Transformer, TransformerBlock, check_blocks
from diffrec.recommender import LrSchedule
from diffrec.recommender.base import evaluating
from diffrec.typing import Bool, Fidelity, Float, History, Int, Scores, Tensor

Masking = Literal["share", "counts", "guided"]
Order = Literal["confidence", "joint", "left-to-right"]

_TOKENS_AT_ONCE = 1 << 17  # that a pass of the network reads: beams multiply a batch


class MaskGR(CodedRecommender):
    """A bidirectional transformer over the codes of history and target, trained to read what is hidden.

    codes, num_levels, codebook_size, warmup_steps, lr_schedule: see `CodedRecommender`. max_history_length: items of
    the window; a request fills one with what comes next. masking: "share", of all codes of a sequence, drawn from
    U(0, 1); "counts": of the codes of the last item 1..levels, and of each item's, in a second pass, a share drawn from
    0..levels, whose loss weighs `history_weight`; "guided": of the codes of the last item 1..levels, those of which the
    model is least sure while it is told none. temperature: logits are divided by it, in training and after.
    label_smoothing: the share of a target that all codes have alike. order: in which hidden levels are read: that of
    which a beam is most confident first; of all codes of all hidden levels the best, "joint"; or "left-to-right".
    num_inference_steps: passes of the network, None: one a level; of one pass several levels are read. exact: with one
    step, every item is scored and no beam is needed. reread: every beam reads the history anew in every pass.
    """

    examples = "history"
    other_examples = ("prefix",)
    similar_lengths = True
    sampling_settings = ("num_beams", "num_inference_steps")

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        num_levels: int = 4,
        codebook_size: int = 256,
        embedding_size: int = 128,
        num_blocks: int = 4,
        num_heads: int = 4,
        feed_size: int = 1024,
        max_history_length: int = 24,
        masking: Masking = "share",
        history_weight: float = 1.0,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        order: Order = "confidence",
        num_inference_steps: int | None = None,
        num_beams: int = 50,
        constrained: bool = True,
        exact: bool = False,
        reread: bool = False,
        dropout: float = 0.25,
        fidelity: Fidelity = "fixed",
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        warmup_steps: int = 1000,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        check_sizes(2, max_history_length=max_history_length)
        schedule = (lr, weight_decay, warmup_steps, lr_schedule)
        super().__init__(num_items, max_history_length, codes, num_levels, codebook_size, *schedule)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_sizes(feed_size=feed_size, num_beams=num_beams)
        check_numbers(low=0.0, history_weight=history_weight)
        check_numbers(above=0.0, temperature=temperature)
        check_numbers(low=0.0, high=1.0, label_smoothing=label_smoothing)
        self.masking = choose("masking", masking, get_args(Masking))
        self.order = choose("order", order, get_args(Order))
        self.original = choose("fidelity", fidelity, get_args(Fidelity)) == "original"
        dim = embedding_size
        self.tokens = self.token_table(dim, std=0.02 * dim**0.5)  # logits are divided by its square root
        self.mask = nn.Parameter(0.02 * dim**0.5 * torch.randn(num_levels, dim))
        self.position, self.dropout = PositionsFromEnd(max_history_length, dim, 0.02 * dim**0.5), Dropout(dropout)
        blocks = [TransformerBlock(dim, num_heads, dropout, feed_size=feed_size) for _ in range(num_blocks)]
        self.transformer = Transformer(blocks, nn.LayerNorm(dim))
        self.history_weight, self.num_beams = history_weight, num_beams
        self.temperature, self.label_smoothing = temperature, label_smoothing
        self.constrained, self.exact, self.reread = constrained, exact, reread
        self.num_inference_steps = num_inference_steps
        self._sets: tuple[object, CodeSets] | None = None
        _ = self.denoiser_calls
        if exact and self.denoiser_calls != 1:
            raise UsageError(f"exact scores need num_inference_steps=1, got {num_inference_steps}")

    @property
    def denoiser_calls(self) -> int:
        """Passes of the network, one behind the other."""
        return steps_of(self.num_inference_steps, self.item_codes.levels)

    @property
    def num_steps(self) -> int:
        return self.denoiser_calls

    @property
    def all_steps(self) -> int:
        return 1 if self.exact else self.item_codes.levels

    # the network

    def states(
        self, tokens: Int[Tensor, "batch items levels"], hidden: Bool[Tensor, "batch items levels"]
    ) -> Float[Tensor, "batch items levels dim"]:
        """The states of all codes, each of which sees all that are not padding."""
        return self.transformer(*self._embedded(tokens, hidden)).view(*tokens.shape, self.tokens.embedding_dim)

    def _embedded(
        self, tokens: Int[Tensor, "batch items levels"], hidden: Bool[Tensor, "batch items levels"]
    ) -> tuple[Float[Tensor, "batch slots dim"], Bool[Tensor, "batch slots"]]:
        """What goes into the blocks, and which of it is real."""
        real = tokens[..., 0] > 0
        read = torch.where(hidden[..., None], self.mask, self.tokens(tokens)) + self.position(real)[:, :, None]
        return self.dropout(read.flatten(1, 2)), real.repeat_interleave(tokens.shape[2], dim=1)

    def logits(self, states: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape tokens"]:
        """Of all tokens, and behind them of the masks."""
        return states @ torch.cat([self.tokens.weight, self.mask]).T * self._scale

    def of_levels(self, states: Float[Tensor, "*shape levels dim"]) -> Float[Tensor, "*shape levels size"]:
        """Logits of the codes of each level at the state of that level."""
        return level_logits(states, self.tokens.weight) * self._scale

    @property
    def _scale(self) -> float:
        return self.tokens.embedding_dim**-0.5 / self.temperature

    # training

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Weighed cross-entropy of what is hidden."""
        assert self.max_history_length is not None
        history = last_items(with_target(batch), self.max_history_length)
        tokens = self.item_codes.tokens(history)
        real = tokens > 0
        if self.masking == "share":
            share = torch.rand(len(history), device=history.device)
            hidden = hide_share(real, share, torch.rand(tokens.shape, device=history.device))
            total = (hidden.weight * hidden.which).sum().clamp(min=torch.finfo(torch.float32).tiny)
            return self._loss(history, hidden, total)
        levels = tokens.shape[2]
        rows, last = torch.arange(len(history), device=history.device), (history > 0).sum(1) - 1
        count = torch.randint(1, levels + 1, last.shape, device=history.device)
        which, weight = torch.zeros_like(real), torch.zeros(tokens.shape, device=history.device)
        if self.masking == "guided":
            before = history.index_put((rows, last), history.new_zeros(()))
            which[rows, last], weight[rows, last] = hide_least_confident(count, self._untold(before)), 1.0
            return self._loss(history, Hidden(which, weight), which.sum().float())
        at_last = hide_exactly(count, torch.rand(len(history), levels, device=history.device))
        which[rows, last], weight[rows, last] = at_last.which, at_last.weight
        target = self._loss(history, Hidden(which, weight), float(len(history) * levels))
        count = torch.randint(levels + 1, history.shape, device=history.device)
        everywhere = hide_by_item(real, count, torch.rand(tokens.shape, device=history.device))
        return target + self.history_weight * self._loss(history, everywhere, float(tokens.numel()))

    @torch.no_grad()
    def _untold(self, history: History) -> Float[Tensor, "batch levels size"]:
        """Probabilities of the codes behind each history, none of which is known; without dropout."""
        nothing = torch.full((len(history), 1, self.item_codes.levels), -1, device=history.device)
        with evaluating(self):
            return self.log_probabilities(history, nothing)[:, 0].exp()

    def _loss(self, items: History, hidden: Hidden, total: Float[Tensor, ""] | float) -> Float[Tensor, ""]:
        tokens = self.item_codes.tokens(items)
        states = self.states(tokens, hidden.which)
        if self.original:
            which = hidden.which
            logits = self.logits(states[which])
            return hidden_loss(logits, tokens[which], hidden.weight[which], total, self.label_smoothing)
        codes = self.item_codes.codes[(items - 1).clamp(min=0)]
        weight = (hidden.weight * hidden.which).flatten()
        return hidden_loss(self.of_levels(states).flatten(0, 2), codes.flatten(), weight, total, self.label_smoothing)

    # decoding

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Log-probabilities of the items that the beams end at; nothing is sampled, `noise` is not used."""
        assert self.max_history_length is not None
        history = last_items(history, self.max_history_length - 1)
        beams, levels = 1 if self.exact else self.num_beams, self.item_codes.levels
        tokens = (history.shape[1] + 1) * levels * (beams if self.reread else 1) + beams * levels
        return torch.cat([self._score(part) for part in history.split(max(1, _TOKENS_AT_ONCE // tokens))])

    def _score(self, history: History) -> Scores:
        if self.exact:
            hidden = torch.full((len(history), 1, self.item_codes.levels), -1, device=history.device)
            log_p = self.log_probabilities(history, hidden)[:, 0]
            levels = [log_p[:, level, codes] for level, codes in enumerate(self.item_codes.codes.T)]
            return torch.stack(levels).sum(0)
        codes, scores = self.beams(history)
        trie = self.item_codes.trie
        tuples = self.item_codes.codes.new_empty(trie.num_leaves, codes.shape[2])
        tuples[trie.leaf_of_item] = self.item_codes.codes
        leaves = self.sets.nearest(codes, tuples)
        kept = without_repeats(leaves, scores)
        if (counts := self.item_codes.counts) is not None:
            there = ~torch.isneginf(scores)
            counts.repeated += int((there & torch.isneginf(kept)).sum())
            counts.invalid += int((there & ~self.sets.are_items(codes)).sum())
        return self.item_codes.item_scores(leaves, kept)

    def beams(self, history: History) -> tuple[Int[Tensor, "batch beams levels"], Float[Tensor, "batch beams"]]:
        """The codes of what comes next, best first, and their log-probabilities in the order that they were read in."""
        levels, steps = self.item_codes.levels, self.denoiser_calls
        codes = torch.full((len(history), 1, levels), -1, device=history.device)
        scores = torch.zeros(len(history), 1, device=history.device)
        log_p, memory = scores, None if self.reread else self.remember(history)
        for read in range(levels):
            if (read * steps) % levels < steps:  # the reads are shared out evenly among the steps
                log_p = self.log_probabilities(history, codes, memory)
            candidates, level = self._candidates(codes, log_p)
            found = (scores[..., None] + candidates).flatten(1)
            most = self.num_beams * (read + 1 if self.order == "joint" else 1)
            scores, best = found.topk(min(most, found.shape[1]), dim=1)
            beam, rest = best // candidates.shape[2], best % candidates.shape[2]
            codes, log_p = taken(codes, beam), taken(log_p, beam)
            at = taken(level, beam).gather(2, (rest // self.item_codes.size)[..., None])
            codes = codes.scatter(2, at, (rest % self.item_codes.size)[..., None])
            if self.order == "joint":
                scores = without_repeats(self.sets.number(codes), scores)
                scores, kept = scores.topk(min(self.num_beams, scores.shape[1]), dim=1)
                codes, log_p = taken(codes, kept), taken(log_p, kept)
        return codes, scores

    def _candidates(
        self, codes: Int[Tensor, "batch beams levels"], log_p: Float[Tensor, "batch beams levels size"]
    ) -> tuple[Float[Tensor, "batch beams candidates"], Int[Tensor, "batch beams asked"]]:
        """Log-probabilities of the codes that may be read next, -inf for those that may not, and their levels."""
        hidden = codes < 0
        if self.order == "joint":
            level = torch.arange(codes.shape[2], device=codes.device).expand_as(codes)
        elif self.order == "left-to-right":
            level = hidden.long().argmax(2, keepdim=True)
        else:
            level = by_confidence(log_p.exp() * hidden[..., None])[..., :1]
        found = log_p.gather(2, level[..., None].expand(-1, -1, -1, log_p.shape[3]))
        allowed = hidden.gather(2, level)[..., None].expand_as(found)
        if self.constrained:
            known = codes[:, :, None].expand(-1, -1, level.shape[2], -1)
            allowed = allowed & self.sets.can_follow(known, level)
        return found.masked_fill(~allowed, -torch.inf).flatten(2), level

    def log_probabilities(
        self, history: History, codes: Int[Tensor, "batch beams levels"], memory: Sequence[Memory] | None = None
    ) -> Float[Tensor, "batch beams levels size"]:
        """Of the codes of the item behind each history, of which each beam knows those that are not -1.

        memory: what `remember` gave, unless `reread`.
        """
        tokens, hidden = self.item_codes.tokens_of(codes.clamp(min=0)), codes < 0
        if self.reread:
            slots = pad(history, (0, 1)).repeat_interleave(codes.shape[1], dim=0)
            rows, last = torch.arange(len(slots), device=slots.device), (slots > 0).sum(1)
            read = self.item_codes.tokens(slots)
            unknown = torch.zeros_like(read, dtype=torch.bool)
            read[rows, last], unknown[rows, last] = tokens.flatten(0, 1), hidden.flatten(0, 1)
            states = self.states(read, unknown)[rows, last].view(*codes.shape, self.tokens.embedding_dim)
        else:
            read = torch.where(hidden[..., None], self.mask, self.tokens(tokens)) + self.position.weight[-1]
            states = beside_memory(self.transformer, read, self.remember(history) if memory is None else memory)
        if not self.original:
            return log_softmax(self.of_levels(states), dim=-1)
        every = log_softmax(self.logits(states), dim=-1)[..., 1 : -codes.shape[2]]  # without padding and masks
        own = every.unflatten(-1, (codes.shape[2], -1))
        return own.diagonal(dim1=-3, dim2=-2).movedim(-1, -2)

    def remember(self, history: History) -> list[Memory]:
        """What each block reads of the history while all codes of the item behind it are hidden."""
        slots = pad(history, (0, 1))
        rows, last = torch.arange(len(slots), device=slots.device), (slots > 0).sum(1)
        tokens = self.item_codes.tokens(slots)
        hidden = torch.zeros_like(tokens, dtype=torch.bool)
        tokens[rows, last], hidden[rows, last] = 1, True
        return memory_of(self.transformer, *self._embedded(tokens, hidden), ~hidden.flatten(1))

    @property
    def sets(self) -> CodeSets:
        """Those of the codes as they are."""
        trie = self.item_codes.trie  # made anew after codes have changed
        if self._sets is None or self._sets[0] is not trie:
            self._sets = (trie, CodeSets(self.item_codes.codes, self.item_codes.size))
        return self._sets[1]


def with_target(batch: Batch) -> History:
    """The sequence of a training example: its history, and its target behind it where it has one."""
    if not batch.target.shape[1]:
        return batch.history
    sequence = pad(batch.history, (0, 1))
    return sequence.scatter(1, (batch.history > 0).sum(1, keepdim=True), batch.target[:, :1])


def taken(values: Tensor, beams: Tensor) -> Tensor:
    """values (batch, beams, ...) of these beams."""
    index = beams.view(*beams.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)
