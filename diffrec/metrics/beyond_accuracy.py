"""What lists are like apart from being right: how much of the catalogue they show, how popular and how alike it is.

Everywhere `top_items` is (lists, k) item numbers, best first, 0 in an empty slot (which does not
count), and `item_counts` is (N,): training interactions of item number j + 1 at index j.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.special import entr

from diffrec.data.ragged import Ragged


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


def intra_list_diversity(top_items: np.ndarray, similarity: sp.csr_array) -> float:
    """Mean over lists of the mean of 1 - similarity over their pairs of items; 1 where no two are alike.

    similarity: (N, N) symmetric, sorted indices, the diagonal is not read; `baselines.item_knn.cosine` of the
    training sequences, say. Lists of fewer than two items do not count; NaN if there are no others.
    Source: Smyth and McClave, ICCBR 2001; as similarity of a list, Ziegler et al., WWW 2005.
    """
    alike, filled = np.zeros(len(top_items)), (top_items > 0).sum(1)
    num_items = len(similarity.indptr) - 1
    cells = np.repeat(np.arange(num_items), np.diff(similarity.indptr)) * num_items + similarity.indices
    for apart in range(1, top_items.shape[1]):
        rows, places = (top_items[:, apart:] > 0).nonzero()  # empty slots are the last, so both are filled
        pair = (top_items[rows, places].astype(np.int64) - 1) * num_items + top_items[rows, places + apart] - 1
        alike += np.bincount(rows, _values_at(pair, cells, similarity.data), minlength=len(alike))
    pairs = filled * (filled - 1) / 2
    return float(1 - (alike[pairs > 0] / pairs[pairs > 0]).mean()) if pairs.any() else float("nan")


def _values_at(wanted: np.ndarray, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of the wanted cells, 0 for those that are not among `cells`, which rise."""
    if not len(cells):
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    return np.where(cells[place] == wanted, values[place], 0.0)


def popularity_buckets(item_counts: np.ndarray, num_buckets: int = 5) -> np.ndarray:
    """(N,) int64: 0 for the most popular items .. num_buckets - 1, and num_buckets for items without a count.

    Every bucket holds about the same share of all interactions, so the first has few items and the last
    many. Items of equal count stand together: in the bucket in which the middle of their interactions
    falls when all interactions are laid out by falling count of their item.
    """
    counts, group = np.unique(item_counts, return_inverse=True)
    mass = counts.astype(np.int64) * np.bincount(group)
    twice_middle = 2 * (mass.sum() - np.cumsum(mass)) + mass
    bucket = num_buckets * twice_middle // max(2 * int(mass.sum()), 1)
    return np.where(counts > 0, bucket, num_buckets)[group]


def popularity_miscalibration(
    top_items: np.ndarray, history: Ragged, item_counts: np.ndarray, num_buckets: int = 5
) -> float:
    """Mean Jensen-Shannon divergence (base 2, 0 to 1) of the mixes of `popularity_buckets` in history and list.

    0: each list is as popular as the history it answers. history: row r is asked with by list r; repeats
    count. Rows with an empty history or list do not count; NaN if there are no others.
    Source: Abdollahpouri et al., UMAP 2021 (user popularity deviation), here with every user of equal weight
    and buckets instead of head, middle and tail. Steck's KL divergence (RecSys 2018) would need a smoothing
    constant for the buckets that a short list leaves empty.
    """
    bucket = popularity_buckets(item_counts, num_buckets)
    rows, places = (top_items > 0).nonzero()
    lists = Ragged.from_lengths(top_items[rows, places], (top_items > 0).sum(1))
    both = np.flatnonzero((history.lengths > 0) & (lists.lengths > 0))
    of_history, of_list = (_mix(part.take(both), bucket, num_buckets + 1) for part in (history, lists))
    entropies = [entr(mix).sum(1) for mix in ((of_history + of_list) / 2, of_history, of_list)]
    divergence = (entropies[0] - (entropies[1] + entropies[2]) / 2) / np.log(2)
    return float(np.maximum(divergence, 0).mean()) if len(both) else float("nan")


def _mix(items: Ragged, bucket: np.ndarray, num_buckets: int) -> np.ndarray:
    """(rows, num_buckets) share of each bucket in every row, none of which is empty."""
    cells = items.row_of_entry * num_buckets + bucket[items.values - 1]
    return np.bincount(cells, minlength=len(items) * num_buckets).reshape(-1, num_buckets) / items.lengths[:, None]


def at_cutoffs(
    top_items: np.ndarray, cutoffs: Sequence[int], num_items: int, item_counts: np.ndarray | None
) -> dict[str, float]:
    """`coverage@k`, `gini@k` and, with (N,) training counts, `novelty@k` and `popularity@k` of the first k items."""
    values = {}
    for k in cutoffs:
        lists = top_items[:, :k]
        values |= {f"coverage@{k}": coverage(lists, num_items), f"gini@{k}": gini(lists, num_items)}
        if item_counts is not None:
            values |= {f"novelty@{k}": novelty(lists, item_counts)}
            values |= {f"popularity@{k}": mean_popularity(lists, item_counts)}
    return values
