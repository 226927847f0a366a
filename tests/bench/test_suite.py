from __future__ import annotations

import re

import pytest

from diffrec.bench.leaderboard import REQUIRED
from diffrec.bench.result import Reported
from diffrec.bench.runner import plan
from diffrec.bench.suite import SuiteDataset, find_suite, load_suite
from diffrec.errors import NotFoundError, UsageError
from diffrec.paths import resource_dir
from diffrec.training.config import controls

HEAD = """name: s
version: 2
title: t
datasets:
  - {name: d, protocol: loo-full-masked@1}
models:
"""


def test_a_suite_is_read_as_written(suite_file):
    text = HEAD + "  - {name: a, configs: [x, y], overrides: [--model.lr=1], seeds: [3, 1]}\n"
    suite = load_suite(suite_file(text + "  - {name: b, configs: [z], control_of: a}\n"))
    assert (suite.name, suite.version, suite.datasets) == ("s", 2, (SuiteDataset("d", "loo-full-masked@1"),))
    first, second = suite.models
    assert (first.configs, first.overrides, first.seeds, first.control_of) == (
        ("x", "y"),
        ("--model.lr=1",),
        (3, 1),
        None,
    )
    assert (second.overrides, second.seeds, second.control_of) == ((), (0,), "a")
    assert [(cell.model.name, cell.seed) for cell in suite.cells()] == [("a", 3), ("a", 1), ("b", 0)]
    assert str(next(suite.cells()).path) == "s/d/a/seed3.json"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("  - {name: a, confgis: [x]}\n", r"tiny.yaml:7: models\[0\] has no key 'confgis'; did you mean 'configs'\?"),
        ("  - {name: a}\n", r"tiny.yaml:7: models\[0\] lacks configs"),
        ("  - {name: a, configs: x}\n", r"tiny.yaml:7: models\[0\].configs must be a list, got \"x\""),
        ("  - {name: a, configs: [x], seeds: [one]}\n", r"models\[0\].seeds\[0\] must be a whole number, got \"one\""),
        ("  - {name: a, configs: [x], seeds: [true]}\n", r"models\[0\].seeds\[0\] must be a whole number, got true"),
        ("  - {name: a, configs: [x], seeds: []}\n", r"the seeds of a must be different numbers from 0"),
        ("  - {name: a, configs: [x], seeds: [1, 1]}\n", r"the seeds of a must be different numbers from 0"),
        ("  - {name: ../a, configs: [x]}\n", r"the name '../a' must be made of"),
        ("  - {name: a, configs: [x]}\n" * 2, r"lists the model 'a' twice"),
        ("  - {name: abc, configs: [x]}\n  - {name: b, configs: [x], control_of: abd}\n", r"did you mean 'abc'\?"),
        ("  []\n", r"lists no model"),
        ("  - &a {name: a, configs: [x]}\n  - *a\n", r"tiny.yaml:7: anchors and aliases"),
        ("  - !!python/object/apply:os.system [echo]\n", r"tiny.yaml:7: the tag"),
    ],
)
def test_a_wrong_suite_is_refused_with_file_line_and_reason(suite_file, models, message):
    with pytest.raises(UsageError, match=message):
        load_suite(suite_file(HEAD + models))


def test_a_row_may_differ_between_datasets(suite_file):
    text = """
name: s
version: 1
title: t
draws: 2
datasets: [{name: d, protocol: loo-full-masked@1}, {name: e, protocol: loo-full-masked@1}]
without: {sasrec: only on d}
models:
  - name: sasrec
    configs: [x]
    overrides: [--model.a=1]
    on: {d: [--model.b=2]}
    only: [d]
    tuning_trials: 20
    reported: {d: [{metric: ndcg@10, value: 0.1, status: log, source: somewhere}]}
  - {name: ease, configs: [y]}
"""
    suite = load_suite(suite_file(text))
    first, second = suite.models
    assert [str(cell) for cell in suite.cells()] == ["d sasrec seed 0", "d ease seed 0", "e ease seed 0"]
    assert {cell.draws for cell in suite.cells()} == {2}
    assert first.overrides_on("d") == ("--model.a=1", "--model.b=2")
    assert (second.overrides_on("d"), second.reported_on("d"), second.tuning_trials) == ((), (), 0)
    assert first.reported_on("d") == (Reported("ndcg@10", 0.1, "log", "somewhere"),)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("only: [dd]", "a names 'dd', no dataset of this suite; did you mean 'd'"),
        ("on: {x: [--model.a=1]}", "a names 'x', no dataset"),
        ("reported: {x: []}", "a names 'x', no dataset"),
        ("reported: {d: [{metric: m, value: 0.1, status: unverified, source: s}]}", "must be one of 'source', 'log'"),
    ],
)
def test_what_is_said_of_a_dataset_is_checked(suite_file, rest, message):
    with pytest.raises(UsageError, match=message):
        load_suite(suite_file(HEAD + f"  - {{name: a, configs: [x], {rest}}}\n"))


