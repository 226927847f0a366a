"""The latent of a variational autoencoder over interaction vectors, cluster by cluster, as the thing diffused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn

from diffrec.errors import UsageError, check_sizes, choose
from diffrec.nn.clustered_linear import ClusteredLinear
from diffrec.nn.dropout import Dropout
from diffrec.nn.precision import at_least_float32
from diffrec.spaces.interaction import InteractionSpace
from diffrec.typing import Float, History, Int, Scores, Tensor

Activation = Literal["tanh", "relu"]


@dataclass(frozen=True)
class LatentNormal:
    """q(z | x) = N(mean, exp(log_variance)), both (batch, latent)."""

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]

    def sample(self, noise: Float[Tensor, "batch latent"] | None = None) -> Float[Tensor, "batch latent"]:
        """mean + sigma * noise; standard normal noise is drawn where it is not given."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def divergence(self) -> Float[Tensor, " batch"]:
        """KL(q | N(0, I)) = sum -(1 + log_variance - mean^2 - exp(log_variance)) / 2."""
        return -0.5 * (1 + self.log_variance - self.mean.square() - self.log_variance.exp()).sum(1)


class LatentSpace(nn.Module):
    """x_0 is the mean of q(z | x) for the interaction vector x; the score is the decoded latent (L-DiffRec, sec. 3.3).

    Each cluster of items has its own encoder, `encoder_dims` from the first layer to the latent in all, shared out
    by the sizes of the clusters; its last layer gives mean and log-variance, after the activation as every layer.
    decoder_dims: layers between latent and items; none is one linear layer over all clusters, others are again
    cluster by cluster. dropout acts on x; recency: see `InteractionSpace`.
    Items are shared out evenly by their numbers until `cluster` is told better.
    """

    def __init__(
        self,
        num_items: int,
        num_clusters: int,
        encoder_dims: Sequence[int],
        decoder_dims: Sequence[int] = (),
        activation: Activation = "tanh",
        dropout: float = 0.1,
        recency: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_items=num_items, num_clusters=num_clusters, encoder_dims=encoder_dims)
        narrowest = min(num_items, *encoder_dims, *decoder_dims)
        if num_clusters > narrowest:
            raise UsageError(f"num_clusters must be at most every width and the items, {narrowest}, got {num_clusters}")
        choose("activation", activation, get_args(Activation))
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[activation]
        self.interaction, self.dropout = InteractionSpace(num_items, recency), Dropout(dropout)
        self.num_items, self.num_clusters = num_items, num_clusters
        self.encoder_dims, self.decoder_dims = tuple(encoder_dims), tuple(decoder_dims)
        *hidden, latent = encoder_dims
        self.encoder = nn.ModuleList(
            ClusteredLinear(a, b, num_clusters) for a, b in pairwise([num_items, *hidden, 2 * latent])
        )
        self.decoder = nn.ModuleList(
            ClusteredLinear(a, b, num_clusters if decoder_dims else 1)
            for a, b in pairwise([latent, *decoder_dims, num_items])
        )
        self.cluster(torch.arange(num_items) * num_clusters // num_items)

    @property
    def shape(self) -> tuple[int]:
        """Of one x_0: (latent,)."""
        return (self.encoder_dims[-1],)

    def cluster(self, of_item: Int[Tensor, " items"]) -> None:
        """Share the layers out by the clusters 0..num_clusters-1 of the items; all weights are drawn anew."""
        counts = of_item.bincount(minlength=self.num_clusters)
        *hidden, latent = (shared_out(size, counts) for size in self.encoder_dims)
        _regroup(self.encoder, [of_item, *hidden, latent.repeat(2)])  # all means come before all log-variances
        between = [shared_out(size, counts) for size in self.decoder_dims]
        ends = [latent, of_item] if between else [torch.zeros_like(latent), torch.zeros_like(of_item)]
        _regroup(self.decoder, [ends[0], *between, ends[1]])

    def encode(self, history: History) -> Float[Tensor, "batch latent"]:
        """(batch, latent) means."""
        return self.posterior(self.interaction.encode(history)).mean

    def posterior(self, x: Float[Tensor, "batch items"]) -> LatentNormal:
        """q(z | x) of interaction vectors (batch, N)."""
        x = self.dropout(x)
        for layer in self.encoder:
            x = self.activation(layer(x))
        return LatentNormal(*at_least_float32(x).chunk(2, dim=1))

    def score(self, x0: Float[Tensor, "batch latent"]) -> Scores:
        """(batch, N) logits."""
        *hidden, last = self.decoder
        for layer in hidden:
            x0 = self.activation(layer(x0))
        return last(x0)


def shared_out(size: int, counts: Int[Tensor, " clusters"]) -> Int[Tensor, " size"]:
    """The cluster of each of `size` units: floor(share of the items * size) a cluster, at least 1, the last the rest.

    Where that leaves the last one nothing, the largest gives it a unit.
    """
    sizes = (counts * size // counts.sum()).clamp(min=1)
    sizes[-1] = size - sizes[:-1].sum()
    while sizes[-1] < 1:
        sizes[sizes.argmax()] -= 1
        sizes[-1] += 1
    return torch.arange(len(counts), device=counts.device).repeat_interleave(sizes)


def _regroup(layers: nn.ModuleList, clusters: Sequence[Tensor]) -> None:
    for layer, (of_input, of_output) in zip(layers, pairwise(clusters), strict=True):
        assert isinstance(layer, ClusteredLinear)
        layer.regroup(of_input, of_output)
