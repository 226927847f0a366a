"""Linear layers of several clusters side by side, in one matrix whose blocks the data decide."""

from __future__ import annotations

import torch
from torch import nn

from diffrec.nn.wide_linear import wide_linear
from diffrec.typing import Bool, Float, Int, Tensor


class ClusteredLinear(nn.Module):
    """An output reads an input only where both are of one cluster; nothing is permuted.

    Outside of the blocks weights are 0 and stay so, for they have no gradient. The matrix has the same shape for
    every clustering, so its loading needs to know none. With num_clusters = 1 it is a plain linear layer.
    Weights start as N(0, 2 / (fan_in + fan_out)) of their block, biases as 0.
    """

    of_input: Tensor
    of_output: Tensor

    def __init__(self, in_features: int, out_features: int, num_clusters: int = 1) -> None:
        super().__init__()
        self.num_clusters = num_clusters
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.register_buffer("of_input", torch.zeros(in_features, dtype=torch.int64))
        self.register_buffer("of_output", torch.zeros(out_features, dtype=torch.int64))

    @torch.no_grad()
    def regroup(self, of_input: Int[Tensor, " inputs"], of_output: Int[Tensor, " outputs"]) -> None:
        """Take these clusters, 0..num_clusters-1, of inputs and outputs, and draw the weights anew."""
        self.of_input.copy_(of_input)
        self.of_output.copy_(of_output)
        fan_in, fan_out = (of.bincount(minlength=self.num_clusters) for of in (self.of_input, self.of_output))
        scale = (2 / (fan_in + fan_out).clamp(min=1)).sqrt()[self.of_output, None]
        self.weight.normal_().mul_(scale).mul_(self.inside())
        self.bias.zero_()

    def inside(self) -> Bool[Tensor, "outputs inputs"]:
        """Which weights belong to a cluster."""
        return self.of_output[:, None] == self.of_input

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        weight = self.weight if self.num_clusters == 1 else self.weight * self.inside()
        return wide_linear((x,), weight, self.bias)