@pytest.mark.parametrize("name", ["draws", "budget"])
def test_draws_and_budget_are_counted_from_one(suite_file, name):
    text = HEAD.replace("version: 2", f"version: 2\n{name}: 0")
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got 0"):
        load_suite(suite_file(text + "  - {name: a, configs: [x]}\n"))


def test_a_name_among_the_models_stands_for_the_rows_of_a_file(suite_file, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "simple.yaml").write_text("- {name: a, configs: [x]}\n- {name: b, configs: [y]}\n")
    suite = load_suite(suite_file(HEAD + "  - {name: c, configs: [z]}\n  - simple\n"))
    assert [model.name for model in suite.models] == ["c", "a", "b"]
    shipped = load_suite(suite_file(HEAD + "  - training-free\n"))
    assert "popularity" in [model.name for model in shipped.models]
    (tmp_path / "rows" / "training-free.yaml").write_text("- {name: d, configs: [x]}\n")
    assert [model.name for model in load_suite(suite_file(HEAD + "  - training-free\n")).models] == ["d"]
    with pytest.raises(UsageError, match="lists the model 'b' twice"):
        load_suite(suite_file(HEAD + "  - {name: b, configs: [z]}\n  - simple\n"))
    told = r"tiny.yaml:\d+: no rows 'simpel'; there are: collaborative, simple, training-free; did you mean 'simple'"
    with pytest.raises(NotFoundError, match=told):
        load_suite(suite_file(HEAD + "  - simpel\n"))
    (tmp_path / "rows" / "simple.yaml").write_text("name: a\n")
    with pytest.raises(UsageError, match="rows are a list of models"):
        load_suite(suite_file(HEAD + "  - simple\n"))


CONTROLLED = HEAD + "  - {name: own, configs: [data/synthetic, model/diffrec], seeds: [0, 1], controls: [noise-off]}\n"


def test_a_row_is_accompanied_by_controls_of_its_configuration(suite_file):
    suite = load_suite(suite_file(CONTROLLED))
    own, twin = suite.models
    assert (twin.name, twin.control_of, twin.seeds, twin.configs) == ("own-noise-off", "own", (0, 1), own.configs)
    assert twin.overrides_on("d") == ("--model.num_train_timesteps=1", "--model.noise_scale=0.0")
    assert own.overrides_on("d") == ()
    everything = suite.with_controls()
    assert [model.name for model in everything.models] == ["own", "own-noise-off", "own-one-step"]
    assert everything.with_controls() == everything


def test_a_control_that_is_not_declared_is_refused(suite_file):
    with pytest.raises(
        NotFoundError, match="own has no control 'noise-of'; there are: noise-off, one-step; did you mean"
    ):
        load_suite(suite_file(CONTROLLED.replace("[noise-off]", "[noise-of]")))
    with pytest.raises(NotFoundError, match=r"own has no control 'noise-off'$"):
        load_suite(suite_file(CONTROLLED.replace("model/diffrec", "model/ease")))


def test_a_control_of_a_control_is_refused(suite_file):
    rows = [("a", ""), ("b", ", control_of: a"), ("c", ", control_of: b")]
    text = HEAD + "".join(f"  - {{name: {name}, configs: [x]{rest}}}\n" for name, rest in rows)
    with pytest.raises(UsageError, match="c is a control of 'b'"):
        load_suite(suite_file(text))


def test_only_keeps_models_and_seeds_and_names_the_near_match(suite_file):
    suite = load_suite(suite_file())
    assert [(c.model.name, c.seed) for c in suite.only(["markov", "ease"], [0]).cells()] == [("markov", 0), ("ease", 0)]
    assert [(c.model.name, c.seed) for c in suite.only([], [1]).cells()] == [
        ("popularity", 0), ("markov", 1), ("item-knn", 0), ("ease", 0),
    ]  # fmt: skip
    with pytest.raises(NotFoundError, match=r"suite tiny has no model 'markow'; did you mean 'markov'\?"):
        suite.only(["markow"])


