"""Choose the settings of the training-free baselines on validation: the grids behind the rows of the suites.

python benchmarks/tune_baselines.py ml-100k loo-full-masked@1

Prints, for each baseline, every setting by its validation metric (the headline of the protocol), best first. Test
cases are not looked at. A model is solved once and asked at every decay.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

from diffrec.baselines import EASE, ItemKNN, Markov, SequentialRules
from diffrec.bench.evaluate import evaluate
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.data.splits import Split
from diffrec.recommender import ClosedFormRecommender

NORMALISATIONS = ("raw", "p", "cos")
DECAYS = (0.3, 0.5, 0.7, 0.9, 0.97)
Grid = list[tuple[type[ClosedFormRecommender], dict[str, object], tuple[float, ...]]]

GRID: Grid = [
    *((Markov, {"normalisation": n}, ()) for n in NORMALISATIONS),
    *((SequentialRules, {"window": w, "normalisation": n}, DECAYS) for w, n in product((1, 3, 10), NORMALISATIONS)),
    *((ItemKNN, {"shrink": s, "neighbours": k}, (1.0, *DECAYS)) for s, k in product((0.0, 10.0, 50.0), (None, 100))),
    *((EASE, {"regularization": r}, (1.0, *DECAYS)) for r in (30.0, 100.0, 300.0, 1000.0, 3000.0)),
]


def row_of(model: ClosedFormRecommender) -> str:
    """Sets (decay 1) and decayed histories are two rows."""
    both = isinstance(model, (ItemKNN, EASE)) and model.decay != 1.0
    return type(model).__name__ + ("-decay" if both else "")


def measured(num_items: int, split: Split, headline: str) -> Iterator[tuple[str, float, str]]:
    """(row, validation metric, settings) of the whole grid."""
    for constructor, settings, decays in GRID:
        model = constructor(num_items, **settings).eval()
        model.solve(split.train)
        for decay in decays or (None,):
            if decay is not None:
                model.__dict__["decay"] = decay
            value = evaluate(model, split.valid, (int(headline.partition("@")[2]),)).metrics[headline]
            yield row_of(model), value, ", ".join(f"{k}={v}" for k, v in (*settings.items(), ("decay", decay)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("protocol")
    parser.add_argument("--show", type=int, default=3, help="settings per row (default: 3)")
    options = parser.parse_args()
    dataset, protocol = load_dataset(options.dataset), get_protocol(options.protocol)
    results = list(measured(dataset.num_items, protocol.apply(dataset), protocol.headline))
    for row in dict.fromkeys(row for row, _, _ in results):
        best = sorted((result for result in results if result[0] == row), key=lambda result: -result[1])
        for _, value, settings in best[: options.show]:
            print(f"{row:24} valid {protocol.headline} {value:.4f}  {settings}")


if __name__ == "__main__":
    main()
