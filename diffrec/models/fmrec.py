"""FMRec: a straight flow from noise to the embedding of the next item, on DiffuRec's transformer.

Liu et al., "Flow Matching based Sequential Recommender Model", IJCAI 2025, arXiv 2505.16298; official code
github.com/FengLiu-1/FMRec (commit 1c39b17, no licence; nothing is taken from it).

Differs from the original in:
- the flow is walked along its own velocity, (x_t - x0) / t, by a scheduler of diffusers, in any number of steps; the
  original measures every velocity from the first noise, so that its result is the mean of all outputs, from a time
  .001 past the noise: `fidelity="original"` does so;
- padding is masked as padding, and nothing is dropped behind a block, see `DiffuRec`, whose original shares both; so
  does `fidelity="original"`;
- padding is neither a candidate nor a class, here or in the decoder of the history;
- selection and metrics are those of the protocol; the original averages over batches and keeps the last epoch at
  which any of six metrics rose;
- noise and lambda belong to the request and not to its place in a batch;
- time counts from the data, t = 1 being noise, as in diffusers.

Kept: the table of targets is trained through the squared error; the state enters at about a thousandth, so every
result stands beside its twin without it (`lambda_mean=0, lambda_std=0`). `tied_decoder` is an option of ours: the last
layer of the decoder gives a vector that is compared with the table, instead of 2048 weights for every item.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast, get_args

import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.diffusion.objectives import CleanSampleError
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.timesteps import FlowTimes, TimeDensity
from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.nn.conditioner import SlotConditioner
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.noisy_history import NoisyHistoryTransformer
from diffrec.nn.transformer import check_heads
from diffrec.recommender import DiffusionRecommender, EpochDecay
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Fidelity, Float, History, Tensor

_SHORTEST = 1e-3  # training never sees the last thousandth of the way
_TOLD = 1 / _SHORTEST - 1  # the network is told 999 (1 - t)


class FMRec(EpochDecay, DiffusionRecommender):
    """A rectified flow over item embeddings whose network tells where it ends (eqs. 9-17).

    lambda_mean, lambda_std: of the share of the state; embedding_dropout: of the items of the history; dropout: in the
    blocks. time_density, time_scale: `FlowTimes`. regression, ranking, reconstruction: weights of the squared error of
    the target, of the cross-entropy over all items, and of telling the history's items from as many others, which a
    decoder does from the state in the middle of the blocks; decoder_dims, tied_decoder: of that decoder.
    num_inference_steps: any number from 1; lr_decay_epochs: the learning rate falls to a tenth so often.
    """

    examples = "prefix"
    similar_lengths = True

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 128,
        num_blocks: int = 4,
        num_heads: int = 4,
        max_history_length: int = 50,
        lambda_mean: float = 0.001,
        lambda_std: float = 0.001,
        embedding_dropout: float = 0.3,
        dropout: float = 0.1,
        time_density: TimeDensity = "mode",
        time_scale: float = 1.0,
        regression: float = 1.0,
        ranking: float = 0.2,
        reconstruction: float = 0.4,
        decoder_dims: Sequence[int] = (512, 2048),
        tied_decoder: bool = False,
        num_inference_steps: int | None = 30,
        num_samples: int = 1,
        fidelity: Fidelity = "fixed",
        lr: float = 1e-3,
        lr_decay_epochs: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, max_history_length=max_history_length, num_blocks=num_blocks)
        check_sizes(num_heads=num_heads, lr_decay_epochs=lr_decay_epochs, decoder_dims=decoder_dims)
        check_sizes(least=2, embedding_size=embedding_size)
        check_numbers(low=0.0, high=1.0, dropout=dropout, embedding_dropout=embedding_dropout)
        check_numbers(low=0.0, lambda_mean=lambda_mean, lambda_std=lambda_std)
        check_numbers(low=0.0, regression=regression, ranking=ranking, reconstruction=reconstruction)
        check_heads(embedding_size, num_heads)
        original = choose("fidelity", fidelity, get_args(Fidelity)) == "original"
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size),
            process=RectifiedFlow(fixed_start=original, shortest=_SHORTEST),
            denoiser=NoisyHistoryTransformer(
                embedding_size,
                num_blocks,
                num_heads,
                dropout,
                lambda_mean,
                lambda_std,
                original,
                time_scale=-_TOLD,
                time_start=_TOLD,
            ),
            timesteps=FlowTimes(time_density, time_scale, _SHORTEST),
            objective=CleanSampleError(),
            start="noise",
            conditioner=SlotConditioner(embedding_size, embedding_dropout, max_history_length if original else None),
            num_inference_steps=num_inference_steps,
            num_samples=num_samples,
            lr=lr,
            weight_decay=weight_decay,
        )
        self.regression, self.ranking, self.reconstruction = regression, ranking, reconstruction
        self.tied_decoder, self.lr_decay_epochs = tied_decoder, lr_decay_epochs
        sizes = [embedding_size, *decoder_dims, embedding_size if tied_decoder else num_items]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())][:-1]
        self.decoder = nn.Sequential(*layers) if reconstruction else None

    @property
    def table(self) -> Float[Tensor, "rows dim"]:
        """The embeddings, row 0 being padding."""
        return cast(EmbeddingSpace, self.space).table.weight

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Squared error and cross-entropy of the estimate of x0, and the decoder's error (eqs. 12-17)."""
        target, denoiser = batch.target[:, 0], cast(NoisyHistoryTransformer, self.denoiser)
        draw = self.timesteps.draw(len(target), target.device)
        noised = self.process.corrupt(self.space.encode(target), draw.t)
        assert self.conditioner is not None
        slots = self.conditioner.dropped(batch.history, self.space.encode)
        strength = denoiser.strength(noised.x_t, slots.shape[1])
        states = denoiser.last_states(noised.x_t, noised.t, slots, strength)
        x0 = denoiser.output(states[-1])
        loss = self.regression * self.objective(x0, noised).mean()
        loss = loss + self.ranking * cross_entropy_over_items(x0, self.table[1:], target - 1)
        if self.decoder is not None:
            decoded = self.decoded(states[max(0, len(states) // 2 - 1)])
            loss = loss + self.reconstruction * balanced_error(decoded, batch.history)
        return loss

    def decoded(self, state: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch items"]:
        """How much each item seems to be of the history."""
        assert self.decoder is not None
        decoded = self.decoder(state)
        return decoded @ self.table[1:].T if self.tied_decoder else decoded


def balanced_error(decoded: Float[Tensor, "batch items"], history: History) -> Float[Tensor, ""]:
    """Squared error against 1 at the items of the histories and against 0 at as many others of the batch, which are
    drawn one by one (some twice), divided by the number of all places."""
    held = torch.zeros(len(history), decoded.shape[1] + 1, device=decoded.device).scatter_(1, history, 1.0)[:, 1:]
    others = (held == 0).flatten().nonzero()[:, 0]
    if not len(others):
        return (decoded - held).square().mean()
    chosen = others[torch.randint(len(others), (min(len(others), int(held.sum())),), device=others.device)]
    counts = held.flatten().index_fill(0, chosen, 1.0).view_as(held)
    return ((decoded - held) * counts).square().mean()
