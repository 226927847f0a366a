"""SASRec on vectors of item texts: what a diffusion model over frozen text is to be compared with.

The transformer and the loss are those of `SASRec`; an item is a small network's reading of its frozen vector, as in
UniSRec (Hou et al., KDD 2022) without its pre-training, and a learned vector of its own may be added.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import embedding, pad

from diffrec.data.ragged import Ragged
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import check_sizes
from diffrec.next_item import NextItemRecommender
from diffrec.nn.cross_entropy import cross_entropy_over_items
from diffrec.nn.dropout import Dropout
from diffrec.nn.positions import PositionsFromEnd
from diffrec.nn.transformer import CausalTransformer, check_blocks
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.tokenizers.collaborative import item_features
from diffrec.typing import Float, History, Int, Scores, Tensor, Vectors


class SASRecText(NextItemRecommender):
    """A causal transformer over items that are Linear(GELU(Linear(vector))), compared with all of them.

    item_vectors: a name of `diffrec data embed`, or a safetensors file, see `read_vectors`; whitened to `vector_size`
    when training starts, and kept with the model. None: singular vectors of who had the items in training. learn_ids: a
    learned vector is added to each item. unmet_negatives: in training an item is also compared with those that training
    never meets, which teaches their texts to score low; without, they may be recommended for their texts.
    """

    reads = (("item_vectors", "vectors"),)
    vectors: Tensor
    met: Tensor

    def __init__(
        self,
        num_items: int,
        item_vectors: str | None = None,
        vector_size: int = 128,
        learn_ids: bool = False,
        unmet_negatives: bool = True,
        embedding_size: int = 64,
        num_blocks: int = 2,
        num_heads: int = 2,
        max_history_length: int = 50,
        dropout: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(num_items, max_history_length, lr, weight_decay)
        check_blocks(embedding_size, num_blocks, num_heads, dropout)
        check_sizes(vector_size=vector_size)
        self.item_vectors, self.unmet_negatives = item_vectors, unmet_negatives
        self.register_buffer("met", torch.arange(num_items), persistent=False)  # columns of the logits of training
        self.register_buffer("vectors", torch.zeros(num_items, vector_size))
        self.read = nn.Sequential(
            nn.Linear(vector_size, embedding_size), nn.GELU(), nn.Linear(embedding_size, embedding_size)
        )
        self.ids = EmbeddingSpace(num_items, embedding_size, init_std=0.02) if learn_ids else None
        self.position = PositionsFromEnd(max_history_length, embedding_size)
        self.transformer = CausalTransformer(embedding_size, num_blocks, num_heads, dropout)
        self.dropout = Dropout(dropout)

    def prepare(self, sequences: Ragged) -> None:
        """The frozen vectors, and which items are met."""
        features = item_features(self.item_vectors, sequences, self.num_items, self.vectors.shape[1], whiten=True)
        self.vectors.copy_(features.to(self.vectors))
        if not self.unmet_negatives:
            self.met = torch.as_tensor(np.unique(sequences.values) - 1, dtype=torch.int64, device=self.met.device)

    def table(self) -> Float[Tensor, "items dim"]:
        """What the items are read as."""
        items = self.read(self.vectors)
        return items if self.ids is None else items + self.ids.table.weight[1:]

    @property
    def item_embeddings(self) -> Float[Tensor, "items dim"]:
        """`table`."""
        return self.table()

    def states(self, history: History) -> Float[Tensor, "batch length dim"]:
        """The state after every item."""
        items = embedding(history, pad(self.table(), (0, 0, 1, 0)))
        return self.transformer(self.dropout(items + self.position(history > 0)))

    def loss_of(self, states: Float[Tensor, "positions dim"], target: Int[Tensor, " positions"]) -> Float[Tensor, ""]:
        """Cross-entropy over all items, or over those that training meets."""
        return cross_entropy_over_items(states, self.table()[self.met], torch.searchsorted(self.met, target - 1))

    def score(self, history: History, *, noise: RequestNoise | None = None) -> Scores:
        """The last state compared with every item; nothing is sampled, `noise` is not used."""
        return self.query(history) @ self.keys.T

    def query(self, history: History, *, noise: RequestNoise | None = None) -> Vectors:
        """The state at the last item."""
        return self.asking(history)

    @property
    def keys(self) -> Float[Tensor, "items dim"]:
        """`table`."""
        return self.table()
