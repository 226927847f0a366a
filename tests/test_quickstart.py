"""The notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import diffrec

NOTEBOOK = Path(diffrec.__file__).parent / "docs" / "quickstart.ipynb"


def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DIFFREC_CACHE", str(tmp_path / "cache"))
    names: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells()):
        exec(compile("".join(cell["source"]), f"cell {number} of {NOTEBOOK.name}", "exec"), names)
    out = capsys.readouterr().out
    assert "network calls a request, now 8" in out
    assert "2 users, 6 rows" in out
    assert names["because"].method == "vectors"


def test_no_output_is_stored():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())
