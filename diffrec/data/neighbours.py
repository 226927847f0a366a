"""Sparse item x item matrices of which each row keeps its strongest entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

_CELLS = 1 << 24  # of a block of rows, filled or not
_SORTED_BELOW = 1 / 8  # share of filled cells up to which sorting the entries is cheaper
_MADE, _SORTED, _COMPARED = (
    64,
    48,
    40,
)  # bytes: of an entry of a block, where it is sorted, of a cell where all are seen


def bound_of_products(left: sp.csr_array, right: sp.csr_array, count: int | None) -> tuple[int, int]:
    """How many entries `item_products` gives at most, and how many bytes it needs at most to make them."""
    num_items, links = len(left.indptr) - 1, left.copy()
    links.data[:] = 1
    filled = np.minimum(links @ np.diff(right.indptr).astype(np.float64), num_items)  # of each row of the product
    height = min(max(1, _CELLS // num_items), num_items)
    block, cells = np.add.reduceat(filled, np.arange(0, num_items, height)).max(), height * num_items
    working = _MADE * block
    if count is not None:
        working += max(_SORTED * block, _COMPARED * cells if block > _SORTED_BELOW * cells else 0)
        filled = np.minimum(filled, count)
    return int(filled.sum()), int(working)


def item_products(
    left: sp.csr_array,
    right: sp.csr_array,
    count: int | None,
    weigh: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> sp.csr_array:
    """left @ right without its diagonal, and of each row the `count` largest entries (None: all).

    left (N, rows); right (rows, N). `weigh(row, column, value)` of each entry, where given, is what is kept and
    compared. Rows are worked on in blocks, so that the whole product is never there.
    """
    num_items = len(left.indptr) - 1
    height, blocks = max(1, _CELLS // num_items), []
    for start in range(0, num_items, height):
        block = (left[start : start + height] @ right).tocoo()
        rows, columns = block.coords
        beside = rows + start != columns
        rows, columns, values = rows[beside], columns[beside], block.data[beside]
        if weigh is not None:
            values = weigh(rows + start, columns, values)
        kept = sp.csr_array((values, (rows, columns)), shape=block.shape)
        blocks.append(kept if count is None else strongest_per_row(kept, num_items, count))
    products = sp.csr_array(sp.vstack(blocks, format="csr"))
    products.sort_indices()
    return products


def strongest_per_row(matrix: sp.csr_array, num_columns: int, count: int) -> sp.csr_array:
    """The `count` largest entries of each row; of equal ones those with the smaller column."""
    if matrix.nnz > _SORTED_BELOW * (len(matrix.indptr) - 1) * num_columns:
        return _by_threshold(matrix, count)
    entries = matrix.tocoo()
    rows, columns = entries.coords
    order = np.lexsort((columns, -entries.data.astype(np.float64), rows))
    place = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[place < count]
    return sp.csr_array((entries.data[kept], (rows[kept], columns[kept])), shape=matrix.shape)


def _by_threshold(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """The same from the dense matrix, where sorting all entries costs more than to look at every cell."""
    there = sp.csr_array((np.ones(matrix.nnz, dtype=bool), matrix.indices, matrix.indptr), shape=matrix.shape).toarray()
    cells = np.where(there, matrix.toarray(), -np.inf)
    place = max(cells.shape[-1] - count, 0)
    edge = np.partition(cells, place, axis=1)[:, place, None]
    above, at = cells > edge, (cells == edge) & there
    room = count - above.sum(axis=1, dtype=np.int32)[:, None]
    kept = np.nonzero(above | (at & (at.cumsum(axis=1, dtype=np.int32) <= room)))
    return sp.csr_array((cells[kept].astype(matrix.dtype), kept), shape=matrix.shape)
