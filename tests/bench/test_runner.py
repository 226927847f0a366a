from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from diffrec.bench import lock, runner
from diffrec.bench.leaderboard import leaderboard
from diffrec.bench.lock import holding
from diffrec.bench.rerun import _about_the_model, trained_again, training_findings
from diffrec.bench.result import TIMINGS, ranks_path, read_result, read_results, write_result
from diffrec.bench.runner import Folders, Outdated, plan, run_cell, run_suite
from diffrec.bench.suite import load_suite
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.sources import load_dataset
from diffrec.data.splits import leave_one_out
from diffrec.errors import IntegrityError, NotFoundError, UsageError


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path / "results", tmp_path / "runs")


@pytest.fixture(scope="module")
def once(tmp_path_factory, suite_text):
    """The results of the tiny suite, run once for this module."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "tiny.yaml").write_text(suite_text)
    return run_suite(load_suite(folder / "tiny.yaml"), Folders(folder / "results", folder / "runs")), folder / "results"


@pytest.fixture
def ran(once, folders):
    """Folders in which the tiny suite has run already."""
    shutil.copytree(once[1], folders.results)
    return folders


def names(outcomes, **wanted):
    """The cells of the outcomes whose fields are as wanted."""
    return [str(o.cell) for o in outcomes if all(getattr(o, key) == value for key, value in wanted.items())]


def files(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.json")}


def test_a_suite_leaves_one_valid_record_a_cell(once):
    outcomes, folder = once
    assert [o.error for o in outcomes] == [None] * 5
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        f"tiny/synthetic/{run}{end}"
        for run in ("ease/seed0", "item-knn/seed0", "markov/seed0", "markov/seed1", "popularity/seed0")
        for end in (".json", ".ranks.parquet")
    ]
    assert [o.result for o in outcomes] == [read_result(folder / o.cell.path) for o in outcomes]
    (table,) = leaderboard(read_results(folder))
    assert {row.model: row.seeds for row in table.rows}["markov"] == (0, 1)
    assert {row.model: row.metrics["ndcg@10"].spread for row in table.rows}["markov"] == 0  # counting has no seed


def test_the_record_says_what_was_measured(once):
    result, dataset = once[0][0].result, load_dataset("synthetic")
    assert result is not None
    items = dataset.parts["all"].items
    assert (result.dataset_sha256, result.protocol) == (dataset.sha256, "loo-full-masked@1")
    assert result.split_counts == {
        "users": 200,
        "items": 100,
        "interactions": len(items.values),
        "train_sequences": 200,
        "train_interactions": len(items.values) - 400,
        "valid_users": 200,
        "test_users": 200,
        "test_targets": 200,
        "cold_test_targets": 0,
    }
    assert (result.role, result.parameters, result.denoiser_calls, result.device) == ("training-free", 100, 1, "cpu")
    # the metric again, by a loop over users: rank of the last item by the count of the others' training items
    counts = np.bincount(items.drop_last(2).values, minlength=101)[1:].astype(float)
    gains = []
    for user in range(200):
        *seen, target = items[user] - 1
        candidates = np.delete(np.arange(100), seen)
        others = counts[candidates[candidates != target]]
        rank = 1 + (others > counts[target]).sum() + (others == counts[target]).sum() / 2
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0)
    assert result.metrics["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-12)
    assert result.bounds.pessimistic < result.metrics["ndcg@10"] < result.bounds.optimistic
    assert result.selection.metric == "ndcg@10"
    assert result.selection.value == pytest.approx(result.validation["ndcg@10"], abs=1e-6)
    assert set(result.ms_per_user) == {"1", "200"}
    assert all(value > 0 for value in (*result.ms_per_user.values(), result.evaluate_seconds, result.train_seconds))
    assert 50 < result.peak_memory_mib < 20_000


def test_a_second_run_does_nothing(suite_file, ran):
    before = files(ran.results)
    lines: list[str] = []
    outcomes = run_suite(
        load_suite(suite_file()), ran, report=lines.append, keep=lambda trained: pytest.fail("trained again")
    )
    assert [o.reused for o in outcomes] == [True] * 5
    assert files(ran.results) == before
    assert len(lines) == 5
    assert all(line.endswith(", result was there") for line in lines)


def test_force_runs_again_and_only_timings_differ(suite_file, ran, once):
    suite = load_suite(suite_file()).only(["markov", "ease"], [0])
    lines: list[str] = []
    again = run_suite(suite, ran, force=lambda cell: cell.model.name == "ease", report=lines.append)
    assert names(again, reused=True) == ["synthetic markov seed 0"]
    assert lines[1] == "[2/2] synthetic ease seed 0 ..."
    assert lines[2].startswith("[2/2] synthetic ease seed 0: ndcg@10 .")
    old, new = asdict(once[0][-1].result), asdict(again[1].result)
    different = {key for key in old if old[key] != new[key]}
    assert {"train_seconds", "ms_per_user"} <= different <= set(TIMINGS)


def test_a_run_that_was_killed_goes_on_where_it_stopped(suite_file, folders):
    suite = load_suite(suite_file())
    trained = []

    def kill_after_two(cell_run):
        trained.append(str(cell_run.cell))
        if len(trained) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, folders, keep=kill_after_two)
    outcomes = run_suite(suite, folders, keep=lambda cell_run: trained.append(str(cell_run.cell)))
    assert names(outcomes, reused=True) == trained[:2]
    assert sorted(trained) == sorted(str(cell) for cell in suite.cells())


def test_a_cell_that_another_process_is_at_comes_last_and_is_not_run_again(suite_file, folders, once):
    suite = load_suite(suite_file()).only(["popularity", "markov"])
    popularity, *_ = suite.cells()
    trained, lines, lock = [], [], ExitStack()
    assert lock.enter_context(holding(folders.lock(popularity)))

    def other_process(line):
        lines.append(line)
        if line.startswith("[3/3] synthetic markov seed 1: "):
            shutil.copytree((once[1] / popularity.path).parent, (folders.results / popularity.path).parent)
            lock.close()

    outcomes = run_suite(suite, folders, report=other_process, keep=lambda run: trained.append(run.cell.model.name))
    assert names(outcomes, reused=True) == ["synthetic popularity seed 0"]
    assert trained == ["markov", "markov"]
    assert lines[1].startswith("[1/3] synthetic popularity seed 0: process ")
    assert lines[-1].endswith(", result was there")
    assert not [path for path in folders.results.iterdir() if path.suffix == ".lock"]


def test_a_half_written_file_counts_for_nothing(suite_file, ran):
    path = ran.results / "tiny/synthetic/markov/seed1.json"
    path.rename(path.with_name(".seed1.json.123.part"))
    assert len(read_results(ran.results)) == 4
    assert [str(c) for c, r in plan(load_suite(suite_file()), ran.results).items() if r is None] == [
        "synthetic markov seed 1"
    ]


def test_a_damaged_result_is_named_kept_and_passed_over(suite_file, ran):
    suite = load_suite(suite_file())
    path = ran.results / "tiny/synthetic/markov/seed0.json"
    damaged = path.read_text().replace('"parameters": ', '"parameters": 1')
    path.write_text(damaged)
    outcomes = run_suite(suite, ran)
    (failed,) = [o for o in outcomes if o.error is not None]
    assert failed.error == f"{path} was changed after it was written: its record_sha256 does not match; " + (
        "--force measures it again"
    )
    assert len(names(outcomes, reused=True)) == 4
    assert path.read_text() == damaged
    with pytest.raises(IntegrityError, match=r"markov/seed0\.json was changed"):
        read_results(ran.results)
    assert [o.error for o in run_suite(suite, ran, force=lambda cell: cell == failed.cell)] == [None] * 5


def test_a_changed_configuration_or_version_is_run_again(suite_file, ran):
    text = suite_file().read_text()
    changed = text.replace("configs: [model/ease]", "configs: [model/ease], overrides: [--model.decay=0.5]")
    assert {
        str(c): r for c, r in plan(load_suite(suite_file(changed)), ran.results).items() if isinstance(r, Outdated)
    } == {"synthetic ease seed 0": Outdated("configuration changed")}
    newer = load_suite(suite_file(text.replace("version: 1", "version: 2")))
    assert set(plan(newer, ran.results).values()) == {Outdated("suite version changed")}


def test_a_result_from_before_an_argument_came_stays_valid(suite_file, ran):
    path = ran.results / "tiny/synthetic/ease/seed0.json"
    before = read_result(path)
    arguments = dict(before.config["model"]["init_args"])
    assert arguments.pop("decay") == 1.0  # the default, as if it were new
    config = {**before.config, "model": {**before.config["model"], "init_args": arguments}}
    write_result(replace(before, config=config, config_sha256="e" * 64), ranks_path(path).read_bytes(), ran.results)
    assert read_result(path).config_sha256 == "e" * 64
    assert not [c for c, there in plan(load_suite(suite_file()), ran.results).items() if isinstance(there, Outdated)]


def test_a_changed_dataset_is_loaded_once_and_run_again(suite_file, ran, monkeypatch):
    suite, loaded, lines = load_suite(suite_file()), [], []
    (ran.results / "tiny/synthetic/markov/seed1.json").unlink()
    other = replace(load_dataset("synthetic"), name="other")
    other.__dict__["sha256"] = "f" * 64
    monkeypatch.setattr(runner, "load_dataset", lambda name: loaded.append(name) or other)
    planned = plan(suite, ran.results)
    assert {str(cell): there for cell, there in planned.items()} == {
        "synthetic popularity seed 0": Outdated("dataset changed"),
        "synthetic markov seed 0": Outdated("dataset changed"),
        "synthetic markov seed 1": None,
        "synthetic item-knn seed 0": Outdated("dataset changed"),
        "synthetic ease seed 0": Outdated("dataset changed"),
    }
    assert loaded == ["synthetic"]
    (outcome,) = run_suite(suite.only(["popularity"]), ran, report=lines.append)
    assert not outcome.reused
    assert lines[0] == "[1/1] synthetic popularity seed 0 again, dataset changed ..."


def test_a_dataset_is_not_asked_for_where_no_result_is(suite_file, folders, monkeypatch):
    monkeypatch.setattr(runner, "load_dataset", lambda name: pytest.fail("loaded"))
    assert set(plan(load_suite(suite_file()), folders.results).values()) == {None}


def test_a_result_whose_dataset_is_gone_is_an_error_of_its_cell(suite_file, ran, monkeypatch):
    def gone(name):
        raise NotFoundError(f"no dataset {name!r}")

    monkeypatch.setattr(runner, "load_dataset", gone)
    (outcome,) = run_suite(load_suite(suite_file()).only(["ease"]), ran)
    path = ran.results / "tiny/synthetic/ease/seed0.json"
    assert outcome.error == f"{path} cannot be compared with its dataset: no dataset 'synthetic'"


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(suite_file, folders):
    text = suite_file().read_text().replace("[model/markov]", "[model/ease], overrides: [--model.regularization=-1.0]")
    outcomes = run_suite(load_suite(suite_file(text)).only(["markov", "popularity"]), folders)
    assert names(outcomes, error=None) == ["synthetic popularity seed 0"]
    failed = [o for o in outcomes if o.error is not None]
    assert len(failed) == 2
    assert "regularization must be a finite number above 0, got -1.0" in (failed[0].error or "")
    log = folders.failures.read_text()
    assert "tiny synthetic markov seed 1" in log
    assert "Traceback" in log
    assert not (folders.results / "tiny/synthetic/markov").exists()


def test_a_wrong_configuration_stops_the_suite_before_it_starts(suite_file, folders):
    text = suite_file().read_text().replace("[model/ease]", "[model/ease], overrides: [--model.regularisation=3]")
    with pytest.raises(UsageError, match=r"regularisation.*did you mean 'regularization'\?"):
        run_suite(load_suite(suite_file(text)), folders)
    assert not folders.results.exists()


def test_a_trained_model_comes_back_with_its_weights_and_curve(suite_file, folders):
    text = suite_file().read_text() + (
        "  - {name: diffrec, configs: [model/diffrec], seeds: [0, 1],"
        " overrides: [--trainer.max_epochs=2, '--model.dims=[8]', --model.lr=1e-2]}\n"
        "  - {name: off, configs: [model/diffrec], control_of: diffrec, overrides: [--trainer.max_epochs=2,"
        " '--model.dims=[8]', --model.num_train_timesteps=1, --model.noise_scale=0.0]}\n"
    )
    cells = {(c.model.name, c.seed): c for c in load_suite(suite_file(text)).cells()}
    trained = run_cell(cells["diffrec", 0], folders.runs)
    result = trained.result
    assert (result.role, result.epochs, result.denoiser_calls, result.seed) == ("model", 2, 5, 0)
    assert result.parameters == sum(p.numel() for p in trained.model.parameters())
    assert not trained.model.training
    assert "valid/ndcg@10" in trained.log.read_text()
    assert not folders.results.exists()
    repeated, other = (run_cell(cells["diffrec", seed], folders.runs).result for seed in (0, 1))
    assert repeated.metrics == result.metrics
    assert other.config_sha256 == result.config_sha256
    assert other.validation != result.validation
    control = run_cell(cells["off", 0], folders.runs).result
    assert (control.role, control.control_of, control.denoiser_calls) == ("control", "diffrec", 1)
    assert control.config_sha256 != result.config_sha256


def test_a_record_counts_where_beams_ended(suite_file, folders):
    text = suite_file().read_text() + (
        "  - {name: maskgr, configs: [model/maskgr], overrides: [--trainer.max_epochs=1, --model.num_levels=3,"
        " --model.codebook_size=32, --model.embedding_size=8, --model.num_blocks=1, --model.num_heads=2,"
        " --model.feed_size=8, --model.num_beams=6]}\n"
    )
    cell = {c.model.name: c for c in load_suite(suite_file(text)).cells()}["maskgr"]
    trained = run_cell(cell, folders.runs)
    decoding = trained.result.decoding
    assert decoding is not None
    assert decoding.beams is not None
    beams = decoding.beams
    assert (beams.num_beams, beams.constrained, beams.invalid, beams.repeated) == (6, True, 0.0, 0.0)
    assert decoding.colliding == 0  # the last code tells duplicates apart
    assert 0 <= beams.lost < 1
    assert beams.short["5"] < beams.short["10"] == beams.short["20"] == 1.0
    assert not list(training_findings(trained.result, trained_again(trained.result, folders.runs), exact=True))


DECODED = """
  - {name: diffrec, configs: [model/diffrec], overrides: [--trainer.max_epochs=2, '--model.dims=[8]', --model.lr=1e-2]}
  - {name: twice, configs: [model/diffrec], control_of: diffrec, overrides: [--trainer.max_epochs=2,
     '--model.dims=[8]', --model.lr=1e-2, --decoding.num_inference_steps=2, --decoding.scheduler=DDIMScheduler,
     --decoding.eta=0]}
  - {name: wider, configs: [model/diffrec], control_of: diffrec, overrides: [--trainer.max_epochs=2,
     '--model.dims=[8]', --model.lr=1e-2, '--decoding.dims=[9]']}
