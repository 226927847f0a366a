"""L-DiffRec: diffusion in the latent space of a cluster-wise variational autoencoder.

Wang et al., "Diffusion Recommender Model", SIGIR 2023, arXiv 2304.04971, section 3.3; official code
github.com/YiyanXu/DiffRec (commit d35a6c6, no licence; nothing is taken from it).

Differs from the original in:
- items are clustered by the singular vectors of the training matrix, computed right here, or by the vectors of a
  zoo entry; the original reads LightGCN embeddings from files that it has no code to make;
- k-means starts from a seed (the original has none), and the clusters are in the checkpoint;
- items are not permuted into the order of clusters: blocks of one matrix are (`nn.clustered_linear`), which gives
  the same numbers but stores the zeros outside of the blocks, so its encoder counts more parameters;
- one AdamW with two learning rates steps both parts (the original has two optimisers, with equal results);
- `reweight=False` trains the plain error (the original stops with an undefined variable);
- the state of the loss-aware timestep sampler is in the checkpoint (the original loses it).

Kept: mean and log-variance pass through the activation of the encoder and lie in (-1, 1) with tanh; the schedule
has no first beta of its own, as DiffRec's has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import log_softmax

import diffrec
from diffrec.data.batch import Batch
from diffrec.data.protocol import refuse_other_part
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split, TrainingPart
from diffrec.diffusion.gaussian import GaussianProcess, PredictionType
from diffrec.diffusion.objectives import MeanSquaredError, SNRWeightedError
from diffrec.diffusion.schedules import VarianceSchedule, variances_of
from diffrec.diffusion.timesteps import LossAwareTimesteps, UniformTimesteps
from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.nn.precision import at_least_float32
from diffrec.nn.vector_mlp import VectorMLP
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.item_clusters import k_means, singular_vectors
from diffrec.spaces.latent import Activation, LatentSpace
from diffrec.typing import Float, Tensor


class LDiffRec(DiffusionRecommender):
    """Diffusion over the latents of interaction vectors; recency=(w_min, w_max) makes it LT-DiffRec.

    num_clusters: each has its own encoder; 1 is a plain autoencoder; item_vectors: what k-means groups, None for
    singular vectors of the training matrix, else a zoo entry by name or path whose model has item_embeddings (N, dim);
    encoder_dims, decoder_dims, activation: see `LatentSpace`; dims: of the denoiser, see `VectorMLP`; schedule,
    prediction_type, reweight, weight_t0: as in `DiffRec`.
    diffusion_weight: lambda, which falls linearly to nothing over diffusion_weight_epochs but not below
    diffusion_weight_floor (0 epochs: it does not fall); the divergence weighs 1 / kl_batches more with every
    batch, up to kl_weight (0 batches: kl_weight from the start).
    autoencoder_lr, lr: of the autoencoder and of the denoiser.
    """

    examples = "history"
    reads = (("item_vectors", "model"),)

    def __init__(
        self,
        num_items: int,
        num_clusters: int = 2,
        item_vectors: str | None = None,
        cluster_seed: int = 0,
        encoder_dims: Sequence[int] = (300,),
        decoder_dims: Sequence[int] = (),
        activation: Activation = "tanh",
        autoencoder_dropout: float = 0.1,
        dims: Sequence[int] = (300,),
        time_embedding_size: int = 10,
        dropout: float = 0.5,
        num_train_timesteps: int = 5,
        noise_scale: float = 0.5,
        noise_min: float = 1e-3,
        noise_max: float = 5e-3,
        schedule: VarianceSchedule = "linear_variance",
        prediction_type: PredictionType = "sample",
        reweight: bool = True,
        weight_t0: float = 1.0,
        loss_aware_timesteps: bool = True,
        recency: tuple[float, float] | None = None,
        diffusion_weight: float = 0.05,
        diffusion_weight_epochs: int = 500,
        diffusion_weight_floor: float = 0.005,
        kl_weight: float = 0.3,
        kl_batches: int = 200,
        num_inference_steps: int | None = None,
        stochastic: bool = False,
        autoencoder_lr: float = 5e-4,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, dims=dims, num_train_timesteps=num_train_timesteps)
        check_sizes(least=2, time_embedding_size=time_embedding_size)
        check_sizes(least=0, diffusion_weight_epochs=diffusion_weight_epochs, kl_batches=kl_batches)
        check_sizes(least=0, cluster_seed=cluster_seed)
        check_numbers(low=0.0, noise_scale=noise_scale, noise_min=noise_min, noise_max=noise_max, weight_t0=weight_t0)
        check_numbers(low=0.0, high=1.0, dropout=dropout, autoencoder_dropout=autoencoder_dropout)
        check_numbers(low=0.0, diffusion_weight=diffusion_weight, diffusion_weight_floor=diffusion_weight_floor)
        check_numbers(low=0.0, kl_weight=kl_weight, autoencoder_lr=autoencoder_lr)
        betas = variances_of(schedule, num_train_timesteps, noise_scale, noise_min, noise_max)
        process = GaussianProcess(betas, prediction_type)
        space = LatentSpace(
            num_items, num_clusters, encoder_dims, decoder_dims, activation, autoencoder_dropout, recency
        )
        super().__init__(
            num_items,
            max_history_length=None,
            space=space,
            process=process,
            denoiser=VectorMLP(encoder_dims[-1], dims, time_embedding_size, dropout),
            timesteps=(LossAwareTimesteps if loss_aware_timesteps else UniformTimesteps)(num_train_timesteps),
            objective=SNRWeightedError(process, weight_t0) if reweight else MeanSquaredError(process),
            start="history",
            num_inference_steps=num_inference_steps,
            stochastic=stochastic,
            lr=lr,
            weight_decay=weight_decay,
        )
        self._part: TrainingPart | None = None
        self.reweight, self.autoencoder_lr = reweight, autoencoder_lr
        self.vectors_of, self.cluster_seed = item_vectors, cluster_seed
        self.diffusion_weight, self.diffusion_weight_epochs = diffusion_weight, diffusion_weight_epochs
        self.diffusion_weight_floor, self.kl_weight, self.kl_batches = diffusion_weight_floor, kl_weight, kl_batches

    def prepare(self, sequences: Ragged) -> None:
        """Cluster the items and share the autoencoder out by the clusters."""
        space = cast(LatentSpace, self.space)
        if space.num_clusters > 1:
            clusters = k_means(self._item_vectors(sequences), space.num_clusters, self.cluster_seed)
            space.cluster(torch.from_numpy(clusters))

    def prepare_on(self, split: Split) -> None:
        """Raises UsageError for item vectors that were learnt from another part of the dataset."""
        self._part = split.part
        super().prepare_on(split)

    def _item_vectors(self, sequences: Ragged) -> NDArray[np.floating]:
        if self.vectors_of is None:
            return singular_vectors(sequences, self.num_items)
        source = diffrec.load(self.vectors_of)  # the public name: zoo lies above models
        refuse_other_part(self.vectors_of, source.trained_on, self._part)
        vectors = source.item_embeddings
        if vectors is None:
            raise UsageError(f"{self.vectors_of} is a {type(source).__name__}, which has no item vectors; give another")
        if source.num_items != self.num_items:
            raise UsageError(f"{self.vectors_of} has {source.num_items} items, the data have {self.num_items}")
        return vectors.detach().cpu().numpy()

    @property
    def cannot_start_from_another(self) -> str:
        """With clusters, which units a weight joins depends on the data."""
        clusters = cast(LatentSpace, self.space).num_clusters
        return "" if clusters == 1 else "its layers are shared out by the clusters of its items"

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """lambda_e L_diff + L_likelihood + gamma_s L_KL, the likelihood being that of the one-step estimate.

        With reweight=False it is L_diff + lambda_e (L_likelihood + gamma_s L_KL), as in the original.
        """
        space = cast(LatentSpace, self.space)
        x = space.interaction.encode(batch.history)
        posterior = space.posterior(x)
        draw = self.timesteps.draw(len(x), x.device)
        noised = self.process.corrupt(posterior.sample(), draw.t)
        output = self.denoiser(noised.x_t, draw.t)
        loss = self.objective(output, noised)
        self.timesteps.update(draw.t, loss.detach())
        z0 = cast(GaussianProcess, self.process).predicted_x0(output, noised)
        likelihood = multinomial_loss(at_least_float32(space.score(z0)), x).mean()
        bound = likelihood + self.gamma() * posterior.divergence().mean()
        return self._weighted((loss * draw.weight).mean(), bound)

    def _weighted(self, diffusion: Float[Tensor, ""], bound: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return self.lambda_() * diffusion + bound if self.reweight else diffusion + self.lambda_() * bound

    def lambda_(self) -> float:
        """lambda_e of the running epoch; Lightning keeps epochs and steps in its checkpoints."""
        start, epochs = self.diffusion_weight, self.diffusion_weight_epochs
        return max((1 - self.current_epoch / epochs) * start if epochs else start, self.diffusion_weight_floor)

    def gamma(self) -> float:
        """gamma_s of the running batch."""
        return min(self.kl_weight, self.global_step / self.kl_batches) if self.kl_batches else self.kl_weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        space, denoiser = cast(LatentSpace, self.space), self.denoiser
        groups = [{"params": space.parameters(), "lr": self.autoencoder_lr}, {"params": denoiser.parameters()}]
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=True)


def multinomial_loss(logits: Float[Tensor, "batch items"], x: Float[Tensor, "batch items"]) -> Float[Tensor, " batch"]:
    """-sum_i x_i log softmax(logits)_i."""
    return -(log_softmax(logits, dim=1) * x).sum(1)
