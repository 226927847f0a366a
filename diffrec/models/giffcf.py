"""GiffCF: smooth the interaction vector of a user over the graph of items, and learn the way back.

Zhu et al., "Graph Signal Diffusion Model for Collaborative Filtering", SIGIR 2024, arXiv 2311.08744; official code
github.com/VinciZhu/GiffCF (TensorFlow, no licence; nothing is taken from it).

Differs from the original in:
- up to 4,096 items the filter is one dense table of items; above, it is applied through the sparse interactions;
- one Adam instead of two with the same learning rate, for the table and for all else: the steps are equal;
- the metric it calls recall is `recall_capped` here, and selection follows the configuration;
- any number of reverse steps up to T: `decay` then counts every step that is passed over.

Kept: no released setting adds noise, so nothing is generated: the model refines a history by the same deterministic
steps for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from diffrec.data.ragged import Ragged
from diffrec.diffusion.heat import HeatProcess, SquaredError
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.dropout import Dropout
from diffrec.nn.item_graph import ItemGraph
from diffrec.nn.item_mixer import ItemMixer
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.interaction import InteractionSpace
from diffrec.typing import Float, History, Tensor


class GraphFilter(nn.Module):
    """S x = (A x + g V V^T x) / (1 + g): A = P of the graph with p = 1/4, V its first eigenvectors (eq. 12-14)."""

    def __init__(self, num_items: int, ideal_weight: float, ideal_rank: int) -> None:
        super().__init__()
        self.ideal_weight = ideal_weight
        self.graph = ItemGraph(num_items, user_power=0.25, rank=ideal_rank if ideal_weight else 0)

    def forward(self, x: Float[Tensor, "batch items"]) -> Float[Tensor, "batch items"]:
        smooth = self.graph.propagate(x)
        if not self.ideal_weight:
            return smooth
        return (smooth + self.ideal_weight * self.graph.low_pass(x)) / (1 + self.ideal_weight)


class FilteredHistory(nn.Module):
    """The condition (batch, 2, items): the vector c of the history, and S c. Training drops items from c.

    filter: S, a function and no module, since the process owns it; null: no item is known.
    """

    null: Tensor

    def __init__(self, num_items: int, filter: Callable[[Tensor], Tensor], dropout: float) -> None:
        super().__init__()
        self.filter, self.dropout = filter, Dropout(dropout)
        self.register_buffer("null", torch.zeros(1, 2, num_items), persistent=False)

    def forward(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch 2 items"]:
        """The whole history."""
        return self._told(embed(history))

    def dropped(self, history: History, embed: Callable[[Tensor], Tensor]) -> Float[Tensor, "batch 2 items"]:
        """A part of it, which is scaled up."""
        return self._told(self.dropout(embed(history)))

    def _told(self, c: Float[Tensor, "batch items"]) -> Float[Tensor, "batch 2 items"]:
        return torch.stack([c, self.filter(c)], dim=1)


class GiffCF(DiffusionRecommender):
    """Heat over interaction vectors and a two-stage denoiser that is told the history.

    alpha: how far the last of T steps smooths; noise_scale, decay: see `HeatProcess`; ideal_weight, ideal_rank: g, and
    how many eigenvectors the ideal filter keeps (both are without effect at g = 0); dropout: of the history that the
    denoiser is told in training; mixer_size: features between the layers of the denoiser's two mixers. With the 2 of
    the original, what a run reaches depends on where its weights start.
    """

    examples = "history"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 200,
        num_train_timesteps: int = 3,
        alpha: float = 1.5,
        noise_scale: float = 0.0,
        decay: float = 0.5,
        ideal_weight: float = 0.0,
        ideal_rank: int = 200,
        dropout: float = 0.5,
        time_embedding_size: int = 20,
        mixer_size: int = 2,
        num_inference_steps: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        check_sizes(num_items=num_items, embedding_size=embedding_size, ideal_rank=ideal_rank, mixer_size=mixer_size)
        check_sizes(least=2, time_embedding_size=time_embedding_size)
        check_numbers(low=0.0, ideal_weight=ideal_weight)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        filter = GraphFilter(num_items, ideal_weight, ideal_rank)
        super().__init__(
            num_items,
            max_history_length=None,
            space=InteractionSpace(num_items),
            process=HeatProcess(filter, num_train_timesteps, alpha, noise_scale, decay),
            denoiser=ItemMixer(num_items, embedding_size, time_embedding_size, mixer_size),
            timesteps=UniformTimesteps(num_train_timesteps),
            objective=SquaredError(),
            start="history",
            conditioner=FilteredHistory(num_items, filter.forward, dropout),
            num_inference_steps=num_inference_steps,
            stochastic=False,
            lr=lr,
            weight_decay=weight_decay,
        )

    def prepare(self, sequences: Ragged) -> None:
        """The graph of the training sequences."""
        process = cast(HeatProcess, self.process)
        cast(GraphFilter, process.filter).graph.fit(sequences.to_csr(self.num_items))
