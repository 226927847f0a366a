"""Facts about the machine, and what stands for those that a system does not tell."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from diffrec.bench.provenance import PeakMemory


def peak() -> float:
    memory = PeakMemory(torch.device("cpu"))
    memory.resettable = False
    return memory.mebibytes()


def test_peak_memory_is_counted_where_the_system_counts(monkeypatch):
    pytest.importorskip("resource")
    assert peak() > 50
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak() == 0.0


def test_nothing_of_unix_is_imported():
    code = "import sys; sys.modules['resource'] = None; import diffrec.bench.provenance"
    subprocess.run([sys.executable, "-c", code], check=True)
