"""The contract of `Recommender`, for every model and baseline in the registries, as its config file builds it.

A new model is found by its line in `models/__init__.py` and its file in `configs/model`.
"""

from __future__ import annotations

from collections import Counter

import pytest

from diffrec.baselines import BASELINES
from diffrec.data.protocol import PROTOCOLS
from diffrec.models import MODELS
from diffrec.testing import ModelConformance
from diffrec.testing.conformance import protocols_of
from diffrec.testing.small_models import configuration

REGISTRY = {**MODELS, **BASELINES}


@pytest.mark.parametrize("name", REGISTRY)
def test_the_registry_and_the_configuration_name_one_class(name):
    assert configuration(name)["class_path"].rpartition(".")[2] == REGISTRY[name].partition(":")[2]


def test_every_protocol_is_tried_with_several_models():
    tried = Counter(protocol for name in REGISTRY for protocol in protocols_of(name))
    assert tried.keys() == PROTOCOLS.keys()
    assert min(tried.values()) > 1


class TestModels(ModelConformance):
    names = tuple(REGISTRY)
