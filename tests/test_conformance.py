"""The contract of `Recommender`, for every model and baseline in the registries, as its config file builds it.

A new model is found by its line in `models/__init__.py` and its file in `configs/model`.
"""

from __future__ import annotations

import pytest

from diffrec.baselines import BASELINES
from diffrec.models import MODELS
from diffrec.testing import ModelConformance
from diffrec.testing.conformance import configuration

REGISTRY = {**MODELS, **BASELINES}


@pytest.mark.parametrize("name", REGISTRY)
def test_the_registry_and_the_configuration_name_one_class(name):
    assert configuration(name)["class_path"].rpartition(".")[2] == REGISTRY[name].partition(":")[2]


class TestModels(ModelConformance):
    names = tuple(REGISTRY)
