"""What the documents say holds: numbers come from result files, snippets run, entries load."""

from __future__ import annotations

import re
import runpy
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from diffrec.bench.blocks import filled
from diffrec.bench.render import markdown
from diffrec.bench.result import read_results
from diffrec.cli.leaderboard import make_tables
from diffrec.cli.main import main
from diffrec.cli.zoo_refresh import known_of
from diffrec.cli.zoo_verify import ELSEWHERE
from diffrec.data.protocol import get_protocol
from diffrec.errors import NotFoundError
from diffrec.zoo import load
from diffrec.zoo.config import Config, Measured
from diffrec.zoo.entry import CARD, CONFIG, METRICS, WEIGHTS, Entry
from diffrec.zoo.headings import unknown
from diffrec.zoo.index import Listing, read_index
from diffrec.zoo.saving import LARGEST_LOSS, loss, outdated
from diffrec.zoo.table import filled as zoo_filled
from diffrec.zoo.verifying import verify

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HERE = {path.name for path in (ROOT / "zoo").iterdir() if path.is_dir()}


@cache
def results():
    """All records, read once."""
    return read_results(ROOT / "benchmarks" / "results")


def test_every_result_can_be_repeated():
    assert [result.path for result in results() if not result.repeatable] == []


def test_leaderboard_and_tables_of_the_readme_are_those_of_the_results():
    tables, refused = make_tables(results(), ROOT / "benchmarks" / "results")
    assert refused == []
    assert (ROOT / "benchmarks" / "LEADERBOARD.md").read_text(encoding="utf-8") == markdown(tables)
    assert filled(README, tables) == README
    assert README.count("<!-- end -->") == 4


def test_the_page_of_speed_is_that_of_its_files():
    script = runpy.run_path(str(ROOT / "benchmarks" / "speed" / "table.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"]()


def test_the_zoo_in_the_readme_is_that_of_the_manifest():
    rows = read_index(ROOT / "zoo")
    assert all(f"| `{name}` |" in README for name in rows)
    assert zoo_filled(README, rows, rows.keys() - HERE) == README


def test_the_entries_stay_small_and_are_those_of_the_list():
    rows = read_index(ROOT / "zoo")
    assert rows.keys() >= HERE
    here = {name: rows[name] for name in HERE}
    assert all(Listing.of(Entry.open(ROOT / "zoo" / name)) == row for name, row in here.items())
    assert sum(row.size for row in here.values()) <= 150_000_000


def test_the_commands_of_the_readme_exist(capsys):
    commands = {shlex.split(c.replace("[", "").split("/")[0])[1] for c in re.findall(r"`(diffrec [^`]+)`", README)}
    assert {"recommend", "data", "fit", "bench", "leaderboard", "zoo"} <= commands
    for command in commands:
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: diffrec {command}")


@pytest.mark.parametrize("name", sorted(HERE))
def test_every_entry_of_the_zoo_says_what_the_leaderboard_says(name):
    entry = Entry.open(ROOT / "zoo" / name)
    measured = Measured.parse(entry.read(METRICS), name)
    model, _, dataset = name.partition(".")
    of = (model, dataset, measured.training.seed)
    records = [r.metrics for r in results() if (r.model, r.dataset, r.seed) == of]
    if measured.float32 is None:
        assert measured.metrics in records
    else:  # measured once more when the weights were rounded, on another machine perhaps
        stated = [pytest.approx(record, abs=ELSEWHERE) for record in records]
        assert measured.float32 in stated
        headline = get_protocol(Config.parse(entry.read(CONFIG), name).protocol).headline
        assert loss(measured, headline) < LARGEST_LOSS
    assert read_index(ROOT / "zoo")[name].metrics == measured.metrics


@pytest.mark.parametrize("name", sorted(HERE))
def test_every_entry_of_the_zoo_is_what_it_says(name):
    """Bytes, weights, card and golden lists: what `diffrec zoo verify` looks at, and nothing may be left open or be
    older than code and records: `diffrec zoo refresh` writes what fails here."""
    entry = Entry.open(ROOT / "zoo" / name)
    verified = verify(entry)
    assert verified.model.vocabulary is not None
    assert verified.lists == 16
    assert unknown(entry.read(CARD).decode()) == []
    assert verified.measured.evaluation is not None
    benchmark = verified.measured.benchmark
    assert benchmark is not None
    assert benchmark.ms_per_user
    assert benchmark.popular_lists
    known = replace(known_of(entry, verified.model, results()), dataset=None)  # which not every machine has
    assert outdated(entry, verified.model, known) == []
    assert len(entry.read(CARD).decode().splitlines()) <= 150
    graph = verified.model.state_dict().get("process.filter.graph.table", torch.empty(0)).numel()  # of GiffCF
    assert entry.files[WEIGHTS].size < 5 * (verified.config.parameters + graph) + 12 * verified.model.num_items * 64


def test_the_python_of_the_readme_runs(capsys, monkeypatch):
    """With the titles of MovieLens 100K, which only a machine that has fetched it knows."""
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    try:
        load("dreamrec.ml-100k").vocabulary.number("Alien (1979)")
    except NotFoundError as error:
        pytest.skip(str(error))
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert capsys.readouterr().out.count("(19") >= 9
