"""When a result of an earlier configuration is one of today's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffrec.bench import same_settings as module
from diffrec.bench.same_settings import same_settings
from diffrec.models import MODELS


def config(path="diffrec.models.DreamRec", data=(), **arguments):
    return {
        "seed_everything": 0,
        "data": {"dataset": "ml-100k", "seed": 0, **dict(data)},
        "model": {"class_path": path, "init_args": arguments},
    }


def both_ways(one, other):
    first, second = same_settings(one, other), same_settings(other, one)
    assert first == second
    return first


def test_an_argument_at_its_default_changes_nothing():
    before = config(embedding_size=32)
    assert both_ways(before, before)
    assert both_ways(before, config(embedding_size=32, learn_ids=False))
    assert both_ways(before, config(embedding_size=32, item_vectors=None, num_inference_steps=None))
    assert not both_ways(before, config(embedding_size=32, learn_ids=True))
    assert both_ways(config(), config(embedding_size=64))
    assert not both_ways(config(), config(embedding_size=65))


def test_seeds_are_no_settings():
    assert both_ways(config(), {**config(data={"seed": 3}), "seed_everything": 3})


@pytest.mark.parametrize(
    "other",
    [
        config(data={"batch_size": 8}),
        {**config(), "trainer": {"max_epochs": 3}},
        {**config(), "decoding": {"num_inference_steps": 1}},
        config("diffrec.models.PreferDiff"),
        config(no_such_argument=None),
        config(num_items=None),  # an argument without a default
    ],
)
def test_all_else_is_another_experiment(other):
    assert not both_ways(config(), other)


def test_of_a_class_that_is_not_ours_nothing_is_known():
    assert both_ways(config("elsewhere.Model", a=1), config("elsewhere.Model", a=1))
    assert not both_ways(config("elsewhere.Model", a=1), config("elsewhere.Model", a=1, b=None))


@pytest.mark.parametrize("path", [f"diffrec.models.{path.partition(':')[2]}" for path in MODELS.values()])
def test_defaults_read_from_the_source_are_those_of_the_class(path):
    read, known = module._defaults_in_source(path), module._defaults(path)
    assert read.items() <= known.items()
    if path.endswith(".DiffRec"):
        assert read == known


def test_nothing_heavy_is_imported_for_it():
    code = """
import sys
from diffrec.bench import same_settings as module
from diffrec.bench.same_settings import same_settings
from diffrec.models import MODELS
one = {"data": {}, "model": {"class_path": "diffrec.models.DiffRec", "init_args": {"dims": [1000]}}}
other = {"data": {}, "model": {"class_path": "diffrec.models.DiffRec", "init_args": {"dims": [1000], "weight_t0": 1.0}}}
assert same_settings(one, other)
sys.exit("torch" in sys.modules or "numpy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
