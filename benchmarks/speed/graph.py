"""Hops over graphs of users and items: seconds beside the plain sparse product, in one run.

OMP_NUM_THREADS=1 python benchmarks/speed/graph.py --output graph.json

Interactions are drawn with the sizes of published files, items by a Zipf law. `items` is one hop of `ItemGraph` for a
batch of users, beside one scipy product over the whole batch; `histories` is the hop of histories in training over
the dense table of few items, beside the product with it, at GiffCF's batch size; `nodes` are the layers of LightGCN
over `BipartiteGraph`, beside torch's product of a sparse CSR matrix of them. The least of some rounds of each side,
taken in turn; `error` is the largest difference, by the largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp
import torch

from diffrec.nn import item_graph
from diffrec.nn.bipartite_graph import BipartiteGraph
from diffrec.nn.item_graph import ItemGraph
from diffrec.typing import Tensor

SIZES = {  # users, items, interactions of train
    "diffrec_ml1m_clean": (5_949, 2_810, 403_277),
    "lightgcn_gowalla": (29_858, 40_981, 810_128),
    "lightgcn_yelp2018": (31_668, 38_048, 1_237_259),
}
LAYERS = 3
HISTORIES = 100  # a batch of GiffCF's training


def drawn(users: int, items: int, interactions: int) -> sp.csr_array:
    """A binary matrix with about as many entries, since what is drawn twice is one."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(10, items + 10)
    columns = rng.permutation(items)[rng.choice(items, interactions, p=shares / shares.sum())]
    seen = sp.csr_array((np.ones(interactions), (rng.integers(users, size=interactions), columns)), (users, items))
    seen.sum_duplicates()
    seen.data[:] = 1
    return seen


def compared(rounds: int, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> dict[str, float]:
    sides: tuple[list[tuple[float, Tensor]], ...] = ([], [])
    for _ in range(rounds):
        for side, taken in zip((ours, plain), sides, strict=True):
            start = time.perf_counter()
            result = side()
            taken.append((time.perf_counter() - start, result))
    first, second = (taken[0][1] for taken in sides)
    seconds, plain_seconds = (min(s for s, _ in taken) for taken in sides)
    error = ((first - second).abs().max() / second.abs().max()).item()
    return {
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "times_faster": plain_seconds / seconds,
        "error": error,
    }


def hop_of_items(seen: sp.csr_array, batch: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    graph = ItemGraph(seen.shape[1])
    with patch.object(item_graph, "_DENSE_UP_TO", 0):  # the sparse form, whatever the number of items
        graph.fit(seen)
    links = sp.csr_array((graph.values.to(dtype).numpy(), graph.indices.numpy(), graph.indptr.numpy()), seen.shape)
    x = torch.rand(batch, seen.shape[1], dtype=dtype, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        by_item = np.ascontiguousarray(x.numpy().T)
        return torch.from_numpy(np.ascontiguousarray((links.T @ (links @ by_item)).T))

    return compared(rounds, lambda: graph.propagate(x), plain)


def hop_of_histories(seen: sp.csr_array, rounds: int) -> dict[str, float]:
    graph = ItemGraph(seen.shape[1])
    graph.fit(seen)
    x = torch.from_numpy(seen[:HISTORIES].toarray()).float()
    return compared(rounds, lambda: graph.train().propagate(x), lambda: graph.eval().propagate(x))


def layers_of_nodes(seen: sp.csr_array, dim: int, rounds: int) -> dict[str, float]:
    users, items = seen.nonzero()
    graph = BipartiteGraph(seen.shape[1])
    graph.fit(torch.from_numpy(users).long(), torch.from_numpy(items).long() + 1, seen.shape[0])
    both = sp.block_array([[None, seen], [seen.T, None]], format="csr")
    scales = sp.diags_array(1 / np.sqrt(np.maximum(both.sum(axis=1), 1)))
    matrix = sp.csr_array(scales @ both @ scales)
    parts = (torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices), torch.from_numpy(matrix.data).float())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        product = torch.sparse_csr_tensor(*parts, matrix.shape, check_invariants=True)
    table = torch.randn(sum(seen.shape), dim, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        layers = [table]
        for _ in range(LAYERS):
            layers.append(product @ layers[-1])
        return torch.stack(layers).mean(0)

    return compared(rounds, lambda: graph.horner(table, LAYERS), plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024, help="users of one hop over the items")
    parser.add_argument("--dim", type=int, default=64, help="of LightGCN's vectors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (users, items, interactions) in SIZES.items():
        seen = drawn(users, items, interactions)
        kinds = {
            "items, float32": hop_of_items(seen, options.batch, torch.float32, options.rounds),
            "items, float64": hop_of_items(seen, options.batch, torch.float64, options.rounds),
            **({"histories, float32": hop_of_histories(seen, options.rounds)} if items <= 4096 else {}),
            "nodes, float32": layers_of_nodes(seen, options.dim, options.rounds),
        }
        for kind, row in kinds.items():
            print(f"{name}, {kind}: {row['seconds']:.3f} s, {row['times_faster']:.1f} times as fast")
            rows.append({"sizes_of": name, "interactions": int(seen.nnz), "kind": kind, **row})
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "layers": LAYERS,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "rows": rows,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
