"""For packages that bring models of their own: the tests that every model of diffrec passes (they need pytest).

from diffrec.testing import ModelConformance

class TestMine(ModelConformance):
    names = ("mine",)  # as the entry point of the group `diffrec.models` calls it
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("diffrec.testing.conformance")

from diffrec.testing.conformance import ModelConformance  # noqa: E402  # after its assertions are to be explained

__all__ = ["ModelConformance"]
