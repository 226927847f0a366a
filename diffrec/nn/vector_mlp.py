"""The MLP of DiffRec over whole interaction vectors, and the same network in its hidden width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from diffrec.nn.derived import Derived
from diffrec.nn.dropout import Dropout
from diffrec.nn.time_embedding import cosine_sine
from diffrec.nn.wide_linear import wide_linear
from diffrec.typing import Float, Int, Tensor


class VectorMLP(nn.Module):
    """(x_t, t) -> output: linear layers with tanh between them over [x_t, Linear(sinusoid(t))].

    dims [a, b] gives dim -> b -> a -> b -> dim, dims [a] gives dim -> a -> dim (the decoder's sizes,
    mirrored in the encoder). Dropout acts on x_t. normalise divides x_t by its L2 norm first.
    Weights start as N(0, 2 / (fan_in + fan_out)), biases as N(0, 0.001^2).
    """

    def __init__(
        self,
        dim: int,
        dims: Sequence[int],
        time_embedding_size: int = 10,
        dropout: float = 0.5,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.time_embedding_size, self.normalise = dim, time_embedding_size, normalise
        self.time = nn.Linear(time_embedding_size, time_embedding_size)
        sizes = [dim + time_embedding_size, *reversed(dims), *dims[1:], dim]
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self._products: Derived[CatalogueProducts] = Derived()
        for layer in (self.time, *layers):
            nn.init.xavier_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.001)

    @property
    def first(self) -> nn.Linear:
        """The layer that meets x_t."""
        return cast(nn.Linear, self.layers[0])

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the output."""
        return cast(nn.Linear, self.layers[-1])

    def forward(self, x_t: Float[Tensor, "batch dim"], t: Int[Tensor, "#batch"]) -> Float[Tensor, "batch dim"]:
        """t: (batch,), or (1,) where the whole batch is at one step."""
        if torch.is_grad_enabled():
            self._products.forget()  # the weights are about to change
        if self.normalise:
            x_t = nn.functional.normalize(x_t)
        time = self.time_vector(t).expand(len(x_t), -1)
        z = torch.tanh(wide_linear((self.dropout(x_t), time), self.first.weight, self.first.bias))
        for layer in self.layers[1:-1]:
            z = torch.tanh(layer(z))
        return wide_linear((z,), self.last.weight, self.last.bias)

    def first_weights(self) -> tuple[Float[Tensor, "hidden dim"], Float[Tensor, "hidden time"]]:
        """The first layer's weight, split into what meets x_t and what meets the time vector."""
        of_x, of_time = self.first.weight.split([self.dim, self.time_embedding_size], dim=1)
        return of_x, of_time

    def time_vector(self, t: Int[Tensor, " steps"]) -> Float[Tensor, "steps time"]:
        """What the first layer is told of the step."""
        return self.time(cosine_sine(t, self.time_embedding_size))

    def compact(self, x: Float[Tensor, "batch dim"], noisy: bool) -> CompactMLP | None:
        """This network on coordinates of x_t (see `CompactMLP`); None where x_t is normalised."""
        return None if self.normalise else CompactMLP(self, x, noisy)

    def catalogue_products(self) -> CatalogueProducts:
        """Computed once per state of the weights, not once per call."""
        return self._products.of(self.parameters(), lambda: CatalogueProducts(self))


class CatalogueProducts:
    """What the reverse loop needs of a network's weights, none of it as wide as the catalogue.

    tanh(x) = 2 s(2x) - 1 with the logistic function s, which costs less than tanh: every layer is kept as the
    weight and bias that give twice its input to the activation from the s of the layer before.
    product: (last + 1, hidden), what the first layer makes of (u, beta), see `CompactMLP`; hidden: the layers between.
    """

    def __init__(self, network: VectorMLP) -> None:
        self._first, _ = network.first_weights()
        last = network.last
        product = (self._first @ last.weight).T.contiguous()  # laid out as the loop multiplies it
        bias = self._first @ last.bias - product.sum(0)
        self.product = torch.cat([4 * product, 2 * bias[None]])
        self.hidden = [
            ((4 * layer.weight).T.contiguous(), 2 * (layer.bias - layer.weight.sum(1)))
            for layer in cast("list[nn.Linear]", network.layers[1:-1])
        ]

    @cached_property
    def noise_factor(self) -> Float[Tensor, "hidden hidden"]:
        """The symmetric square root of W_1 W_1^T: unique, whatever basis an eigensolver chooses."""
        with torch.inference_mode(False), torch.no_grad():
            values, vectors = torch.linalg.eigh((self._first @ self._first.T).double())
            return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).to(self._first.dtype)


class CompactMLP:
    """A `VectorMLP` on coordinates (u, beta, alpha, n) of x_t = W_last (2 u - beta) + beta b_last + alpha x + noise.

    Every scheduler step is linear, so x_t stays in that form: an output of the network has the coordinates
    (s, 1, 0, 0), where 2 s - 1 is the input of the last layer (see `CatalogueProducts`), and n = W_1 noise is
    all that the network ever sees of the noise. Per step this costs a product of hidden width squared; the
    catalogue is met once at the start (W_1 x) and once at the end (`expand`). Without noise, n has width 0.
    Nothing here is differentiable.
    """

    def __init__(self, network: VectorMLP, x: Float[Tensor, "batch dim"], noisy: bool) -> None:
        self.network, self.x = network, x
        self.products = network.catalogue_products()
        last, hidden = self.products.product.shape
        self.widths = [last - 1, 1, 1, hidden if noisy else 0]
        with torch.no_grad():
            self.projected_x = (x @ network.first_weights()[0].T).mul_(2)

    @property
    def start(self) -> Float[Tensor, "batch coordinates"]:
        """The coordinates of x itself."""
        coordinates = self.x.new_zeros(len(self.x), sum(self.widths))
        coordinates[:, self.widths[0] + 1] = 1
        return coordinates

    @torch.no_grad()
    def __call__(
        self, coordinates: Float[Tensor, "batch coordinates"], t: Int[Tensor, 1]
    ) -> Float[Tensor, "batch coordinates"]:
        _, _, alpha, n = coordinates.split(self.widths, dim=1)
        _, time_weight = self.network.first_weights()
        told = 2 * (self.network.time_vector(t) @ time_weight.T + self.network.first.bias)
        s = torch.addcmul(told, alpha, self.projected_x)
        if self.widths[3]:
            s.add_(n, alpha=2)
        s.addmm_(coordinates[:, : len(self.products.product)], self.products.product).sigmoid_()
        for weight, bias in self.products.hidden:
            s = torch.addmm(bias, s, weight).sigmoid_()
        return torch.cat([s, torch.ones_like(alpha), torch.zeros_like(coordinates[:, s.shape[1] + 1 :])], dim=1)

    def noise(self, normal: Callable[[int], Tensor]) -> Float[Tensor, "batch coordinates"]:
        """Standard normal noise on the vector, of which only n = W_1 noise ~ N(0, W_1 W_1^T) is drawn.

        normal: size -> (batch, size) standard normal numbers.
        """
        n = normal(self.widths[3]).to(self.x.dtype) @ self.products.noise_factor
        return nn.functional.pad(n, (sum(self.widths[:3]), 0))

    @torch.no_grad()
    def expand(self, coordinates: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch dim"]:
        """The vector itself. The last step of every scheduler returns the estimate of x_0, free of noise."""
        u, beta, alpha, _ = coordinates.split(self.widths, dim=1)
        last = self.network.last
        vector = ((2 * u - beta) @ last.weight.T).addcmul_(beta, last.bias)
        return vector.addcmul_(alpha, self.x) if alpha.any() else vector
