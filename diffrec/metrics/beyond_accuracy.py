"""What lists are like apart from being right: how much of the catalogue they show, and how popular it is.

Everywhere `top_items` is (lists, k) item numbers, best first, 0 in an empty slot (which does not
count), and `item_counts` is (N,): training interactions of item number j + 1 at index j.
"""

from __future__ import annotations

import numpy as np


def times_shown(top_items: np.ndarray, num_items: int) -> np.ndarray:
    """(N,) in how many slots each item stands."""
    return np.bincount(top_items.ravel(), minlength=num_items + 1)[1:]


def coverage(top_items: np.ndarray, num_items: int) -> float:
    """#(items in at least one list) / N. Source: Ge, Delgado-Battenfeld and Jannach, RecSys 2010."""
    return float((times_shown(top_items, num_items) > 0).mean())


def gini(top_items: np.ndarray, num_items: int) -> float:
    """Inequality of the items' shares p of all slots: 0 if all are shown equally, 1 if only one is.

    sum_j (2j - N - 1) p_(j) / (N - 1) over the shares in rising order, j = 1..N.
    Source: Shani and Gunawardana, Recommender Systems Handbook (2011), section 8.3.
    """
    shares = np.sort(times_shown(top_items, num_items)) / np.count_nonzero(top_items)
    return float((2 * np.arange(1, num_items + 1) - num_items - 1) @ shares / (num_items - 1))


def novelty(top_items: np.ndarray, item_counts: np.ndarray) -> float:
    """Mean over lists of the mean of -log2 p(item), in bits; higher is less popular.

    p = (count + 1) / (all counts + N): one is added so that items new to training stay finite.
    Source: self-information, Vargas and Castells, RecSys 2011.
    """
    probability = (item_counts + 1) / (item_counts.sum() + len(item_counts))
    return _mean_of_lists(-np.log2(probability), top_items)


def mean_popularity(top_items: np.ndarray, item_counts: np.ndarray) -> float:
    """Mean over lists of the mean training count of their items.

    Source: average recommendation popularity, Yin et al., PVLDB 5 (2012).
    """
    return _mean_of_lists(item_counts, top_items)


def _mean_of_lists(value_of_item: np.ndarray, top_items: np.ndarray) -> float:
    """Mean over the lists that hold anything of the mean over their filled slots."""
    with_padding = np.concatenate([[0.0], value_of_item])
    filled = (top_items > 0).sum(1)
    return float((with_padding[top_items].sum(1)[filled > 0] / filled[filled > 0]).mean())
