"""DreamRec: generate the embedding of the next item from noise, guided by the history.

Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion",
NeurIPS 2023, arXiv 2310.20453; official code github.com/YangZhengyi98/DreamRec (commit 454133c, no
licence; nothing is taken from it).

Differs from the original in:
- dropout is off while generating (the original never leaves training mode);
- padding is not a candidate, and the last incomplete evaluation batch is not dropped;
- no query mask by "sum is exactly zero": after layer normalisation that depends on rounding and
  drops the attention of about 8 % of real slots at random; padding is masked as padding;
- every prefix is met once an epoch, where the original draws batches with replacement;
- the empty prefix is an example only with `data.examples: prefix-or-none`, as in the recipe for Zhihu;
- the width is free (the original writes 64 into its unconditional path);
- tables are float64, noise belongs to the request and not to its place in a batch;
- `guidance_scale` is diffusers' g = 1 + w for the paper's strength w.

Kept: the table of target embeddings is trained through the loss, which it can lower by shrinking. On
MovieLens 100K it does, and the lists end up at chance: `detach_target=True` prevents it, and the
leaderboard has both rows. alpha_bar_{T-1} is .006 while sampling starts at N(0, I), which `zero_terminal_snr` mends.
"""

from __future__ import annotations

from typing import cast

from diffrec.data.ragged import Ragged
from diffrec.diffusion.gaussian import GaussianProcess, PredictionType
from diffrec.diffusion.objectives import MeanSquaredError
from diffrec.diffusion.schedules import Schedule, betas_of, rescaled_to_zero_snr
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import UsageError, check_numbers, check_sizes
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.conditioner import NullableConditioner
from diffrec.nn.history_encoder import SelfAttentionEncoder
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.embedding import EmbeddingSpace, Readout, read_vectors


class DreamRec(DiffusionRecommender):
    """Guided diffusion over item embeddings (eqs. 5-11), one training example per prefix.

    schedule: "linear" (Zhihu), "cosine" (KuaiRec) or "exponential" (YooChoose) in the released settings;
    prediction_type: what the network tells, of which the paper has x_0, "sample";
    guidance_scale: g = 1 + w; denoiser_layers: 1 (released) or 2; condition_dropout: how often training
    hides the history; zero_terminal_snr: nothing of the signal is left at T-1, where sampling starts;
    detach_target: the table learns from histories only, not from being the target; item_vectors: None learns the
    table, else the path of a safetensors file, see `read_vectors`, whose whitened vectors are a frozen one; learn_ids,
    unit_norm, readout: see `EmbeddingSpace`; num_inference_steps: None for all T, fewer for few-step sampling.
    """

    examples = "prefix"
    reads = (("item_vectors", "vectors"),)

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        max_history_length: int = 10,
        num_train_timesteps: int = 500,
        schedule: Schedule = "linear",
        prediction_type: PredictionType = "sample",
        guidance_scale: float = 3.0,
        condition_dropout: float = 0.1,
        dropout: float = 0.1,
        denoiser_layers: int = 1,
        zero_terminal_snr: bool = False,
        detach_target: bool = False,
        item_vectors: str | None = None,
        learn_ids: bool = False,
        unit_norm: bool = False,
        readout: Readout = "inner_product",
        num_inference_steps: int | None = None,
        num_samples: int = 1,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, max_history_length=max_history_length, num_train_timesteps=num_train_timesteps)
        check_numbers(low=0.0, high=1.0, dropout=dropout, condition_dropout=condition_dropout)
        if embedding_size < 4 or embedding_size % 2:
            raise UsageError(f"embedding_size must be even and at least 4, got {embedding_size}")
        if denoiser_layers not in (1, 2):
            raise UsageError(f"denoiser_layers must be 1 or 2, got {denoiser_layers}")
        if zero_terminal_snr and prediction_type == "epsilon":
            raise UsageError("with zero_terminal_snr epsilon tells nothing of x_0 at T-1; take sample or v_prediction")
        betas = betas_of(schedule, num_train_timesteps)
        process = GaussianProcess(rescaled_to_zero_snr(betas) if zero_terminal_snr else betas, prediction_type)
        encoder = SelfAttentionEncoder(embedding_size, max_history_length, num_heads=1, dropout=dropout)
        table = {"frozen": item_vectors is not None, "learn_ids": learn_ids, "unit_norm": unit_norm}
        super().__init__(
            num_items,
            max_history_length,
            space=EmbeddingSpace(num_items, embedding_size, readout=readout, **table),
            process=process,
            denoiser=ConcatDenoiser(embedding_size, denoiser_layers),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=MeanSquaredError(process),
            start="noise",
            conditioner=NullableConditioner(encoder, embedding_size, condition_dropout),
            detach_target=detach_target,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            num_samples=num_samples,
            lr=lr,
            weight_decay=weight_decay,
        )
        self.item_vectors = item_vectors

    def prepare(self, sequences: Ragged) -> None:
        """The frozen table, where there is one."""
        if self.item_vectors is not None:
            cast(EmbeddingSpace, self.space).fill(read_vectors(self.item_vectors))
