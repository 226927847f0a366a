"""Facts about the machine, and what stands for those that a system does not tell."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffrec.baselines import Popularity
from diffrec.bench.provenance import PeakMemory, deviations, split_counts, weights_sha256
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import load_dataset
from diffrec.models import DiffRec


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


def test_targets_that_are_no_candidates_are_counted_apart():
    dataset = load_dataset("synthetic")
    split = get_protocol("loo-full-masked@1").apply(dataset)
    assert "unavailable_test_targets" not in split_counts(dataset, split)
    targets = split.test.target.values
    without = replace(split, test=replace(split.test, unavailable=np.unique(targets[:3])))
    assert split_counts(dataset, without)["unavailable_test_targets"] == np.isin(targets, targets[:3]).sum()


def test_a_hash_of_weights_follows_every_number():
    model = Popularity(5)
    before = weights_sha256(model)
    assert weights_sha256(Popularity(5)) == before
    model.users[3] += 1
    assert weights_sha256(model) != before


def test_deviations_are_those_the_file_of_a_model_lists():
    assert deviations(DiffRec)[0] == "the user x item matrix is never dense: vectors are scattered batch by batch"
    assert len(deviations(DiffRec)) == 4
    assert deviations(Popularity) == ()
