"""GiffCF's denoiser: features of a user are mixed once in the space of embeddings and once item by item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from diffrec.nn.time_embedding import cosine_sine
from diffrec.typing import Float, Int, Tensor


class FeatureMixer(nn.Module):
    """A network of two layers with swish between them, the same at every coordinate.

    It reads `features` vectors, each of one number a coordinate, and one number a row, and gives one vector; `size`
    features lie between its layers.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.first = nn.Linear(features + 1, size)
        self.last = nn.Linear(size, 1)
        for layer in (self.first, self.last):
            _glorot(layer)

    def forward(
        self, vectors: Sequence[Float[Tensor, "batch dim"]], of_row: Float[Tensor, "#batch 1"]
    ) -> Float[Tensor, "batch dim"]:
        of_vectors, of_number = self.first.weight.split([len(vectors), 1], dim=1)
        told = of_row @ of_number.T + self.first.bias
        hidden = torch.stack([x.reshape(-1) for x in vectors])  # features first: a product of long rows
        hidden = (of_vectors @ hidden).view(self.size, *vectors[0].shape) + told.T[:, :, None]
        mixed = self.last.weight @ nn.functional.silu(hidden).view(self.size, -1) + self.last.bias
        return mixed.view(vectors[0].shape)


class ItemMixer(nn.Module):
    """(x_t, t, condition) -> estimate of x_0; condition (batch, 2, items) holds c and S c.

    With the item table E (items, dim): u = x_t E / items and q = c E / max(|c|_1, 1) are mixed at each of the dim
    coordinates, and the result times E^T is mixed with c and S c at each item. Both mixers are told one number of
    their own about the time t + 1: Linear(swish(Linear(sinusoid))). Weights start by Glorot's uniform, biases as 0.
    """

    def __init__(self, num_items: int, embedding_size: int, time_embedding_size: int, mixer_size: int) -> None:
        super().__init__()
        self.time_embedding_size = time_embedding_size
        self.table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, embedding_size)))
        self.of_embeddings, self.of_items = FeatureMixer(2, mixer_size), FeatureMixer(3, mixer_size)
        self.time_of_embeddings, self.time_of_items = _time(time_embedding_size), _time(time_embedding_size)

    def forward(
        self,
        x_t: Float[Tensor, "batch items"],
        t: Int[Tensor, "#batch"],
        condition: Float[Tensor, "batch 2 items"],
    ) -> Float[Tensor, "batch items"]:
        """t: (batch,) steps 0..T-1, or (1,) where the whole batch is at one step."""
        c, smooth = condition.unbind(1)
        scaled = torch.cat([x_t / len(self.table), c / c.abs().sum(1, keepdim=True).clamp(min=1)])
        u, q = (scaled @ self.table).chunk(2)
        sinusoid = cosine_sine(t + 1, self.time_embedding_size)
        embedding = self.of_embeddings((u, q), self.time_of_embeddings(sinusoid))
        return self.of_items((embedding @ self.table.T, c, smooth), self.time_of_items(sinusoid))


def _time(size: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, 1))
    for layer in (layers[0], layers[2]):
        _glorot(cast(nn.Linear, layer))
    return layers


def _glorot(layer: nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
