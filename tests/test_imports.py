"""The package and its help start without the libraries that take seconds to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import diffrec

HEAVY = ("torch", "diffusers", "pytorch_lightning", "wandb")
HELP = "from diffrec.cli.main import main; assert main(['--help']) == 0"


def loaded_after(statement: str) -> set[str]:
    """The heavy modules that a fresh interpreter has after `statement`."""
    code = f"{statement}\nimport sys; print('loaded:', *({set(HEAVY)!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(result.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("statement", ["import diffrec", HELP, "import diffrec.models, diffrec.baselines, diffrec.zoo"])
def test_nothing_heavy_is_imported(statement):
    assert loaded_after(statement) == set()


def test_a_name_loads_what_it_needs_at_first_use():
    assert loaded_after("import diffrec; diffrec.Batch") == {"torch"}


@pytest.mark.parametrize("name", diffrec.__all__)
def test_every_public_name_is_there(name):
    assert name in dir(diffrec)
    assert getattr(diffrec, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        _ = diffrec.Recomender
