"""PreferGrow: the next item grows out of what is not preferred, a discrete diffusion over item numbers.

Hou et al., "Fading to Grow: Growing Preference Ratios via Preference Fading Discrete Diffusion for Recommendation",
NeurIPS 2025, arXiv 2509.26063; official code github.com/Hugo-Chinn/PreferGrow (commit 7451996; its README names the MIT
and Apache licences, there is no licence file, and nothing is taken from it).

Differs from the original in:
- the reverse steps of the hybrid graph are those of its transition matrix; the original starts it in the extra state
  with probability gamma instead of 1 - gamma, divides a row by the number of states and takes an inexact inverse;
- windows are filled from their end, and training reads its examples in random order;
- the rate stays after the warm-up; of the weights no average is kept; gradients are clipped, at 1 in the original, only
  where the trainer is told to (`trainer.gradient_clip_val`);
- a list is one walk of `num_samples`, whose last probabilities are averaged, from noise that belongs to the request.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import silu

from diffrec.data.batch import Batch
from diffrec.diffusion.fading import back, fade, geometric, score_entropy
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.nn.conditioner import NullableConditioner
from diffrec.nn.history_encoder import SelfAttentionEncoder
from diffrec.nn.time_embedding import cosine_sine
from diffrec.nn.transformer import check_heads
from diffrec.recommender import LrSchedule, Recommender, StepRates
from diffrec.typing import Float, History, Int, Scores, Tensor

Graph = Literal["pair", "point", "hybrid", "adaptive"]
Readout = Literal["linear", "inner_product"]

_TIME_SIZE = 256
_GRID, _FIRST, _LAST = 21, 1e-3, 1e-5  # times of training: 21 from 1 to 1e-3; walks end at 1e-5


class PreferGrow(StepRates, Recommender):
    """Ratios of preference between the items and what x_t is, learnt by score entropy on every prefix.

    graph: where an item fades to: "pair", any item alike; "point", an extra state that nobody likes; "hybrid", an item
    with probability `gamma`, else that state; "adaptive", a distribution that is learnt. readout: how ratios are read,
    by a linear layer over all states or by an inner product with their embeddings. guidance_scale: of the history's
    ratios against those without, learnt with probability `condition_dropout`. sigma_min, sigma_max: of the noise;
    num_inference_steps: of a walk, before the last look at all items; lr, warmup_steps, lr_schedule: see `StepRates`.
    """

    examples = "prefix"
    similar_lengths = True
    sampling_settings = ("num_inference_steps", "guidance_scale", "num_samples")

    def __init__(
        self,
        num_items: int,
        graph: Graph = "adaptive",
        gamma: float = 0.999,
        readout: Readout = "linear",
        embedding_size: int = 256,
        num_heads: int = 2,
        max_history_length: int = 10,
        sigma_min: float = 1e-3,
        sigma_max: float = 10.0,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        num_samples: int = 1,
        condition_dropout: float = 0.1,
        dropout: float = 0.1,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        warmup_steps: int = 2500,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        check_sizes(max_history_length=max_history_length, num_samples=num_samples)
        super().__init__(num_items, max_history_length)
        check_sizes(embedding_size=embedding_size, num_heads=num_heads)
        check_sizes(0, warmup_steps=warmup_steps)
        check_heads(embedding_size, num_heads)
        check_numbers(low=0.0, high=1.0, gamma=gamma, condition_dropout=condition_dropout, dropout=dropout)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        check_numbers(guidance_scale=guidance_scale)
        if embedding_size % 2:
            raise UsageError(f"embedding_size must be even, got {embedding_size}")
        if not 0 < sigma_min < sigma_max:
            raise UsageError(f"sigma_min must be above 0 and below sigma_max, got {sigma_min} and {sigma_max}")
        self.graph, self.gamma = choose("graph", graph, get_args(Graph)), gamma
        dim, states = embedding_size, num_items + (graph != "pair")
        self.items = nn.Embedding(1 + states, dim, padding_idx=0)
        encoder = SelfAttentionEncoder(dim, max_history_length, num_heads, dropout, rotary=True)
        self.conditioner = NullableConditioner(encoder, dim, condition_dropout)
        self.time = nn.Sequential(nn.Linear(_TIME_SIZE, dim), nn.GELU(), nn.Linear(dim, dim))
        linear = choose("readout", readout, get_args(Readout)) == "linear"
        self.output, self.inner = nn.Linear(3 * dim, states if linear else dim), not linear
        self.dislike = nn.Parameter(torch.ones(states)) if graph == "adaptive" else None
        self.sigma_min, self.sigma_max, self.num_inference_steps = sigma_min, sigma_max, num_inference_steps
        self.guidance_scale, self.num_samples = guidance_scale, num_samples
        self.lr, self.weight_decay, self.warmup_steps, self.lr_schedule = lr, weight_decay, warmup_steps, lr_schedule
        _ = self.denoiser_calls

    @property
    def denoiser_calls(self) -> int:
        check_sizes(num_inference_steps=self.num_inference_steps, num_samples=self.num_samples)
        check_numbers(guidance_scale=self.guidance_scale)
        return (self.num_inference_steps + 1) * (1 if self.guidance_scale == 1 else 2) * self.num_samples

    @property
    def num_steps(self) -> int:
        return self.num_inference_steps

    @property
    def uses_noise(self) -> bool:
        return True

    @property
    def not_preferred(self) -> Float[Tensor, " states"]:
        """p: what an item fades to; the extra state, where there is one, comes last."""
        if self.dislike is not None:
            return self.dislike.softmax(0)
        extra = {"pair": None, "point": 1.0, "hybrid": 1 - self.gamma}[self.graph]
        items = torch.full((self.num_items,), (1 - (extra or 0.0)) / self.num_items, device=self.device)
        return items if extra is None else torch.cat([items, items.new_full((1,), extra)])

    def log_ratios(
        self, x_t: Int[Tensor, " batch"], sigma: Float[Tensor, " batch"], condition: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch states"]:
        """l of every state against x_t, where it is 0; x_t: states from 0, item j being j - 1."""
        time = silu(self.time(cosine_sine(sigma, _TIME_SIZE)))
        read = self.output(torch.cat([self.items(x_t + 1), condition, time], dim=1))
        ratios = read @ self.items.weight[1:].T if self.inner else read
        return ratios.scatter(1, x_t[:, None], 0.0)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean score entropy at a time of the grid."""
        x0, p = batch.target[:, 0] - 1, self.not_preferred
        grid = torch.linspace(1, _FIRST, _GRID, device=x0.device)
        t = grid[torch.randint(_GRID, x0.shape, device=x0.device)]
        sigma = geometric(t, self.sigma_min, self.sigma_max)
        with torch.no_grad():
            x_t = fade(x0, sigma, p)
        condition = self.conditioner.dropped(batch.history, self.items)
        losses = score_entropy(self.log_ratios(x_t, sigma, condition).float(), x0, x_t, sigma, p)
        rate = sigma * torch.log(sigma.new_tensor(self.sigma_max / self.sigma_min))
        return (rate * losses).mean()

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Probabilities of the items at the end of a walk, up to a factor; the mean over `num_samples` walks."""
        noise = noise or RequestNoise.from_history(history)
        condition, p = self.conditioner(history, self.items), self.not_preferred
        times = torch.linspace(1, _LAST, self.num_inference_steps + 1, device=p.device)
        sigmas = geometric(times, self.sigma_min, self.sigma_max)
        walks = [self._walk(condition, p, sigmas, noise) for _ in range(self.num_samples)]
        return torch.stack(walks).mean(0) if len(walks) > 1 else walks[0]

    def _walk(
        self,
        condition: Float[Tensor, "batch dim"],
        p: Float[Tensor, " states"],
        sigmas: Float[Tensor, " times"],
        noise: RequestNoise,
    ) -> Scores:
        x = drawn(p.expand(len(condition), -1), noise)
        for sigma, less in zip(sigmas[:-1], sigmas[:-1] - sigmas[1:], strict=True):
            x = drawn(back(self._guided(x, sigma, condition), x, less, p), noise)
        chances = back(self._guided(x, sigmas[-1], condition), x, sigmas[-1], p)
        return (chances / chances.clamp(min=0).sum(1, keepdim=True))[:, : self.num_items]

    def _guided(
        self, x: Int[Tensor, " batch"], sigma: Float[Tensor, ""], condition: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch states"]:
        """g l + (1 - g) l without the history, in one call."""
        if self.guidance_scale == 1:
            return self.log_ratios(x, sigma.expand(len(x)), condition)
        both = torch.cat([condition, self.conditioner.null.expand_as(condition)])
        known, unknown = self.log_ratios(torch.cat([x, x]), sigma.expand(2 * len(x)), both).chunk(2)
        return torch.lerp(unknown, known, self.guidance_scale)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)


def drawn(chances: Float[Tensor, "batch states"], noise: RequestNoise) -> Int[Tensor, " batch"]:
    """A state of each row, with probabilities as `chances` where those are above 0."""
    exponential = -noise.uniform(chances.shape[1], chances.dtype).log()
    return (chances.clamp(min=0) / exponential).argmax(1)
