"""PreferDiff: generate the embedding of the next item, and prefer it to the mean of other targets.

Liu et al., "Preference Diffusion for Recommendation", ICLR 2025, arXiv 2410.13117; official code
github.com/lswhim/PreferDiff (commit fdf45b0, no licence; nothing is taken from it).

Differs from the original in:
- an example for every prefix of a training sequence; the original has one for its longest prefix, which
  `data.examples: last` gives;
- the reverse loop visits the trailing steps, and the network is told where it is; the original visits step 0 too and
  tells all others one step more than they are at, of which the last was never trained: `fidelity="original"` does so;
- no query mask by "sum is exactly zero", which depends on rounding; padding is masked as padding;
- the third forward pass, whose result the original throws away, is not made; nor is 1e-8 added to a logit;
- frozen vectors are whitened once; the second time of the original changes next to nothing;
- an epoch is chosen by the headline metric of the protocol, as for every model, not by Recall@5;
- tables are float64, noise belongs to the request and not to its place in a batch;
- `guidance_scale` is diffusers' g = 1 + w for the paper's strength w.

Kept: the preference acts on the means over the batch, not on each example as the paper writes; equal targets in a
batch count as negatives of one another; the score is an inner product although training knows only angles
(`readout="cosine"` is the other).
"""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.diffusion.gaussian import GaussianProcess, PredictionType
from diffrec.diffusion.objectives import SquaredCosineError
from diffrec.diffusion.schedules import Schedule, betas_of, preferdiff_grid, trailing_grid
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.conditioner import NullableConditioner
from diffrec.nn.history_encoder import SelfAttentionEncoder
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.embedding import EmbeddingSpace, Readout, read_vectors
from diffrec.typing import Fidelity, Float, Tensor


class PreferDiff(DiffusionRecommender):
    """Guided diffusion over item embeddings with a cosine loss and a preference loss (eqs. 9-13).

    item_vectors: None learns the table; else the path of a safetensors file, see `read_vectors`, whose whitened
    vectors are a frozen one (it is read when training starts); learn_ids, unit_norm, readout: see `EmbeddingSpace`.
    reconstruction_weight: lambda, of the error of the target, the rest being that of the preference; sharpness: gamma,
    of the preference; guidance_scale: g = 1 + w; condition_dropout: how often training hides the history; schedule,
    prediction_type: the paper has "linear" and tells x_0, "sample", which is what both losses compare in any case.
    """

    examples = "prefix"
    reads = (("item_vectors", "vectors"),)

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 3072,
        max_history_length: int = 10,
        num_heads: int = 2,
        num_train_timesteps: int = 2000,
        schedule: Schedule = "linear",
        prediction_type: PredictionType = "sample",
        reconstruction_weight: float = 0.4,
        sharpness: float = 5.0,
        guidance_scale: float = 3.0,
        condition_dropout: float = 0.1,
        dropout: float = 0.1,
        item_vectors: str | None = None,
        learn_ids: bool = False,
        unit_norm: bool = False,
        readout: Readout = "inner_product",
        num_inference_steps: int | None = 20,
        num_samples: int = 1,
        fidelity: Fidelity = "fixed",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, max_history_length=max_history_length, num_train_timesteps=num_train_timesteps)
        check_sizes(num_heads=num_heads)
        check_numbers(low=0.0, high=1.0, dropout=dropout, condition_dropout=condition_dropout)
        check_numbers(low=0.0, reconstruction_weight=reconstruction_weight, sharpness=sharpness)
        if embedding_size < 4 or embedding_size % 2 or embedding_size % num_heads:
            needed = f"even, at least 4 and a multiple of num_heads = {num_heads}"
            raise UsageError(f"embedding_size must be {needed}, got {embedding_size}")
        original = choose("fidelity", fidelity, get_args(Fidelity)) == "original"
        grid = preferdiff_grid if original else trailing_grid
        process = GaussianProcess(betas_of(schedule, num_train_timesteps), prediction_type, eta=0.0, grid=grid)
        encoder = SelfAttentionEncoder(embedding_size, max_history_length, num_heads, dropout, double_residual=True)
        for layer in encoder.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        table = {"frozen": item_vectors is not None, "learn_ids": learn_ids, "unit_norm": unit_norm}
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size, readout=readout, **table),
            process=process,
            denoiser=ConcatDenoiser(embedding_size),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=SquaredCosineError(process),
            start="noise",
            conditioner=NullableConditioner(encoder, embedding_size, condition_dropout),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_samples=num_samples,
            lr=lr,
            weight_decay=weight_decay,
        )
        self.item_vectors = item_vectors
        self.reconstruction_weight, self.sharpness = reconstruction_weight, sharpness

    def prepare(self, sequences: Ragged) -> None:
        """The frozen table, where there is one."""
        if self.item_vectors is not None:
            cast(EmbeddingSpace, self.space).fill(read_vectors(self.item_vectors))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """lambda L+ - (1 - lambda) log sigmoid(-gamma (L+ - L-)), L- being the error of the mean of other targets."""
        x0 = self.space.encode(batch.target[:, 0])
        others = (x0.sum(0) - x0) / max(1, len(x0) - 1)
        t = self.timesteps.draw(len(x0), x0.device).t
        assert self.conditioner is not None
        condition = self.conditioner.dropped(batch.history, self.space.encode)
        # one pass for both, at the same t and condition and with noise of their own
        noised = self.process.corrupt(torch.cat([x0, others]), t.repeat(2))
        errors = self.objective(self.denoiser(noised.x_t, noised.t, condition.repeat(2, 1)), noised)
        positive, negative = errors.view(2, -1).mean(1)
        preference = -logsigmoid(-self.sharpness * (positive - negative))
        return self.reconstruction_weight * positive + (1 - self.reconstruction_weight) * preference
