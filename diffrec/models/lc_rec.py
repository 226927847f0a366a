"""LC-Rec: a causal language model that has learnt the codes of items as words, and writes those of the next item.

Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation", ICDE 2024,
arXiv 2311.09049; official code github.com/RUCAIBox/LC-Rec (nothing is taken from it).

Differs from the original in:
- of its tasks, that of the next item only, and every item of a sequence behind the first is an example of it;
- any causal model of `transformers` instead of LLaMA 7B: of the hub, of a local folder, or a small one with random
  weights; all weights are trained, or adapters of low rank (LoRA, by `peft`);
- the words for codes have a table of their own, tied where they are read and written, and the softmax is over the codes
  of a level: other words could not be written anyway;
- only tuples that are items are written: beams walk a trie.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from diffrec.coded_items import CodedRecommender
from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.nn.fitted_shape import FittedShape
from diffrec.nn.item_codes import beam_search, level_logits
from diffrec.nn.language_model import (
    Prefix,
    body_of,
    fill,
    pretrained_weights,
    prompt_tokens,
    small_body,
    with_adapters,
)
from diffrec.nn.transformer import check_heads
from diffrec.recommender import LrSchedule
from diffrec.typing import Float, History, Int, Scores, Tensor

_ROWS_AT_ONCE = 1 << 11  # beams that are written at a time: each keeps its keys and values


class Prompt(FittedShape):
    """`tokens`: the numbers of the words before the history."""

    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(0, dtype=torch.int64))


class LCRec(CodedRecommender):
    """A causal language model over the codes of the history, behind a prompt.

    codes, num_levels, codebook_size, warmup_steps, lr_schedule: see `CodedRecommender`. language_model: an id of the
    Hugging Face hub or a local folder, whose configuration is read here and whose weights when training starts; None: a
    Llama of `embedding_size`, `num_blocks`, `num_heads` and `feed_size` with random weights. prompt: words before the
    history, for a model that has some. lora_rank: of adapters in all linear layers, beside which everything is frozen
    but the table of codes; 0: all is trained. num_beams: how many tuples are kept from code to code.
    """

    examples = "next"
    sampling_settings = ("num_beams",)

    def __init__(
        self,
        num_items: int,
        codes: str | None = None,
        num_levels: int = 4,
        codebook_size: int = 256,
        language_model: str | None = None,
        prompt: str = "",
        embedding_size: int = 128,
        num_blocks: int = 4,
        num_heads: int = 4,
        feed_size: int = 512,
        lora_rank: int = 0,
        lora_alpha: int = 16,
        lora_dropout: float = 0.05,
        max_history_length: int = 20,
        num_beams: int = 20,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        schedule = (lr, weight_decay, warmup_steps, lr_schedule)
        super().__init__(num_items, max_history_length, codes, num_levels, codebook_size, *schedule)
        check_sizes(0, lora_rank=lora_rank)
        check_sizes(num_beams=num_beams)
        check_sizes(lora_alpha=lora_alpha)
        check_numbers(low=0.0, high=1.0, lora_dropout=lora_dropout)
        if language_model is None:
            check_sizes(embedding_size=embedding_size, num_blocks=num_blocks, num_heads=num_heads, feed_size=feed_size)
            check_heads(embedding_size, num_heads)
            if prompt:
                raise UsageError("a prompt needs a language_model that knows words")
            slots = 1 + (1 + max_history_length) * num_levels
            body = small_body(embedding_size, num_blocks, num_heads, feed_size, slots)
        else:
            body = body_of(language_model)
        words: Tensor = body.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]
        self.words = words.shape[1]
        self.body = with_adapters(body, lora_rank, lora_alpha, lora_dropout) if lora_rank else body
        self.tokens = self.token_table(self.words)
        self.begin = nn.Parameter(0.02 * torch.randn(self.words))
        self.language_model, self.prompt_text, self.prompt, self.num_beams = language_model, prompt, Prompt(), num_beams

    @property
    def denoiser_calls(self) -> int:
        """Passes of the network."""
        return self.item_codes.levels

    def prepare(self, sequences: Ragged) -> None:
        """The codes of the items, and the weights of the language model, with codes as spread as its words."""
        super().prepare(sequences)
        if self.language_model is None:
            return
        weights = pretrained_weights(self.language_model)
        with torch.no_grad():
            fill(self.body, weights)
            words = self.embedding_of_words.weight
            mean, spread = words.mean(0), words.std(0)
            self.tokens.weight[1:] = mean + spread * torch.randn_like(self.tokens.weight[1:])
            self.begin.copy_(mean)
        if self.prompt_text:
            self.prompt.tokens = prompt_tokens(self.language_model, self.prompt_text).to(self.device)

    @property
    def embedding_of_words(self) -> nn.Embedding:
        """That of the language model."""
        return self.body.get_input_embeddings()  # pyright: ignore[reportCallIssue]

    def before(self, batch: int) -> Float[Tensor, "batch slots dim"]:
        """What stands before every history: the words of the prompt, and a beginning."""
        start = torch.cat([self.embedding_of_words(self.prompt.tokens), self.begin[None]])
        return start.expand(batch, *start.shape)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean cross-entropy of the codes of every item behind the first."""
        items = torch.cat([batch.history[:, :1], batch.target], dim=1)
        start = self.before(len(items))
        read = torch.cat([start, self.tokens(self.item_codes.tokens(items)).flatten(1, 2)[:, :-1]], dim=1)
        states = self.body(inputs_embeds=read, use_cache=False).last_hidden_state[:, start.shape[1] - 1 :]
        states = states.unflatten(1, (items.shape[1], -1))[:, 1:]
        codes = self.item_codes.targets(batch.target)
        return cross_entropy(level_logits(states, self.tokens.weight).flatten(0, 2), codes.flatten())

    def beams(self, history: History) -> tuple[Int[Tensor, "batch found"], Float[Tensor, "batch found"]]:
        """Tuples of the trie by number, best first, and their log-probabilities."""
        codes = self.item_codes
        start, padding = self.before(len(history)), (history == 0).sum(1, keepdim=True) * codes.levels
        slots = torch.arange(start.shape[1] + history.shape[1] * codes.levels, device=history.device)
        x = torch.cat([start, self.tokens(codes.tokens(history)).flatten(1, 2)], dim=1)
        source = (slots - padding) % len(slots)  # what stands last moves to the front
        x = x.gather(1, source[..., None].expand_as(x))
        writing = Prefix(self.body, (slots >= padding).long())

        def step(level: int, taken: Tensor, parents: Tensor) -> Tensor:
            if level == 0:
                state = writing.read(x)[:, None]
            else:
                state = writing.write(self.tokens(1 + (level - 1) * codes.size + taken), parents)
            return log_softmax(state @ codes.of_level(self.tokens.weight, level).T, dim=-1)

        return beam_search(codes.trie, self.num_beams, len(history), step)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Log-probabilities of the items that the beams end at; nothing is sampled, `noise` is not used."""
        if not len(history):  # which the library cannot read
            return self.tokens.weight.new_zeros(0, self.num_items)
        rows = max(1, _ROWS_AT_ONCE // self.num_beams)
        return torch.cat([self.item_codes.item_scores(*self.beams(part)) for part in history.split(rows)])
