"""Which items of a history speak for a recommended one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn.functional import normalize

from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import UsageError, choose
from diffrec.recommender import Recommender
from diffrec.typing import Float, Int, Tensor

Method = Literal["vectors", "leave-one-out"]
MEANING = {
    "vectors": "cosine of the model's item vectors",
    "leave-one-out": "how far the score falls without the item",
}


@dataclass(frozen=True)
class Explanation:
    """For each recommended item the nearest of the history, nearest first.

    items: (recommended, nearest) item numbers; values: what `MEANING[method]` says of each pair.
    """

    method: Method
    items: Int[Tensor, "recommended nearest"]
    values: Float[Tensor, "recommended nearest"]


def explain(
    model: Recommender,
    history: Int[Tensor, " length"],
    items: Int[Tensor, " recommended"],
    *,
    nearest: int = 2,
    seed: int = 0,
    method: Method | None = None,
) -> Explanation:
    """The items of one history that are nearest to each of `items`.

    method: "vectors" compares the vectors that the model has of its items; "leave-one-out" asks the model once more
    without each item of the history, with the same noise, and works for every model, for only what it reads counts.
    None: vectors where there are any. Raises UsageError for vectors that a model does not have.
    """
    if method is not None:
        choose("method", method, get_args(Method))
    with torch.inference_mode():
        history, items = history.to(model.device), items.to(model.device)
        vectors = model.item_embeddings if method != "leave-one-out" else None
        if vectors is None and method == "vectors":
            raise UsageError(f"{type(model).__name__} has no vectors of items to compare; use leave-one-out")
        last = {item: place for place, item in enumerate(history.tolist()) if item}  # each item once
        latest_first = sorted(last, key=lambda item: -last[item])  # of equals the latest
        distinct = torch.tensor(latest_first, dtype=torch.int64, device=history.device)
        if vectors is None:
            near = _falls(model, history, distinct, items, seed)
        else:
            near = normalize(vectors[items - 1], dim=1) @ normalize(vectors[distinct - 1], dim=1).T
        values, order = near.sort(dim=1, descending=True, stable=True)
        return Explanation(
            "leave-one-out" if vectors is None else "vectors", distinct[order][:, :nearest], values[:, :nearest]
        )


def _falls(
    model: Recommender, history: Int[Tensor, " length"], distinct: Tensor, items: Tensor, seed: int
) -> Float[Tensor, "recommended distinct"]:
    """Score of the whole history less that of the history without an item."""
    asked = torch.cat([history[None], torch.where(history[None] == distinct[:, None], 0, history[None])])
    noise = RequestNoise.from_history(history[None], seed).take(torch.zeros_like(asked[:, 0]))
    best = model.recommend(asked, model.num_items, exclude_seen=False, noise=noise)
    scores = torch.zeros_like(best.scores).scatter_(1, best.items - 1, best.scores)[:, items - 1]
    return (scores[:1] - scores[1:]).T
