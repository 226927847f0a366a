"""FlowCF: discrete flow matching from item frequencies to the interaction vector of a user.

Liu et al., "Flow Matching for Collaborative Filtering", KDD 2025, arXiv 2502.07303; official code
github.com/chengkai-liu/FlowCF (commit c7db8f3, no licence; nothing is taken from it).

Differs from the original in:
- the user x item matrix is never dense: vectors are scattered batch by batch;
- frequencies are shares of the users who have any item (RecBole's pad user counts in the original);
- steps count down to the data, t = 0..T-1 with T-1 the prior, as in every model here;
- padding is no item and never a candidate.

Kept: training starts the flow at the prior, scoring at the history itself, two steps from the end; between the two
steps items are only added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from diffrec.data.ragged import Ragged
from diffrec.diffusion.flow import BernoulliFlow
from diffrec.diffusion.objectives import CleanSampleError
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.flow_mlp import FlowMLP
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.interaction import InteractionSpace


class FlowCF(DiffusionRecommender):
    """A straight discrete flow over interaction vectors, whose network predicts the clean vector.

    dims: hidden widths of the network; num_train_timesteps: T, the strides of the grid from prior to data;
    num_inference_steps: how many of the last steps are taken from the history; noise: False trains on clean vectors,
    the control without a flow; stochastic: draw the items that a step adds (the original takes the likelier).
    """

    examples = "history"

    def __init__(
        self,
        num_items: int,
        dims: Sequence[int] = (300, 300),
        time_embedding_size: int = 10,
        dropout: float = 0.1,
        num_train_timesteps: int = 9,
        num_inference_steps: int | None = 2,
        noise: bool = True,
        stochastic: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, dims=dims, num_train_timesteps=num_train_timesteps)
        check_sizes(least=2, time_embedding_size=time_embedding_size)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        super().__init__(
            num_items,
            max_history_length=None,
            space=InteractionSpace(num_items),
            process=BernoulliFlow(num_items, num_train_timesteps, noise),
            denoiser=FlowMLP(num_items, dims, num_train_timesteps, time_embedding_size, dropout),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=CleanSampleError(),
            start="history",
            num_inference_steps=num_inference_steps,
            stochastic=stochastic,
            lr=lr,
            weight_decay=weight_decay,
        )

    def prepare(self, sequences: Ragged) -> None:
        """The share of users who have each item."""
        seen = sequences.to_csr(self.num_items)
        counts = np.bincount(seen.indices, minlength=self.num_items)
        users = max(1, np.count_nonzero(sequences.lengths))
        cast(BernoulliFlow, self.process).frequency.copy_(torch.from_numpy(counts / users))
