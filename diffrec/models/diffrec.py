"""DiffRec: denoise the interaction vector of a user.

Wang et al., "Diffusion Recommender Model", SIGIR 2023, arXiv 2304.04971; official code
github.com/YiyanXu/DiffRec (commit d35a6c6, no licence; nothing is taken from it).

Differs from the original in:
- the user x item matrix is never dense: vectors are scattered batch by batch;
- the reverse loop runs in the hidden width (`nn.vector_mlp.CompactMLP`), with equal lists;
- `reweight=False` trains the plain error (the original stops with an undefined variable);
- the state of the loss-aware timestep sampler is in the checkpoint (the original loses it).

Kept, because the published numbers need it: t = 0, whose output is the prediction, is trained with
weight 1 against up to 1e5 for the others (`weight_t0` changes it); the released noise scales hardly corrupt
the input, so every result stands beside its twin without noise (`num_train_timesteps=1, noise_scale=0`).
"""

from __future__ import annotations

from collections.abc import Sequence

from diffrec.diffusion.gaussian import GaussianProcess, PredictionType
from diffrec.diffusion.objectives import MeanSquaredError, SNRWeightedError
from diffrec.diffusion.schedules import VarianceSchedule, variances_of
from diffrec.diffusion.timesteps import LossAwareTimesteps, UniformTimesteps
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.vector_mlp import VectorMLP
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.interaction import InteractionSpace


class DiffRec(DiffusionRecommender):
    """Diffusion over interaction vectors (eqs. 1-10); recency=(w_min, w_max) makes it T-DiffRec.

    dims: layer sizes of the decoder, mirrored in the encoder; schedule: "linear_variance" is the paper's, whose
    variance 1 - alpha_bar rises from noise_scale*noise_min to noise_scale*noise_max over T steps, the others have
    no such numbers; prediction_type: what the network tells, v being no choice of the paper;
    reweight: weigh the error at t as the variational bound does, and at t = 0 with weight_t0;
    stochastic: add posterior noise in the reverse loop (the released settings do not).
    """

    examples = "history"

    def __init__(
        self,
        num_items: int,
        dims: Sequence[int] = (1000,),
        num_train_timesteps: int = 5,
        noise_scale: float = 1e-4,
        noise_min: float = 5e-4,
        noise_max: float = 5e-3,
        schedule: VarianceSchedule = "linear_variance",
        prediction_type: PredictionType = "sample",
        reweight: bool = True,
        weight_t0: float = 1.0,
        loss_aware_timesteps: bool = True,
        recency: tuple[float, float] | None = None,
        time_embedding_size: int = 10,
        dropout: float = 0.5,
        normalise: bool = False,
        num_inference_steps: int | None = None,
        stochastic: bool = False,
        lr: float = 5e-5,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, dims=dims, num_train_timesteps=num_train_timesteps)
        check_sizes(least=2, time_embedding_size=time_embedding_size)
        check_numbers(low=0.0, noise_scale=noise_scale, noise_min=noise_min, noise_max=noise_max, weight_t0=weight_t0)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        betas = variances_of(schedule, num_train_timesteps, noise_scale, noise_min, noise_max, first_beta=1e-5)
        process = GaussianProcess(betas, prediction_type)
        super().__init__(
            num_items,
            max_history_length=None,
            space=InteractionSpace(num_items, recency),
            process=process,
            denoiser=VectorMLP(num_items, dims, time_embedding_size, dropout, normalise),
            timesteps=(LossAwareTimesteps if loss_aware_timesteps else UniformTimesteps)(num_train_timesteps),
            objective=SNRWeightedError(process, weight_t0) if reweight else MeanSquaredError(process),
            start="history",
            num_inference_steps=num_inference_steps,
            stochastic=stochastic,
            lr=lr,
            weight_decay=weight_decay,
        )
