"""The model meets the contract that all models of diffrec meet."""

from diffrec.testing import ModelConformance


class TestNearest(ModelConformance):
    names = ("nearest",)