"""


@pytest.mark.parametrize("order", [["diffrec", "twice"], ["twice", "diffrec"]])
def test_a_control_of_decoding_measures_the_weights_of_its_row(suite_file, folders, order):
    cells = {c.model.name: c for c in load_suite(suite_file(suite_file().read_text() + DECODED)).cells()}
    trained = {name: run_cell(cells[name], folders.runs) for name in order}
    row, control = trained["diffrec"].result, trained["twice"].result
    assert control.weights_sha256 == row.weights_sha256
    assert (control.selection.value, control.epochs) == (row.selection.value, row.epochs)
    assert (row.denoiser_calls, control.denoiser_calls) == (5, 2)
    decoding = {"num_inference_steps": 2, "scheduler": "DDIMScheduler", "eta": 0}
    assert control.config == {**row.config, "decoding": decoding}
    model = trained["twice"].model
    assert (trained["diffrec"].model.eta, model.eta) == (1.0, 0.0)
    assert not list(_about_the_model(control, model, None, exact=True))
    model.set_sampling(eta=0.5)
    assert list(_about_the_model(control, model, None, exact=True)) == [
        "config: eta is 0.0 by decoding, the model has 0.5"
    ]
    assert control.config_sha256 != row.config_sha256
    trainings = list((folders.runs / "tiny/synthetic").rglob("best.ckpt"))
    assert len(trainings) == (1 if order[0] == "diffrec" else 2)  # only a control looks for what is finished
    assert (control.train_seconds == row.train_seconds) == (order[0] == "diffrec")
    assert all(path.is_relative_to(folders.runs / "tiny/synthetic/diffrec/seed0") for path in trainings)
    assert not list(training_findings(control, trained_again(control, folders.runs), exact=True))


def test_a_control_of_decoding_that_changes_the_weights_is_refused(suite_file, folders):
    suite = load_suite(suite_file(suite_file().read_text() + DECODED)).only(["wider"])
    (outcome,) = run_suite(suite, folders)
    assert outcome.error is not None
    told = "--decoding.dims: decoding changes the weights, set dims below model: size mismatch for "
    assert outcome.error.startswith(told)


def test_nobody_else_trains_the_weights_that_a_control_needs(suite_file, folders, monkeypatch):
    suite = load_suite(suite_file(suite_file().read_text() + DECODED)).only(["diffrec", "twice"])
    held, real = {}, runner.run_cell

    def looking(cell, *others):
        held[cell.model.name] = lock.held(folders.lock(suite_cells["diffrec"]))
        return real(cell, *others)

    suite_cells = {c.model.name: c for c in suite.cells()}
    monkeypatch.setattr(runner, "run_cell", looking)
    assert [o.error for o in run_suite(suite, folders)] == [None, None]
    assert held == {"diffrec": True, "twice": True}


def test_a_suite_that_never_validates_says_so(suite_file, folders):
    text = suite_file().read_text() + (
        "  - {name: diffrec, configs: [model/diffrec],"
        " overrides: [--trainer.max_epochs=1, '--model.dims=[8]', --trainer.check_val_every_n_epoch=2]}\n"
    )
    (outcome,) = run_suite(load_suite(suite_file(text)).only(["diffrec"]), folders)
    assert outcome.error == (
        "no epoch of synthetic diffrec seed 0 was validated; lower trainer.check_val_every_n_epoch"
    )


def test_names_of_this_machine_stay_out_of_the_record(once):
    outcomes, folder = once
    for outcome in outcomes:
        text = (folder / outcome.cell.path).read_text()
        assert str(folder.parent) not in text
        assert str(Path.home()) not in text
        assert str(Path.cwd()) not in text


REFIT = """
  - {name: sasrec, configs: [model/sasrec], overrides: [--model.embedding_size=8, --model.lr=1e-2,
     --trainer.max_epochs=4, --trainer.check_val_every_n_epoch=1]}
