"""The published rows of the baselines, recomputed on the datasets they were measured on.

Hyperparameters have the best validation NDCG@10, or one within .0001 of it, on the grids window {1, 3, 10},
three normalisations, decay {.3, .5, .7, .9}; shrink {0, 10, 50}, neighbours {all, 100}; lambda {100, 300, 1000,
3000}. On the DiffRec files lambda has the best validation recall@20.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import diffrec.baselines
from diffrec.bench.evaluate import evaluate
from diffrec.data.protocol import get_protocol

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

TOLERANCE = 0.0005
LOO, BY_USER, FILES = "loo-full-masked@1", "user-split-811-masked@1", "diffrec-temporal@1"
TOP_10 = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
TOP_20 = (*TOP_10, "recall@20", "ndcg@20")


@dataclass(frozen=True)
class Row:
    """A fitted model and what it must reach: decay of the history (None: the model has its own) -> values."""

    dataset: str
    protocol: str
    model: str
    arguments: dict[str, object]
    expected: dict[float | None, tuple[float, ...]]
    names: tuple[str, ...] = TOP_10

    def __str__(self) -> str:
        return f"{self.dataset}-{self.model}"


ROWS = [
    Row("s3rec_beauty", LOO, "Popularity", {}, {None: (0.0068, 0.0039, 0.0110, 0.0053)}),
    Row("s3rec_beauty", LOO, "Markov", {"normalisation": "p"}, {None: (0.0520, 0.0392, 0.0700, 0.0451)}),
    Row("s3rec_beauty", LOO, "SequentialRules", {"window": 10, "normalisation": "raw"},
        {0.5: (0.0614, 0.0448, 0.0824, 0.0516, 0.1095, 0.0584)}, TOP_20),
    Row("s3rec_beauty", LOO, "ItemKNN", {"shrink": 50.0},
        {1.0: (0.0432, 0.0291, 0.0640, 0.0358), 0.5: (0.0516, 0.0360, 0.0716, 0.0425)}),
    Row("s3rec_beauty", LOO, "EASE", {"regularization": 100.0},
        {1.0: (0.0457, 0.0298, 0.0694, 0.0374), 0.7: (0.0554, 0.0381, 0.0778, 0.0453)}),
    Row("diffurec_ml1m", LOO, "Popularity", {}, {None: (0.0219, 0.0138, 0.0394, 0.0194)}),
    Row("diffurec_ml1m", LOO, "Markov", {"normalisation": "p"}, {None: (0.1386, 0.0953, 0.1964, 0.1140)}),
    Row("diffurec_ml1m", LOO, "SequentialRules", {"window": 10, "normalisation": "p"},
        {0.7: (0.1818, 0.1267, 0.2621, 0.1525, 0.3589, 0.1770)}, TOP_20),
    Row("diffurec_ml1m", LOO, "ItemKNN", {"shrink": 10.0}, {1.0: (0.0498, 0.0312, 0.0753, 0.0393)}),
    Row("diffurec_ml1m", LOO, "ItemKNN", {"shrink": 0.0}, {0.5: (0.1260, 0.0869, 0.1826, 0.1049)}),
    Row("diffurec_ml1m", LOO, "EASE", {"regularization": 300.0}, {1.0: (0.0621, 0.0391, 0.1079, 0.0538)}),
    Row("diffurec_ml1m", LOO, "EASE", {"regularization": 1000.0}, {0.7: (0.1507, 0.1048, 0.2238, 0.1283)}),
    Row("preferdiff_beauty", BY_USER, "Popularity", {}, {None: (0.0063, 0.0031, 0.0130, 0.0052)}),
    Row("preferdiff_beauty", BY_USER, "Markov", {"normalisation": "raw"}, {None: (0.0590, 0.0439, 0.0796, 0.0507)}),
    Row("preferdiff_beauty", BY_USER, "SequentialRules", {"window": 10, "normalisation": "raw"},
        {0.7: (0.0769, 0.0564, 0.1019, 0.0645, 0.1341, 0.0726)}, TOP_20),
    Row("preferdiff_beauty", BY_USER, "ItemKNN", {"shrink": 50.0},
        {1.0: (0.0635, 0.0431, 0.0881, 0.0510), 0.7: (0.0666, 0.0473, 0.0899, 0.0548)}),
    Row("diffrec_ml1m_clean", FILES, "EASE", {"regularization": 1000.0}, {1.0: (0.1066, 0.0910, 0.1816, 0.1165)},
        ("recall@10", "ndcg@10", "recall@20", "ndcg@20")),
    Row("diffrec_ml1m_clean", FILES, "Popularity", {}, {None: (0.0993,)}, ("recall@20",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def split_of(real_data):
    """(dataset, protocol) -> (number of items, split), computed once."""
    known = {}

    def find(name: str, protocol: str):
        if (name, protocol) not in known:
            dataset = real_data(name)
            known[name, protocol] = dataset.num_items, get_protocol(protocol).apply(dataset)
        return known[name, protocol]

    return find


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_published_row(row: Row, split_of):
    num_items, split = split_of(row.dataset, row.protocol)
    model = getattr(diffrec.baselines, row.model)(num_items, **row.arguments).eval()
    model.solve(split.train)
    for decay, values in row.expected.items():
        if decay is not None:
            model.decay = decay
        metrics = evaluate(model, split.test, (5, 10, 20)).metrics
        assert {name: metrics[name] for name in row.names} == pytest.approx(
            dict(zip(row.names, values, strict=True)), abs=TOLERANCE, rel=0
        )
