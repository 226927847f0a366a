"""DreamRec: generate the embedding of the next item from noise, guided by the history.

Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion",
NeurIPS 2023, arXiv 2310.20453; official code github.com/YangZhengyi98/DreamRec (commit 454133c, no
licence; nothing is taken from it).

Differs from the original in:
- dropout is off while generating (the original never leaves training mode);
- padding is not a candidate, and the last incomplete evaluation batch is not dropped;
- no query mask by "sum is exactly zero": after layer normalisation that depends on rounding and
  drops the attention of about 8 % of real slots at random; padding is masked as padding;
- the width is free (the original writes 64 into its unconditional path);
- tables are float64, noise belongs to the request and not to its place in a batch;
- `guidance_scale` is diffusers' g = 1 + w for the paper's strength w.

Kept: the table of target embeddings is trained through the loss, which invites it to shrink;
alpha_bar_{T-1} is .006 while sampling starts at N(0, I).
"""

from __future__ import annotations

from typing import Literal

from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.objectives import MeanSquaredError
from diffrec.diffusion.schedules import Betas, cosine, exponential, linear
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.conditioner import NullableConditioner
from diffrec.nn.history_encoder import SelfAttentionEncoder
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.embedding import EmbeddingSpace

Schedule = Literal["linear", "cosine", "exponential"]


class DreamRec(DiffusionRecommender):
    """Guided diffusion over item embeddings (eqs. 5-11), one training example per prefix.

    schedule: "linear" (Zhihu), "cosine" (KuaiRec) or "exponential" (YooChoose) in the released settings;
    guidance_scale: g = 1 + w; denoiser_layers: 1 (released) or 2; condition_dropout: how often training
    hides the history; num_inference_steps: None for all T, fewer for few-step sampling.
    """

    examples = "prefix"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        max_history_length: int = 10,
        num_train_timesteps: int = 500,
        schedule: Schedule = "linear",
        guidance_scale: float = 3.0,
        condition_dropout: float = 0.1,
        dropout: float = 0.1,
        denoiser_layers: int = 1,
        num_inference_steps: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        process = GaussianProcess(betas_of(schedule, num_train_timesteps), "sample")
        encoder = SelfAttentionEncoder(embedding_size, max_history_length, num_heads=1, dropout=dropout)
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size, init_std=1.0),
            process=process,
            denoiser=ConcatDenoiser(embedding_size, denoiser_layers),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=MeanSquaredError(process),
            start="noise",
            conditioner=NullableConditioner(encoder, embedding_size, condition_dropout),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            lr=lr,
            weight_decay=weight_decay,
        )


def betas_of(schedule: Schedule, num_train_timesteps: int) -> Betas:
    """The three schedules of the paper by name."""
    return {"linear": linear, "cosine": cosine, "exponential": exponential}[schedule](num_train_timesteps)
