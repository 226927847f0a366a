"""AlphaRec: users and items are read from texts, and meet in the graph of who had what.

Sheng et al., "Language Representations Can be What Recommenders Need: Findings and Potentials", ICLR 2025, arXiv
2407.05441; official code github.com/LehengTHU/AlphaRec (nothing is taken from it).

Differs from the original in:
- vectors may come from any encoder (`diffrec data embed`), reduced to `vector_size` principal directions; without one
  they are singular vectors of who had the items;
- an epoch meets every interaction once; an item drawn as a negative of itself is left out;
- `score` is given a history, not a user: the mean text of any history is a user, and its neighbours are its items.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import embedding_bag, normalize, pad

from diffrec.data.batch import Batch
from diffrec.data.datamodule import distinct_pairs
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.bipartite_graph import BipartiteGraph
from diffrec.nn.derived import Derived
from diffrec.nn.item_sets import first_occurrences
from diffrec.nn.sampled_losses import sampled_softmax, uniform_negatives
from diffrec.recommender import Recommender
from diffrec.tokenizers.collaborative import item_features
from diffrec.typing import Float, History, Scores, Tensor

Tables = tuple[Float[Tensor, "items dim"], Float[Tensor, "items_and_padding dim"]]


class AlphaRec(Recommender):
    """Cosines of users and items after `num_layers` propagations of what a small network makes of their texts.

    item_vectors, vector_size, whiten: see `item_features`; a user is the mean of the items in training. hidden_size: of
    the network between vectors and `embedding_size`, None: a linear map ("homogeneous"). num_negatives: drawn uniformly
    for each interaction; temperature: what cosines are divided by in the loss.
    """

    examples = "pairs"
    reads = (("item_vectors", "vectors"),)
    vectors: Tensor

    def __init__(
        self,
        num_items: int,
        item_vectors: str | None = None,
        vector_size: int = 128,
        whiten: bool = False,
        hidden_size: int | None = 256,
        embedding_size: int = 64,
        num_layers: int = 2,
        num_negatives: int = 256,
        temperature: float = 0.15,
        lr: float = 5e-4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__(num_items)
        check_sizes(vector_size=vector_size, embedding_size=embedding_size, num_layers=num_layers)
        check_sizes(num_negatives=num_negatives, hidden_size=1 if hidden_size is None else hidden_size)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        check_numbers(above=0.0, temperature=temperature)
        self.item_vectors, self.whiten = item_vectors, whiten
        self.register_buffer("vectors", torch.zeros(num_items, vector_size))
        if hidden_size is None:
            self.read: nn.Module = nn.Linear(vector_size, embedding_size, bias=False)
        else:
            hidden = nn.Linear(vector_size, hidden_size)
            self.read = nn.Sequential(hidden, nn.LeakyReLU(), nn.Linear(hidden_size, embedding_size))
        self.graph, self.num_layers = BipartiteGraph(num_items), num_layers
        self.num_negatives, self.temperature = num_negatives, temperature
        self.lr, self.weight_decay = lr, weight_decay
        self._tables: Derived[Tables] = Derived()

    def prepare(self, sequences: Ragged) -> None:
        """The frozen vectors and the graph."""
        size = self.vectors.shape[1]
        features = item_features(self.item_vectors, sequences, self.num_items, size, self.whiten)
        self.vectors.copy_(features.to(self.vectors))
        users, items = map(torch.from_numpy, distinct_pairs(sequences))
        self.graph.fit(users, items, len(sequences))

    def table(self) -> Float[Tensor, "nodes dim"]:
        """Layer 0 of the users, and of the items behind them."""
        users = len(self.graph.offsets) - 1 - self.num_items
        items = pad(self.vectors, (0, 0, users, 0))
        return self.read(torch.cat([self.graph.means(items)[:users], self.vectors]))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """InfoNCE of one item of each user, after a propagation of everything."""
        self._tables.forget()  # the weights are about to change
        assert batch.key is not None
        final = normalize(self.graph.mean_of_layers(self.table(), self.num_layers), dim=1)
        items = final[len(final) - self.num_items :]
        users = final[batch.key] / self.temperature
        return sampled_softmax(*uniform_negatives(users, items, batch.target[:, 0] - 1, self.num_negatives))

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Cosines with every item; nothing is sampled, `noise` is not used."""
        items, below = self._propagated()
        counted = first_occurrences(history)
        weights, number = counted.to(below.dtype), counted.sum(1, keepdim=True).clamp(min=1)
        text = embedding_bag(history, pad(self.vectors, (0, 0, 1, 0)), mode="sum", per_sample_weights=weights) / number
        further = embedding_bag(history, below, mode="sum", per_sample_weights=weights) / number.sqrt()
        return normalize(self.read(text) + further, dim=1) @ items.T

    def _propagated(self) -> Tables:
        """The final items; and what an item adds to the layers 1..num_layers of its users. Once a state of the weights.

        A user's layer k is the sum over its items of layer k - 1, divided by the roots of both degrees.
        """
        return self._tables.of((*self.parameters(), self.vectors, self.graph.neighbours), self._made)

    def _made(self) -> Tables:
        layers, roots = self.graph.layers(self.table(), self.num_layers), self.graph.degrees.sqrt()
        items = normalize((sum(layers) * roots)[-self.num_items :], dim=1)
        return items, pad(sum(layers[:-1])[-self.num_items :], (0, 0, 1, 0))  # pyright: ignore[reportIndexIssue]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
