"""The embedding of one item as the thing diffused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import normalize, pad

from diffrec.errors import UsageError, choose
from diffrec.nn.artefacts import find_artefact, read_artefact
from diffrec.nn.principal import whitened
from diffrec.typing import Float, Int, Scores, Tensor

Readout = Literal["inner_product", "cosine", "euclidean"]


class EmbeddingSpace(nn.Module):
    """x_0 is a row of a table (N + 1, dim), row 0 being padding; the score compares it with every row.

    init_std: standard deviation of the normal initial table; unit_norm: rows are used at length 1.
    frozen: the table is not learned but filled, once, by `fill`; learn_ids: to each of its rows a learned one is added,
    which is zero at first.
    readout: "inner_product"; "cosine"; or "euclidean", the negative squared distance, up to what all items share.
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        init_std: float = 1.0,
        *,
        frozen: bool = False,
        learn_ids: bool = False,
        unit_norm: bool = False,
        readout: Readout = "inner_product",
    ) -> None:
        super().__init__()
        choose("readout", readout, get_args(Readout))
        self.table = nn.Embedding(num_items + 1, dim)
        nn.init.normal_(self.table.weight, std=init_std)
        self.table.weight.requires_grad_(not frozen)
        if learn_ids and not frozen:
            raise UsageError("learn_ids adds to a frozen table, so item_vectors are needed; any other is learned")
        self.ids = nn.Embedding(num_items + 1, dim) if learn_ids else None
        if self.ids is not None:
            nn.init.zeros_(self.ids.weight)
        self.unit_norm, self.readout = unit_norm, readout
        self.shape = (dim,)

    def encode(self, items: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Rows of the table; padding is row 0, which is never a candidate."""
        return self._as_used(self.table(items) if self.ids is None else self.table(items) + self.ids(items))

    @property
    def vectors(self) -> Float[Tensor, "items dim"]:
        """Those of the items 1..N."""
        rows = self.table.weight if self.ids is None else self.table.weight + self.ids.weight
        return self._as_used(rows[1:])

    def score(self, x0: Float[Tensor, "batch dim"]) -> Scores:
        """(batch, N) comparisons with every item."""
        items = self.vectors
        if self.readout == "cosine":
            return normalize(x0) @ normalize(items).T
        if self.readout == "euclidean":
            return x0 @ items.T - items.square().sum(1) / 2
        return x0 @ items.T

    def query(self, x0: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch wide"]:
        """What the `keys` are multiplied with for the scores; "euclidean" has one more coordinate."""
        if self.readout == "cosine":
            return normalize(x0)
        return pad(x0, (0, 1), value=1.0) if self.readout == "euclidean" else x0

    @property
    def keys(self) -> Float[Tensor, "items wide"]:
        """(N, wide): `score` as one product, `query(x0) @ keys.T`, for an index of the items."""
        items = self.vectors
        if self.readout == "cosine":
            return normalize(items)
        return torch.cat([items, -items.square().sum(1, keepdim=True) / 2], 1) if self.readout == "euclidean" else items

    def _as_used(self, rows: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        return normalize(rows, dim=-1) if self.unit_norm else rows

    @torch.no_grad()
    def fill(self, vectors: Float[Tensor, "items raw"]) -> None:
        """Fill the table with the whitened vectors (N, raw) of items 1..N; raw is at least the width of the space."""
        items, dim = len(self.table.weight) - 1, self.table.embedding_dim
        if len(vectors) != items or vectors.shape[1] < dim:
            needed = f"{items} items and a width of at least {dim}"
            raise UsageError(f"vectors of {needed} are needed, got {len(vectors)} of width {vectors.shape[1]}")
        self.table.weight[1:] = whitened(vectors, dim).to(self.table.weight)


def read_vectors(name: str | Path) -> Float[Tensor, "items raw"]:
    """The tensor `vectors` of a safetensors file: one row an item, in the order of the item numbers 1..N.

    name: its path, or what `diffrec data embed` called it. Raises NotFoundError for a missing file, UsageError for one
    that holds something else, IntegrityError for one that has changed.
    """
    path = find_artefact("vectors", name)
    tensors = read_artefact(path).tensors
    vectors = tensors.get("vectors")
    if vectors is None or vectors.ndim != 2 or not vectors.is_floating_point():
        held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise UsageError(f"{path} needs a tensor 'vectors' (items, width) of floats, it holds {held}")
    return vectors
