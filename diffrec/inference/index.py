"""Lists through an approximate index of the items, for catalogues of millions: a search instead of a score for each.

Needs the extra `index` (faiss-cpu). What is compared is what the model compares, an inner product of
`Recommender.query` with the rows of `Recommender.keys`. Only which rows are looked at is approximate: their scores are
the model's, and `ItemIndex.recall` holds lists against the exact ones.
"""

from __future__ import annotations

import importlib.util
import math
from contextlib import suppress
from typing import Any

import torch

from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, check_sizes
from diffrec.lists import Recommendations, right_padded
from diffrec.recommender import Recommender
from diffrec.recommender.base import evaluating
from diffrec.recommender.histories import checked_items
from diffrec.typing import Bool, History, Int, Tensor

_MEMBERS = 39  # items a list has at least, below which faiss warns that its centre is badly placed
_VISITED = 32  # lists of an inverted file, or candidates of a graph, that a search visits


class ItemIndex:
    """The items of a model, found by search. The model is not to change afterwards.

    kind: what faiss's `index_factory` calls it, such as "HNSW32" or "IVF4096,PQ16"; None: an inverted file with four
    times the root of the number of items as lists, fewer for a small catalogue. visited: how many lists of an inverted
    file a search visits, and how many candidates of a graph it keeps (nprobe, efSearch).

    Raises UsageError for a model whose score is not one product of vectors, for a kind that faiss does not know, and
    without the extra.
    """

    def __init__(self, model: Recommender, kind: str | None = None, visited: int = _VISITED) -> None:
        check_sizes(visited=visited)
        self.model, self.num_items, self.keys = model, model.num_items, model.keys.detach().float().cpu()
        lists = min(4 * math.isqrt(model.num_items), model.num_items // _MEMBERS)
        self.kind = kind or f"IVF{max(1, lists)},Flat"
        self._index = _built(self.kind, self.keys, visited)

    def recommend(
        self,
        history: History,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        seed: int = 0,
        times: History | None = None,
    ) -> Recommendations:
        """As `Recommender.recommend`: the k best of the items looked at, 0 where those ran out. On the CPU."""
        check_sizes(k=k)
        if times is not None and self.model.reads_times:
            raise UsageError(f"{type(self.model).__name__} reads times, which no index passes on; leave them out")
        k, history = min(k, self.num_items), right_padded(checked_items(history, self.num_items).to(self.model.device))
        with evaluating(self.model), torch.inference_mode():
            query = self.model.checked_query(history, RequestNoise.from_history(history, seed)).float().cpu()
        seen = (history if exclude_seen else history[:, :0]).cpu()
        found = torch.from_numpy(self._index.search(query.numpy(), min(k + seen.shape[1], self.num_items))[1])
        return _best(query, self.keys, found + 1, seen, k)

    def recall(self, history: History, k: int = 10, *, exclude_seen: bool = True, seed: int = 0) -> float:
        """Which share of the items of the exact lists is in those of the index, the mean over the requests."""
        exact = self.model.recommend(history, k, exclude_seen=exclude_seen, seed=seed).items.cpu()
        near = self.recommend(history, k, exclude_seen=exclude_seen, seed=seed).items
        hits = (_is_among(exact, near) & (exact > 0)).sum(1)
        return float((hits / (exact > 0).sum(1).clamp(min=1)).mean())


def _best(query: Tensor, keys: Tensor, found: Int[Tensor, "batch found"], seen: History, k: int) -> Recommendations:
    """The k best of the items that were found, by the scores of the model; -1 + 1 = 0 where none was."""
    out = (found == 0) | _is_among(found, seen)
    scores = torch.einsum("bw,bfw->bf", query, keys[(found - 1).clamp(min=0)]).masked_fill(out, -torch.inf)
    order = found.argsort(dim=1)  # equal scores go by item number
    found, scores = found.gather(1, order), scores.gather(1, order)
    best, place = scores.sort(dim=1, descending=True, stable=True)
    items = found.gather(1, place).masked_fill(torch.isneginf(best), 0)
    return Recommendations(items[:, :k], best[:, :k])


def _is_among(items: Int[Tensor, "batch items"], others: Int[Tensor, "batch others"]) -> Bool[Tensor, "batch items"]:
    """Which items of a row are in that row of `others`; by search, for histories may be thousands of items long."""
    if not others.shape[1]:
        return torch.zeros_like(items, dtype=torch.bool)
    known = others.sort(dim=1).values
    place = torch.searchsorted(known, items.contiguous()).clamp(max=known.shape[1] - 1)
    return known.gather(1, place) == items


def _built(kind: str, keys: Tensor, visited: int) -> Any:
    """The index of faiss, with all keys in it."""
    if importlib.util.find_spec("faiss") is None:
        raise UsageError("an index needs faiss: pip install 'diffrec[index]'; without one, lists are exact")
    import faiss  # pyright: ignore[reportMissingImports]  # an extra

    try:
        index = faiss.index_factory(keys.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        index.train(keys.numpy())
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]
        raise UsageError(f"faiss makes no index {kind!r} of {len(keys):,} items ({reason}); 'HNSW32' is one") from error
    index.add(keys.numpy())
    for name in ("nprobe", "efSearch"):
        with suppress(RuntimeError):  # an index that has no such parameter
            faiss.ParameterSpace().set_index_parameter(index, name, visited)
    return index
