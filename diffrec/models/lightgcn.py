"""LightGCN: vectors of users and items, averaged over their neighbours in the graph of interactions.

He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020, arXiv
2002.02126; official code github.com/gusye1234/LightGCN-PyTorch (no licence) and github.com/kuandeng/LightGCN (no
licence); nothing is taken from them.

Differs from the original in:
- an epoch meets every interaction once (the original draws as many users, and one of the items of each);
- the graph is multiplied as means over lists of neighbours, and its gradient by the same product, since it is
  symmetric (`nn/bipartite_graph.py`);
- `score` is given a history, not a user: the user's row is found by its items (`nn/known_users.py`). For users
  unknown to training, layers 1..K follow from their items; layer 0 is estimated (`Propagated.estimate`).
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding, embedding_bag, pad

from diffrec.data.batch import Batch
from diffrec.data.datamodule import distinct_pairs
from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.bipartite_graph import BipartiteGraph
from diffrec.nn.bpr import bpr_loss, half_squares_of_rows
from diffrec.nn.derived import Derived
from diffrec.nn.item_sets import first_occurrences
from diffrec.nn.known_users import KnownUsers
from diffrec.nn.unseen_items import UnseenItems
from diffrec.recommender import Recommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.typing import Float, History, Scores, Tensor, Vectors

_RIDGE = 1e-3  # of the mean square of the layers


class LightGCN(Recommender):
    """E^(k+1) = D^-1/2 A D^-1/2 E^(k) (eq. 7); the mean of layers 0..num_layers ranks items by inner products.

    weight_decay: times |v|^2 / 2 of the layer-0 vectors that a triple uses (eq. 15).
    """

    examples = "pairs"

    def __init__(
        self,
        num_items: int,
        embedding_size: int = 64,
        num_layers: int = 3,
        init_std: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(num_items)
        check_sizes(embedding_size=embedding_size, num_layers=num_layers)
        check_numbers(low=0.0, init_std=init_std, lr=lr, weight_decay=weight_decay)
        self.users = KnownUsers(embedding_size, init_std)
        self.items = EmbeddingSpace(num_items, embedding_size, init_std)
        self.unseen, self.graph = UnseenItems(num_items), BipartiteGraph(num_items)
        self.num_layers, self.lr, self.weight_decay = num_layers, lr, weight_decay
        self._tables: Derived[Propagated] = Derived()

    def prepare(self, sequences: Ragged) -> None:
        """Learns the graph: the rows of the user table, and what each of them has."""
        users, items = map(torch.from_numpy, distinct_pairs(sequences))
        self.users.fit(users, items, len(sequences))
        self.unseen.fit(users, items)
        self.graph.fit(users, items, len(sequences))

    def training_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """One item of each user against one that the user does not have, after a propagation of everything."""
        self._tables.forget()  # the weights are about to change
        assert batch.key is not None
        items = self.users.weight.shape[0] - 1 + torch.stack([batch.target[:, 0], self.unseen.draw(batch.key)])
        chosen = torch.cat([batch.key[None], items])
        table = self._table()
        final = self.graph.mean_of_layers(table, self.num_layers)
        loss = bpr_loss(*(embedding(role, final) for role in chosen))
        return loss + self.weight_decay * half_squares_of_rows(table, chosen)

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """Inner products with every item; nothing is sampled, `noise` is not used."""
        tables = self._propagated()
        return self.users.choose(history, tables.users, tables.unknown(history)) @ tables.items.T

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"]:
        """The means of the layers of all items: what L-DiffRec clusters, say."""
        return self._propagated().items

    def _propagated(self) -> Propagated:
        """Computed once per state of the weights, not once per call."""
        tensors = (self.users.weight, self.items.table.weight, self.graph.neighbours)
        return self._tables.of(tensors, lambda: Propagated(self.graph, self._table(), self.num_layers))

    def _table(self) -> Float[Tensor, "nodes dim"]:
        """Layer 0 of the users, and of the items behind them."""
        return torch.cat([self.users.weight, self.items.table.weight[1:]])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)


class Propagated:
    """What scoring needs of all layers.

    users (users, dim), items (N, dim): means of the layers; below: (N + 1, layers * dim), layers 0..K-1 of the items
    divided by D^1/2, one beside the other, row 0 for padding: a user's layers 1..K are the sum of the rows of the
    user's items, divided by the root of their number.
    estimate: (layers * dim + 1, dim), a user's layer 0 by ridge regression on the user's layers 1..K, and 1, over
    the training users. A history of nothing gets the mean user.
    """

    def __init__(self, graph: BipartiteGraph, table: Float[Tensor, "nodes dim"], num_layers: int) -> None:
        sizes = [len(table) - graph.num_items, graph.num_items]
        layers, roots = graph.layers(table, num_layers), graph.degrees.sqrt()
        self.users, self.items = (sum(layers) * (roots / len(layers))).split(sizes)
        self.below = pad(torch.cat([layer[sizes[0] :] for layer in layers[:-1]], dim=1), (0, 0, 1, 0))
        own = torch.cat([(layer * roots)[: sizes[0]] for layer in layers[1:]], dim=1)
        self.estimate = _ridge(own, table[: sizes[0]])

    def unknown(self, history: History) -> Vectors:
        """The mean of the layers of users without a row of their own."""
        counted = first_occurrences(history)
        sums = embedding_bag(history, self.below, mode="sum", per_sample_weights=counted.to(self.below.dtype))
        layers = sums / counted.sum(1, keepdim=True).clamp(min=1).sqrt()
        first = torch.addmm(self.estimate[-1], layers, self.estimate[:-1])
        each = layers.unflatten(1, (-1, first.shape[1]))
        return (first + each.sum(1)) / (each.shape[1] + 1)


def _ridge(known: Float[Tensor, "users width"], asked: Vectors) -> Float[Tensor, "width_1 dim"]:
    """The weights, and behind them the constants, that give `asked` from `known` with the least squared error."""
    known = pad(known, (0, 1), value=1.0).double()
    gram = known.T @ known
    ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), known.T @ asked.double()).to(asked.dtype)
