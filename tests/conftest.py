"""Shared fixtures. Shape annotations of the package are checked while the tests run."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

install_import_hook("diffrec", "beartype.beartype")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

collect_ignore = ["example_plugin"]  # test_plugins.py installs it first

torch.set_num_threads(1)  # small models; two threads on a busy machine are many times slower


@pytest.fixture(autouse=True)
def own_random_numbers(request):
    """A test draws the same numbers alone, in any order and on any worker; DIFFREC_TEST_SEED gives it others."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()) + int(os.environ.get("DIFFREC_TEST_SEED", "0")))


@pytest.fixture
def unchecked_types(monkeypatch):
    """Annotations are not checked, as for users: what a test gives on purpose is of another type."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def golden():
    """`golden("dreamrec")`: the arrays of the papers' official code, see tests/golden/README.md."""
    return lambda name: load_file(Path(__file__).parent / "golden" / f"{name}.safetensors")


@pytest.fixture(scope="session")
def real_data():
    """`real_data("s3rec_beauty")`: a dataset found through DIFFREC_DATA, or a skip that says so."""

    def find(name: str):
        folder = Path(os.environ.get("DIFFREC_DATA", "")) / name
        if "DIFFREC_DATA" not in os.environ or not folder.is_dir():
            pytest.skip(f"needs the dataset {name}: set DIFFREC_DATA to a folder that holds it")
        from diffrec.data.sources import load_dataset

        return load_dataset(name)

    return find