"""


def test_a_protocol_that_trains_on_validation_has_its_epochs_chosen_by_another(
    suite_file, suite_text, folders, monkeypatch
):
    """The second training sees every item but the test items, for as many epochs, and validates nothing."""

    def with_validation(dataset):
        split = leave_one_out(dataset)
        return replace(split, train=split.test.history)

    before = PROTOCOLS["loo-full-masked@1"]
    again = replace(before, id="loo-refit@1", split=with_validation, selected_by=before.id)
    monkeypatch.setitem(PROTOCOLS, again.id, again)
    suite = load_suite(suite_file(suite_text + REFIT)).only(["sasrec", "markov"], [0])
    refitted = replace(suite, name="refit", datasets=(replace(suite.datasets[0], protocol=again.id),))
    held_out, (closed, trained) = run_suite(suite, folders), run_suite(refitted, folders)
    chosen = next(o.result for o in held_out if o.cell.model.name == "sasrec")
    assert trained.error is closed.error is None
    assert (trained.result.selection, trained.result.epochs) == (chosen.selection, chosen.epochs)
    assert trained.result.split_counts["train_interactions"] == chosen.split_counts["train_interactions"] + 200
    assert trained.result.weights_sha256 != chosen.weights_sha256
    assert trained.result.config["trainer"]["max_epochs"] == 4
    (run,) = (folders.runs / "refit" / "synthetic" / "sasrec" / "seed0").glob("version_*")
    assert len((run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()) == 1 + chosen.selection.epoch
    assert all(outcome.reused for outcome in run_suite(refitted, folders))
