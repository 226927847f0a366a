"""Mult-VAE: a variational autoencoder of the items of a user, with a multinomial likelihood.

Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018, arXiv 1802.05814; official code
github.com/dawenl/vae_cf (Apache-2.0; nothing is taken from it).

Differs from the original in:
- the first layer adds up the rows of the history's items: its input is never as wide as the catalogue;
- weight_decay is AdamW's, not a term of the loss; it is 0 by default, as in the original's settings.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.dropout import Dropout
from diffrec.nn.item_sets import first_occurrences
from diffrec.nn.precision import at_least_float32
from diffrec.nn.wide_linear import wide_linear
from diffrec.recommender import Recommender
from diffrec.typing import Float, History, Scores, Tensor, Vectors


class MultVAE(Recommender):
    """x -> dropout(x / |x|) -> hidden, tanh -> (mu, log sigma^2) -> hidden, tanh -> softmax over the items.

    The loss is -sum_i x_i log pi_i + b KL (eqs. 2, 7), the mean over the batch; b rises by 1 / anneal_steps with every
    update, up to anneal_cap: at the defaults, within the first 40,000 of 200,000 updates. Training samples the latent
    vector, `score` takes mu. Weights start as Xavier's uniform, biases as N(0, .001^2).
    """

    examples = "history"
    updates: Tensor

    def __init__(
        self,
        num_items: int,
        hidden_size: int = 600,
        latent_size: int = 200,
        dropout: float = 0.5,
        anneal_cap: float = 0.2,
        anneal_steps: int = 200_000,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items)
        check_sizes(hidden_size=hidden_size, latent_size=latent_size, anneal_steps=anneal_steps)
        check_numbers(low=0.0, high=1.0, dropout=dropout)
        check_numbers(low=0.0, anneal_cap=anneal_cap, lr=lr, weight_decay=weight_decay)
        self.table = nn.Embedding(num_items + 1, hidden_size)  # the first layer's weight, row 0 being padding
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.to_latent = nn.Linear(hidden_size, 2 * latent_size)
        self.from_latent = nn.Linear(latent_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_items)
        self.dropout = Dropout(dropout)
        self.anneal_cap, self.anneal_steps, self.lr, self.weight_decay = anneal_cap, anneal_steps, lr, weight_decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        for weight in (self.table.weight, *(layer.weight for layer in self._layers)):
            nn.init.xavier_uniform_(weight)
        for bias in (self.bias, *(layer.bias for layer in self._layers)):
            nn.init.normal_(bias, std=0.001)

    @property
    def _layers(self) -> tuple[nn.Linear, ...]:
        return self.to_latent, self.from_latent, self.output

    def encode(self, history: History) -> tuple[Vectors, Vectors]:
        """mu and log sigma^2 of the latent vector."""
        counted = first_occurrences(history)
        x = counted / counted.sum(1, keepdim=True).clamp(min=1).sqrt()
        sums = embedding_bag(history, self.table.weight, mode="sum", per_sample_weights=self.dropout(x))
        mu, log_variance = at_least_float32(self.to_latent(torch.tanh(sums + self.bias))).chunk(2, dim=1)
        return mu, log_variance

    def decode(self, z: Vectors) -> Scores:
        """The logits of the items."""
        return wide_linear((torch.tanh(self.from_latent(z)),), self.output.weight, self.output.bias)

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """-ln p(x | z) + b KL(q(z | x) || N(0, I)), and one more update is counted in training mode."""
        mu, log_variance = self.encode(batch.history)
        logits = self.decode(mu + torch.randn_like(mu) * (log_variance / 2).exp())
        divergence = (mu.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
        loss = (multinomial_error(at_least_float32(logits), batch.history) + self.kl_weight * divergence).mean()
        self.updates += int(self.training)
        return loss

    @property
    def kl_weight(self) -> float:
        """b at this update."""
        return min(self.anneal_cap, int(self.updates) / self.anneal_steps)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """The logits at mu; nothing is sampled, `noise` is not used."""
        return self.decode(self.encode(history)[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)


def multinomial_error(logits: Scores, history: History) -> Float[Tensor, " batch"]:
    """-sum over the different items of each history of ln softmax(logits)."""
    counted = first_occurrences(history)
    chosen = logits.gather(1, (history - 1).clamp(min=0)) * counted
    return counted.sum(1) * logits.logsumexp(1) - chosen.sum(1)