def test_only_keeps_datasets_and_names_the_near_match(suite_file, suite_text):
    there = "  - {name: synthetic, protocol: loo-full-masked@1}\n"
    assert there in suite_text
    suite = load_suite(suite_file(suite_text.replace(there, there + there.replace("synthetic", "ml-100k"))))
    kept = suite.only(["ease"], datasets=["ml-100k"])
    assert [str(cell) for cell in kept.cells()] == ["ml-100k ease seed 0"]
    assert len(list(suite.only(["ease"]).cells())) == 2
    with pytest.raises(NotFoundError, match=r"suite tiny has no dataset 'ml-100'; did you mean 'ml-100k'\?"):
        suite.only(datasets=["ml-100"])


def test_rows_that_need_no_training_stay_whatever_the_seeds(suite_file, suite_text):
    trained = "  - {name: sasrec, configs: [model/sasrec], seeds: [0, 2]}\n"
    trained += "  - {name: diffrec, configs: [model/diffrec], seeds: [0, 3]}\n"
    suite = load_suite(suite_file(suite_text + trained))
    cells = [(cell.model.name, cell.seed) for cell in suite.only([], [3]).cells()]
    baselines = [("popularity", 0), ("markov", 0), ("markov", 1), ("item-knn", 0), ("ease", 0)]
    assert cells == [*baselines, ("diffrec", 3)]
    for names, seeds, there in (([], [7], "0, 2, 3"), (["sasrec"], [3], "0, 2"), (["sasrec", "ease"], [0, 1], "0, 2")):
        with pytest.raises(UsageError, match=rf"no seed {max(seeds)} for these models; there are: {there}$"):
            suite.only(names, seeds)


def test_reasons_for_missing_rows_are_read_and_checked(suite_file):
    rows = "  - {name: ease, configs: [x]}\n"
    assert load_suite(suite_file(HEAD + rows)).without == {}
    assert load_suite(suite_file(HEAD + rows + "without: {sasrec: needs a day}\n")).without == {"sasrec": "needs a day"}
    for line in ("{ease: is there}", "{sasrek: misspelt}", "{sasrec: ' '}"):
        with pytest.raises(UsageError, match=r"without may give reasons for popularity, .*, sasrec; got"):
            load_suite(suite_file(f"{HEAD}{rows}without: {line}\n"))
    with pytest.raises(UsageError, match=r"without.sasrec must be text, got 3"):
        load_suite(suite_file(HEAD + rows + "without: {sasrec: 3}\n"))


def test_an_unknown_suite_names_the_near_match():
    with pytest.raises(NotFoundError, match=r"no suite 'quikc'; there are: .*quick.*did you mean 'quick'\?"):
        find_suite("quikc")


@pytest.mark.parametrize("name", sorted(path.stem for path in (resource_dir("benchmarks") / "suites").glob("*.yaml")))
def test_every_suite_that_ships_has_valid_configurations_and_its_baselines(name, tmp_path):
    suite = load_suite(find_suite(name))
    assert suite.name == name
    assert set(plan(suite, tmp_path).values()) == {None}
    everywhere = {model.name for model in suite.models if not model.only}
    assert REQUIRED.keys() - everywhere == suite.without.keys()
    assert all(re.fullmatch(r"[\w.-]+@\d+", dataset.protocol) for dataset in suite.datasets)


WITHOUT_DIFFUSION = {"noise-off", "conditioner-only", "one-step"}


@pytest.mark.parametrize(
    "name",
    [
        "quick",
        "collaborative",
        "collaborative-random",
        "collaborative-wval",
        "sequential",
        "sequential-unmasked",
        "semantic-id",
        "text",
        "temporal",
    ],
)
def test_rows_stand_beside_what_tells_what_diffusion_adds(name):
    """Where the suite compares models: `demo` and `every-model` do not. Students have one step as they are."""
    for row in load_suite(find_suite(name)).models:
        if row.control_of is None and not row.name.endswith("-student"):
            assert set(row.controls) >= WITHOUT_DIFFUSION & controls(row.configs).keys(), row.name
