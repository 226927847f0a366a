"""Files that nobody meant to give, as often as a release has to see them: the checks of the tests, many times over.

python benchmarks/fuzz.py --output benchmarks/fuzz.json

damage: one file of a zoo entry has other bytes than its manifest says, and has to be refused; sealed_damage: the
manifest was made to fit, so the file is refused or makes a model of the same catalogue, and of damaged headers of
weights the same model; configurations: YAML trees, which are accepted or refused in words. What has to hold is in
`diffrec/testing/fuzzing.py`. `outcomes` counts what came of the cases; anything else is a failure and ends its part.
A part ends early after --minutes of processor time, and then has fewer cases than were `asked`. The exit code is 1
where a check fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import diffrec
from diffrec.data.synthetic import synthetic
from diffrec.recommender import ClosedFormRecommender
from diffrec.testing import fuzzing, small_models
from diffrec.zoo import load, save
from diffrec.zoo.entry import CONFIG, FILES, MANIFEST, METRICS, VOCABULARY, WEIGHTS

MODELS = ("sasrec", "dreamrec", "item-knn")  # weights of the file's shape, a sampler, and shapes that the file decides
PACKAGES = ("hypothesis", "safetensors", "torch", "numpy", "pyyaml", "jsonargparse")


@dataclass
class Part:
    """One kind of case: how many are asked for, how many were met in `limit` seconds, and what came of them."""

    asked: int
    limit: float
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.process_time)
    seconds: float = 0.0

    def met(self, case: str, check: Callable[[], str]) -> None:
        """Note what came of a case."""
        try:
            self.outcomes[check()] += 1
        except Exception as error:  # whatever it is: it must not happen
            self.failures.append(f"{case}: {type(error).__name__}: {error}"[:1000])
        self.seconds = time.process_time() - self.started

    def numbers(self) -> Iterator[int]:
        """Case after case, while there is time and nothing has failed."""
        for number in range(self.asked):
            if self.failures or self.seconds > self.limit:
                return
            yield number

    def plain(self) -> dict:
        """For the record."""
        return {
            "asked": self.asked,
            "cases": self.outcomes.total() + len(self.failures),
            "outcomes": dict(sorted(self.outcomes.items())),
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
        }


def entries(folder: Path) -> list[Path]:
    """Small entries, with random weights or solved from the synthetic dataset."""
    data, made = synthetic(), []
    for name in MODELS:
        model = small_models.built(name, num_items=data.num_items)
        if isinstance(model, ClosedFormRecommender):
            model.solve(data.parts["all"].items)
        model.vocabulary = data.vocabulary
        made.append(save(model.eval(), folder / f"{name}.synthetic", dataset=data, metrics={"ndcg@10": 0.25}))
    return made


def damage(folders: list[Path], part: Part, seed: int) -> None:
    """Every file of every entry in turn."""
    places = [(folder, name) for folder in folders for name in (*FILES, MANIFEST) if (folder / name).exists()]
    for number in part.numbers():
        folder, name = places[number % len(places)]
        rng = random.Random(f"{seed} {number}")
        part.met(
            f"case {number}, {folder.name}/{name}", lambda f=folder, n=name, r=rng: fuzzing.damage_is_noticed(f, n, r)
        )


def sealed_damage(folders: list[Path], part: Part, seed: int) -> None:
    """Files that `load` reads, of every entry in turn."""
    places = [(folder, name) for folder in folders for name in (WEIGHTS, CONFIG, VOCABULARY, METRICS)]
    lists = {folder: load(folder).recommend(fuzzing.HISTORIES, k=10, seed=1) for folder in folders}
    for number in part.numbers():
        folder, name = places[number % len(places)]
        rng = random.Random(f"{seed} {number}")
        part.met(
            f"case {number}, {folder.name}/{name}",
            lambda f=folder, n=name, r=rng: fuzzing.sealed_damage_is_refused_or_harmless(f, n, r, lists[f]),
        )


def configurations(folder: Path, part: Part, seed: int) -> None:
    """Trees that hypothesis makes up, without looking for smaller ones where one fails."""
    numbers = part.numbers()

    @hypothesis.seed(seed)
    @settings(max_examples=part.asked, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(fuzzing.trees(), st.sampled_from([*fuzzing.BASES, "model/diffrec"]))
    def each(tree: dict, base: str) -> None:
        if next(numbers, None) is not None:
            path = folder / "config.yaml"
            part.met(
                f"{base} and {json.dumps(tree)}",
                lambda: fuzzing.any_configuration_is_read_or_refused(tree, base, path),
            )

    each()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--damage", type=int, default=100_000, metavar="N", help="default: 100,000")
    parser.add_argument("--sealed", type=int, default=20_000, metavar="N", help="default: 20,000")
    parser.add_argument("--configurations", type=int, default=20_000, metavar="N", help="default: 20,000")
    parser.add_argument("--minutes", type=float, default=15, help="of processor time, for each part (default: 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = entries(folder)
        for title, asked, run in (
            ("damage", options.damage, lambda part: damage(folders, part, options.seed)),
            ("sealed_damage", options.sealed, lambda part: sealed_damage(folders, part, options.seed)),
            ("configurations", options.configurations, lambda part: configurations(folder, part, options.seed)),
        ):
            parts[title] = Part(asked, 60 * options.minutes)
            run(parts[title])
            sys.stderr.write(f"{title}: {json.dumps(parts[title].plain())}\n")
    record = {
        "seed": options.seed,
        "models": MODELS,
        "minutes": options.minutes,
        "parts": {title: part.plain() for title, part in parts.items()},
        "versions": {
            "diffrec": diffrec.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(any(part.failures for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
