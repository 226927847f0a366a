"""Choose the settings of the training-free baselines on validation: the grids behind the rows of the suites.

python benchmarks/tune_baselines.py ml-100k loo-full-masked@1

Prints, for each baseline, the best settings by their validation metric (the headline of the protocol), and keeps all
trials in `benchmarks/tuning/<dataset>/<protocol>.json`. Test cases are not looked at. A model is solved once and
asked at every decay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from diffrec.baselines import EASE, ItemKNN, Markov, SequentialRules
from diffrec.bench.evaluate import evaluate
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.data.splits import Split
from diffrec.errors import UsageError
from diffrec.files import write_file
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


@dataclass(frozen=True)
class Trial:
    """A setting of a row, and its validation metric."""

    row: str
    value: float
    settings: dict[str, object]


def row_of(model: ClosedFormRecommender) -> str:
    """Sets (decay 1) and decayed histories are two rows."""
    both = isinstance(model, (ItemKNN, EASE)) and model.decay != 1.0
    return type(model).__name__ + ("-decay" if both else "")


def measured(num_items: int, split: Split, headline: str) -> Iterator[Trial]:
    """The whole grid."""
    for constructor, settings, decays in GRID:
        try:
            model = constructor(num_items, **settings).eval()
            model.solve(split.train)
        except UsageError as error:  # EASE where the table does not fit
            print(f"{constructor.__name__} {settings}: {error}")
            continue
        for decay in decays or (None,):
            if decay is not None:
                model.__dict__["decay"] = decay
            value = evaluate(model, split.valid, (int(headline.partition("@")[2]),)).metrics[headline]
            chosen = settings if decay is None else {**settings, "decay": decay}
            yield Trial(row_of(model), value, chosen)


def best_first(trials: list[Trial], row: str) -> list[Trial]:
    """The trials of a row."""
    return sorted((trial for trial in trials if trial.row == row), key=lambda trial: -trial.value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("protocol")
    parser.add_argument("--show", type=int, default=3, help="settings per row (default: 3)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tuning", metavar="DIR")
    options = parser.parse_args()
    dataset, protocol = load_dataset(options.dataset), get_protocol(options.protocol)
    trials = list(measured(dataset.num_items, protocol.apply(dataset), protocol.headline))
    rows = {row: best_first(trials, row) for row in dict.fromkeys(trial.row for trial in trials)}
    for row, mine in rows.items():
        for trial in mine[: options.show]:
            settings = ", ".join(f"{name}={value}" for name, value in trial.settings.items())
            print(f"{row:24} valid {protocol.headline} {trial.value:.4f}  {settings}")
    record = {
        "dataset": options.dataset,
        "dataset_sha256": dataset.sha256,
        "protocol": protocol.id,
        "metric": protocol.headline,
        "trials": {row: [{"value": t.value, **t.settings} for t in mine] for row, mine in rows.items()},
    }
    path = options.output / options.dataset / f"{protocol.id}.json"
    write_file(path, (json.dumps(record, indent=1) + "\n").encode())
    print(path)


if __name__ == "__main__":
    main()
