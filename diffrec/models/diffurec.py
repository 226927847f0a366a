"""DiffuRec: mix the noised target into every item of the history, and read the next item off a transformer.

Li et al., "DiffuRec: A Diffusion Model for Sequential Recommendation", TOIS 2023, arXiv 2304.00686; official code
github.com/WHUIR/DiffuRec (commit f6f70c9, MIT; nothing is taken from it).

Differs from the original in:
- padding is masked as padding: the original lets everybody attend to empty slots, as many as the window has room for,
  and blanks the scores of empty queries instead; `fidelity="original"` does so;
- no dropout on what a block passes on, beside that inside of it; `fidelity="original"` has it;
- padding is neither a candidate nor a class of the cross-entropy;
- selection and metrics are those of the protocol; the original averages over batches and keeps the last epoch at
  which any of six metrics rose;
- the timestep sampler is uniform, which that of the original is too, for it is never told a loss;
- lambda and all other noise belong to the request and not to its place in a batch.

Kept: lambda is drawn anew in every step of scoring; the target enters at about a thousandth, so every result stands
beside its twin without it (`lambda_mean=0, lambda_std=0`).
"""

from __future__ import annotations

from typing import cast, get_args

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import GaussianProcess, PredictionType
from diffrec.diffusion.objectives import MeanSquaredError
from diffrec.diffusion.schedules import Schedule, betas_of
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.nn.conditioner import SlotConditioner
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.noisy_history import NoisyHistoryTransformer
from diffrec.nn.transformer import check_heads
from diffrec.recommender import DiffusionRecommender, EpochDecay
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Fidelity, Float, Tensor


class DiffuRec(EpochDecay, DiffusionRecommender):
    """A transformer over the history and a thousandth of the noised target, trained by cross-entropy (eqs. 16-25).

    lambda_mean, lambda_std: of the share of the target; embedding_dropout: of the items of the history; dropout: in
    the blocks; lr_decay_epochs: the learning rate falls to a tenth so often. schedule, prediction_type: the paper has
    "truncated_linear" and tells x_0, "sample".
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
        num_train_timesteps: int = 32,
        schedule: Schedule = "truncated_linear",
        prediction_type: PredictionType = "sample",
        lambda_mean: float = 0.001,
        lambda_std: float = 0.001,
        embedding_dropout: float = 0.3,
        dropout: float = 0.1,
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        fidelity: Fidelity = "fixed",
        lr: float = 1e-3,
        lr_decay_epochs: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, max_history_length=max_history_length, num_train_timesteps=num_train_timesteps)
        check_sizes(num_blocks=num_blocks, num_heads=num_heads, lr_decay_epochs=lr_decay_epochs)
        check_sizes(least=2, embedding_size=embedding_size)
        check_numbers(low=0.0, high=1.0, dropout=dropout, embedding_dropout=embedding_dropout)
        check_numbers(low=0.0, lambda_mean=lambda_mean, lambda_std=lambda_std)
        check_heads(embedding_size, num_heads)
        original = choose("fidelity", fidelity, get_args(Fidelity)) == "original"
        betas = betas_of(schedule, num_train_timesteps)
        process = GaussianProcess(betas, prediction_type, variance_type="fixed_large")
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size),
            process=process,
            denoiser=NoisyHistoryTransformer(
                embedding_size,
                num_blocks,
                num_heads,
                dropout,
                lambda_mean,
                lambda_std,
                original,
                time_scale=1000 / num_train_timesteps,
            ),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=MeanSquaredError(process),
            start="noise",
            conditioner=SlotConditioner(embedding_size, embedding_dropout, max_history_length if original else None),
            num_inference_steps=num_inference_steps,
            num_samples=num_samples,
            lr=lr,
            weight_decay=weight_decay,
        )
        self.lr_decay_epochs = lr_decay_epochs

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy of the estimate of x_0 against the target over all items (eq. 24)."""
        target, table = batch.target[:, 0], cast(EmbeddingSpace, self.space).table.weight
        draw = self.timesteps.draw(len(target), target.device)
        noised = self.process.corrupt(self.space.encode(target), draw.t)
        assert self.conditioner is not None
        slots = self.conditioner.dropped(batch.history, self.space.encode)
        x0 = cast(GaussianProcess, self.process).predicted_x0(self.denoiser(noised.x_t, draw.t, slots), noised)
        return cross_entropy_over_items(x0, table[1:], target - 1)
