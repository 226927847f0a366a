"""Spaces of settings, and the ones that ship."""

from __future__ import annotations

import pytest

from diffrec.bench.search import Choices, Range, find_space, load_space, words
from diffrec.bench.searches import searches
from diffrec.bench.suite import find_suite, load_suite
from diffrec.errors import NotFoundError, UsageError
from diffrec.paths import resource_dir
from diffrec.training.config import compose, shipped_configs


@pytest.fixture
def space(tmp_path):
    """`space("model.decay: [1]")`"""

    def load(text: str):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return load_space(path)

    return load


def test_a_space_of_choices_has_every_setting_the_last_option_changing_first(space):
    read = space("model.window: [3, 10]\nmodel.decay: [0.5, null, [1, 2]]")
    assert read.size == 6
    points = list(read.points())
    assert points[:4] == [
        {"model.window": 3, "model.decay": 0.5},
        {"model.window": 3, "model.decay": None},
        {"model.window": 3, "model.decay": [1, 2]},
        {"model.window": 10, "model.decay": 0.5},
    ]
    assert all(read.holds(point) for point in points)
    assert words(points[2]) == ("--model.window=3", "--model.decay=[1, 2]")
    assert not read.holds({"model.window": 4, "model.decay": 0.5})
    assert not read.holds({"model.window": 3})


def test_a_range_makes_a_space_endless_and_holds_its_ends(space):
    read = space("model.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\nmodel.window: {low: 1, high: 5}")
    assert read.size is None
    assert read.parameters == {"model.lr": Range(1e-4, 1e-2, True), "model.window": Range(1, 5)}
    assert read.holds({"model.lr": 1e-2, "model.window": 1})
    assert not read.holds({"model.lr": 0.02, "model.window": 1})
    assert not read.holds({"model.lr": 1e-3, "model.window": 1.5})
    assert not read.holds({"model.lr": 1e-3, "model.window": True})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a search space is a mapping such as"),
        ("decay: [1]", "decay is not tuned; options begin with model. or trainer."),
        ("model.decay: []", "needs different values"),
        ("model.decay: [1, 1]", "needs different values, got"),
        ("model.decay: 3", "must be a mapping with the keys low, high, log"),
        ("model.decay: {low: 1}", "lacks high"),
        ("model.decay: {low: 2, high: 1}", "needs low < high"),
        ("model.decay: {low: 0, high: 1, log: true}", "low > 0 with log"),
        ("model.decay: {low: a, high: 1}", "low must be a whole number or a finite number, got"),
    ],
)
def test_a_space_that_is_none(space, text, message):
    with pytest.raises(UsageError, match=message):
        space(text)


def test_an_unknown_space_names_the_near_match():
    with pytest.raises(NotFoundError, match=r"no search space 'eese'.*did you mean 'ease'"):
        find_space("eese")


def test_a_space_is_no_configuration():
    assert not any("search" in name for name in shipped_configs())


@pytest.mark.parametrize(
    "path", sorted((resource_dir("configs") / "search").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_spaces_fit_their_models(path):
    read = load_space(path)
    whose = path.stem, path.stem.removesuffix("-decay"), path.stem.removesuffix("-wide"), path.stem.removeprefix("t")
    model = next(name for name in whose if f"model/{name}" in shipped_configs())
    firsts = {n: p.values[0] if isinstance(p, Choices) else p.low for n, p in read.parameters.items()}
    lasts = {n: p.values[-1] if isinstance(p, Choices) else p.high for n, p in read.parameters.items()}
    for settings in (firsts, lasts):
        compose([f"model/{model}", "data/synthetic"], words(settings))
    assert read.size is None or read.size > 1


def test_spaces_of_shipped_suites_are_found():
    for path in sorted((resource_dir("benchmarks") / "suites").glob("*.yaml")):
        suite = load_suite(find_suite(path.stem))
        found = searches(suite)
        assert {search.size for search in found} <= set(range(1, suite.budget + 1))
