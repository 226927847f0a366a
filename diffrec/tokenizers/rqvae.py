"""RQ-VAE: codes of a learned latent vector, level by level of what is left over.

Lee et al., "Autoregressive Image Generation using Residual Quantization" (CVPR 2022); for items Rajput et al., TIGER
(NeurIPS 2023). Forward pass and losses are those of github.com/EdoardoBotta/RQ-VAE-Recommender (commit 0e4ae0c, MIT;
nothing is taken from it). Against codes that fall out of use: codebooks start as residual k-means of the latent
vectors, and after each epoch a code that no item had is moved to an item's residual.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from diffrec.errors import check_numbers, check_sizes, choose
from diffrec.tokenizers.k_means import Points
from diffrec.tokenizers.residual import residual_codebooks
from diffrec.tokenizers.tokens import Tokens
from diffrec.typing import Bool, Float, Int, Tensor

Estimator = Literal["straight-through", "rotation"]
Latent = Float[Tensor, "items latent"]


@dataclass(frozen=True, eq=False)
class Quantised:
    """codes: (items, levels); residuals, vectors: (items, levels, latent) what each level was given, and its code.

    summed: (items, latent) of what the levels pass on, through which gradients reach the encoder; loss: (items,).
    """

    codes: Int[Tensor, "items levels"]
    residuals: Float[Tensor, "items levels latent"]
    vectors: Float[Tensor, "items levels latent"]
    summed: Latent
    loss: Float[Tensor, " items"]


class RQVAE(nn.Module):
    """Linear layers without bias, ReLU between them, and a stack of codebooks in the middle.

    hidden: widths between input and latent; commitment: weight of the loss that draws residuals to codes;
    unit_norm: latent vectors and the codes of the first level have length 1; estimator: one of `Estimator`, how
    gradients pass a level.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (512, 256, 128),
        latent: int = 32,
        levels: int = 3,
        size: int = 256,
        commitment: float = 0.25,
        unit_norm: bool = False,
        estimator: str = "straight-through",
    ) -> None:
        super().__init__()
        check_sizes(width=width, latent=latent, levels=levels, size=size)
        check_numbers(low=0.0, commitment=commitment)
        self.estimator = choose("estimator", estimator, get_args(Estimator))
        self.commitment, self.unit_norm = commitment, unit_norm
        widths = (width, *hidden, latent)
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.codebooks = nn.Parameter(torch.randn(levels, size, latent))

    def encode(self, x: Float[Tensor, "items width"]) -> Latent:
        """Latent vectors."""
        z = self.encoder(x)
        return normalize(z, dim=-1) if self.unit_norm else z

    def books(self) -> list[Float[Tensor, "size latent"]]:
        """The codes of every level."""
        first, *others = self.codebooks
        return [normalize(first, dim=-1) if self.unit_norm else first, *others]

    def quantise(self, z: Latent) -> Quantised:
        """Each level takes the code nearest to what the levels before it left over."""
        left, summed = z, torch.zeros_like(z)
        codes, residuals, vectors, losses = [], [], [], []
        for book in self.books():
            code = (book.square().sum(1) - 2 * left.detach() @ book.detach().T).argmin(1)
            vector = book[code]
            drawn = (vector - left.detach()).square().sum(1)
            losses.append(drawn + self.commitment * (left - vector.detach()).square().sum(1))
            codes.append(code)
            residuals.append(left)
            vectors.append(vector)
            passed = self._through(left, vector)
            left, summed = left - passed, summed + passed
        chosen, residual, vector = (torch.stack(parts, dim=1) for parts in (codes, residuals, vectors))
        return Quantised(chosen, residual, vector, summed, torch.stack(losses).sum(0))

    def _through(self, left: Latent, vector: Latent) -> Latent:
        """The code's vector, with the gradient of `estimator` for what it stands for."""
        if not self.training:
            return vector
        if self.estimator == "straight-through":
            return left + (vector - left).detach()
        return rotated(left, vector)

    def losses(self, x: Float[Tensor, "items width"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Means over items of the squared error of the reconstruction and of the loss of the codebooks."""
        found = self.quantise(self.encode(x))
        return (self.decoder(found.summed) - x).square().sum(1).mean(), found.loss.mean()


@dataclass(frozen=True)
class Training:
    """How an RQ-VAE is trained: AdamW over batches of items; rounds: of the k-means that the codebooks start as."""

    epochs: int = 500
    batch_size: int = 1024
    lr: float = 1e-3
    weight_decay: float = 0.1
    rounds: int = 25
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_sizes(epochs=self.epochs, batch_size=self.batch_size, rounds=self.rounds)
        check_numbers(low=0.0, lr=self.lr, weight_decay=self.weight_decay)


def trained(model: RQVAE, vectors: Points, training: Training, seed: int = 0) -> RQVAE:
    """`model` after training on vectors (N, width); all but its first weights depends on `seed` alone."""
    x = torch.as_tensor(vectors, dtype=torch.float32, device=training.device)
    model.to(training.device).train()
    draws = torch.Generator().manual_seed(seed)
    levels, size, _ = model.codebooks.shape
    with torch.no_grad():
        z = model.encode(x).double().cpu().numpy()
        books, _ = residual_codebooks(z, levels, size, training.rounds, seed)
        model.codebooks.copy_(torch.from_numpy(np.stack(books)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    for epoch in range(training.epochs):
        used = torch.zeros(levels, size, dtype=torch.bool, device=x.device)
        for rows in torch.randperm(len(x), generator=draws).to(x.device).split(training.batch_size):
            found = model.quantise(model.encode(x[rows]))
            error = (model.decoder(found.summed) - x[rows]).square().sum(1)
            optimiser.zero_grad()
            (error + found.loss).mean().backward()
            optimiser.step()
            used[torch.arange(levels, device=x.device), found.codes] = True
        if epoch + 1 < training.epochs:
            revive(model, x, ~used, draws)
    return model.eval()


@torch.no_grad()
def revive(
    model: RQVAE, x: Float[Tensor, "items width"], dead: Bool[Tensor, "levels size"], draws: torch.Generator
) -> int:
    """Move dead codes to what their level is given for items drawn at random; returns how many there were."""
    level, code = dead.nonzero(as_tuple=True)
    if len(level):
        items = torch.randint(len(x), level.shape, generator=draws).to(x.device)
        model.codebooks[level, code] = model.quantise(model.encode(x[items])).residuals[range(len(level)), level]
    return len(level)


@torch.no_grad()
def tokens_of(model: RQVAE, vectors: Points) -> Tokens:
    """The codes of vectors (N, width) and what the decoder makes of them."""
    x = torch.as_tensor(vectors, dtype=torch.float32, device=model.codebooks.device)
    found = model.eval().quantise(model.encode(x))
    away = torch.cdist(found.residuals[:, -1].double(), model.books()[-1].double()).square()
    return Tokens(found.codes.cpu().numpy(), model.decoder(found.summed).double().cpu().numpy(), away.cpu().numpy())


def rotated(left: Latent, vector: Latent) -> Latent:
    """`vector`, as the rotation and scaling of `left` that gives it, through which gradients pass.

    Source: Fifty et al., "Restructuring Vector Quantization with the Rotation Trick" (ICLR 2025), section 4.2.
    """
    length, target = left.norm(dim=1, keepdim=True), vector.norm(dim=1, keepdim=True)
    u, v = normalize(left, dim=1).detach(), normalize(vector, dim=1).detach()
    w = normalize(u + v, dim=1)
    turned = left - 2 * (left * w).sum(1, keepdim=True) * w + 2 * (left * u).sum(1, keepdim=True) * v
    return (target / (length + 1e-6)).detach() * turned


def _layers(widths: Sequence[int]) -> nn.Sequential:
    steps: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        steps += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*steps[:-1])
