"""ADRec: noise the next item at every position of a sequence, each at a step of its own, and tell all of them.

Chen et al., "Unlocking the Power of Diffusion Models in Sequential Recommendation: A Simple and Effective Approach",
KDD 2025, arXiv 2505.19544; official code github.com/Nemo-1024/ADRec (commit 0a30ef7, MIT; nothing is taken from it).

Differs from the original in:
- padding is masked as padding: the original pads on the left and lets items read the padding before them, and it learns
  the first item of a sequence from padding alone; `fidelity="original"` does both;
- padding is neither a candidate nor a class of the cross-entropy;
- the table is pretrained by the encoder of this network, which is kept; the original takes the table of another run;
- the gradients of both losses are added, where the original halves that sum, which Adam does not see;
- the blocks work out once what does not change between two steps, for they are causal;
- guidance, which the released settings switch off, is left out;
- selection and metrics are those of the protocol, and noise belongs to the request.

Kept: the table of targets is trained through the squared error, once it is no longer frozen; the state enters at a
thousandth, so every result stands beside its twin without it (`state_weight=0`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast, get_args

import torch
from torch.nn.functional import pad

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import GaussianProcess, NoisedSample, PredictionType
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.objectives import MeanSquaredError
from diffrec.diffusion.sampler import Denoise
from diffrec.diffusion.schedules import Schedule, betas_of
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.noisy_positions import CausalConditioner, NoisyPositionsTransformer, causal_blocks
from diffrec.nn.transformer import check_heads
from diffrec.recommender import DiffusionRecommender, EpochRates
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Fidelity, Float, History, Int, Tensor


class ADRec(EpochRates, DiffusionRecommender):
    """Diffusion of the next item at every position at once, by causal blocks behind a causal encoder.

    encoder_blocks, num_blocks: of the encoder and of the denoiser; state_weight: of the noised item beside what the
    encoder says; embedding_dropout: of the items of the history; dropout: in the blocks; regression: weight of the
    squared error beside the cross-entropy. pretraining_epochs: how many only train table and encoder, by cross-entropy;
    frozen_epochs: for how many after these the table rests; decay_epochs: over which the learning rate falls to 0, as
    a cosine does. schedule, prediction_type: the paper has "truncated_linear" and tells x_0, "sample".
    """

    examples = "next"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 128,
        encoder_blocks: int = 2,
        num_blocks: int = 2,
        num_heads: int = 4,
        max_history_length: int = 50,
        num_train_timesteps: int = 32,
        schedule: Schedule = "truncated_linear",
        prediction_type: PredictionType = "sample",
        state_weight: float = 0.001,
        embedding_dropout: float = 0.3,
        dropout: float = 0.1,
        regression: float = 1.0,
        pretraining_epochs: int = 0,
        frozen_epochs: int = 0,
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        fidelity: Fidelity = "fixed",
        lr: float = 1e-3,
        decay_epochs: int = 500,
        weight_decay: float = 1e-5,
    ) -> None:
        check_sizes(num_items=num_items, max_history_length=max_history_length, num_train_timesteps=num_train_timesteps)
        check_sizes(encoder_blocks=encoder_blocks, num_blocks=num_blocks, num_heads=num_heads)
        check_sizes(decay_epochs=decay_epochs)
        check_sizes(least=0, pretraining_epochs=pretraining_epochs, frozen_epochs=frozen_epochs)
        check_sizes(least=2, embedding_size=embedding_size)
        check_numbers(low=0.0, high=1.0, dropout=dropout, embedding_dropout=embedding_dropout)
        check_numbers(low=0.0, state_weight=state_weight, regression=regression)
        check_heads(embedding_size, num_heads)
        original = choose("fidelity", fidelity, get_args(Fidelity)) == "original"
        betas = betas_of(schedule, num_train_timesteps)
        process = GaussianProcess(betas, prediction_type, variance_type="fixed_large")
        encoder = causal_blocks(embedding_size, encoder_blocks, num_heads, dropout, original)
        blocks = causal_blocks(embedding_size, num_blocks, num_heads, dropout, original)
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size),
            process=process,
            denoiser=NoisyPositionsTransformer(embedding_size, blocks, num_train_timesteps, state_weight),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=MeanSquaredError(process),
            start="noise",
            conditioner=CausalConditioner(embedding_size, embedding_dropout, encoder),
            num_inference_steps=num_inference_steps,
            num_samples=num_samples,
            lr=lr,
            weight_decay=weight_decay,
        )
        self.original, self.regression, self.decay_epochs = original, regression, decay_epochs
        self.pretraining_epochs, self.frozen_epochs = pretraining_epochs, frozen_epochs

    def rate(self, epoch: int) -> float:
        """Half a cosine over `decay_epochs`."""
        return self.lr * (1 + math.cos(math.pi * min(1.0, epoch / self.decay_epochs))) / 2

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy over all real positions, and squared error over those of a sequence."""
        history, target = self._placed(batch.history, batch.history), self._placed(batch.target, batch.history)
        if self.original:  # the first item behind padding
            target = torch.where(target > 0, target, history.roll(-1, 1) * (history == 0))
        frozen = 0 <= self.current_epoch - self.pretraining_epochs < self.frozen_epochs
        table = cast(EmbeddingSpace, self.space).table.weight
        table = table.detach() if frozen else table
        real, x0 = target > 0, table[target]
        assert self.conditioner is not None
        slots = self.conditioner(history, lambda items: table[items])
        if self.current_epoch < self.pretraining_epochs:
            return cross_entropy_over_items(slots[..., :-1][real], table[1:], target[real] - 1)
        noised = self._noised(x0, real)
        outputs = self.denoiser(noised.x_t.view_as(x0), noised.t.view_as(real), slots)
        estimates = cast(GaussianProcess, self.process).predicted_x0(outputs.flatten(0, 1), noised).view_as(x0)
        share = real / real.sum(1, keepdim=True).clamp(min=1)
        error = ((estimates - x0).square().mean(2) * share).sum(1).mean()
        return cross_entropy_over_items(estimates[real], table[1:], target[real] - 1) + self.regression * error

    def _noised(self, x0: Float[Tensor, "batch slots dim"], real: Tensor) -> NoisedSample:
        """Every position as an example, each with a draw of its own; padding stays clean, at t = 0."""
        t = torch.where(real, self.timesteps.draw(real.numel(), x0.device).t.view_as(real), 0)
        noised = self.process.corrupt(x0.flatten(0, 1), t.flatten())
        return replace(noised, x_t=torch.where(real.flatten()[:, None], noised.x_t, noised.x0))

    def _placed(self, items: Int[Tensor, "batch slots"], history: History) -> Int[Tensor, "batch window"]:
        """As they are; for the original with the padding of the history before them, up to the window."""
        if not self.original:
            return items
        window, sizes = cast(int, self.max_history_length), (history > 0).sum(1, keepdim=True)
        items = pad(items, (0, window - items.shape[1]))
        return items.gather(1, (torch.arange(window, device=items.device) + sizes) % window)

    def denoiser_for(self, history: History, noise: RequestNoise) -> Denoise:
        """The denoiser at the last position, those before it holding the items that followed them."""
        history = self._placed(history, history)
        assert self.conditioner is not None
        slots = self.conditioner(history, self.space.encode)
        return cast(NoisyPositionsTransformer, self.denoiser).at_last(self.space.encode(history.roll(-1, 1)), slots)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
