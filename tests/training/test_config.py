"""Composition of configurations, and what their faults are called."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pytorch_lightning.accelerators import MPSAccelerator

from diffrec.diffusion.schedules import Schedule
from diffrec.errors import NotFoundError, UsageError
from diffrec.training.config import compose, controls, find_config, shipped_configs

SMALL = ["model/sasrec", "data/synthetic"]


def test_all_faults_are_reported_at_once_with_file_line_and_near_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        textwrap.dedent(
            """\
            modle: {}
            model:
              class_path: diffrec.models.DreamRec
              init_args:
                embeding_size: 128
                schedule: lineer
                dropout: [1]
            data:
              dataset: synthetic
              batchsize: 3
            trainer:
              max_epoch: 3
              callbacks:
              - class_path: pytorch_lightning.callbacks.EarlyStopping
                init_args: {patiens: 3, monitor: valid/ndgc@10}
            """
        )
    )
    with pytest.raises(UsageError) as caught:
        compose(["mine.yaml"])
    schedules = ", ".join(map(repr, get_args(Schedule)))
    assert sorted(str(caught.value).splitlines()) == [
        "mine.yaml:10: key 'batchsize' is not an argument of diffrec.InteractionDataModule; did you mean 'batch_size'?",
        "mine.yaml:12: key 'max_epoch' is not an argument of pytorch_lightning.Trainer; did you mean 'max_epochs'?",
        "mine.yaml:15: key 'patiens' is not an argument of pytorch_lightning.callbacks.EarlyStopping; "
        "did you mean 'patience'?",
        next(line for line in str(caught.value).splitlines() if "no metric 'valid/ndgc@10'" in line),
        "mine.yaml:1: key 'modle' is not one of seed_everything, model, data, trainer, decoding; did you mean 'model'?",
        "mine.yaml:5: key 'embeding_size' is not an argument of diffrec.models.DreamRec; "
        "did you mean 'embedding_size'?",
        f"mine.yaml:6: schedule must be one of {schedules}, got 'lineer'; did you mean 'linear'?",
        "mine.yaml:7: dropout must be float, got [1]",
    ]
    assert "did you mean 'valid/ndcg@10'?" in str(caught.value)


def test_of_many_faults_the_first_are_listed(tmp_path):
    (tmp_path / "mine.yaml").write_text("model:\n" + "".join(f"- class_path: os.x{i}\n" for i in range(200)))
    with pytest.raises(UsageError) as caught:
        compose([tmp_path / "mine.yaml"])
    *lines, last = str(caught.value).splitlines()
    assert (len(lines), last) == (20, "and more")
    assert all(f"'os.x{i}' is not allowed" in line for i, line in enumerate(lines))


def test_a_value_in_a_message_is_cut():
    with pytest.raises(UsageError, match=r"^--data.batch_size: batch_size must be int, got '[a-z]+\.\.\.$"):
        compose(SMALL, [f"--data.batch_size={'many' * 200}"])


def test_later_files_and_overrides_win(tmp_path):
    (tmp_path / "base.yaml").write_text("data: {dataset: synthetic, batch_size: 1, eval_batch_size: 2}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "top.yaml").write_text("base: [../base.yaml]\ndata: {batch_size: 3}\n")
    config = compose(["model/sasrec", tmp_path / "sub" / "top.yaml"], ["--data.eval_batch_size", "5"])
    assert config["data"] == {"dataset": "synthetic", "batch_size": 3, "eval_batch_size": 5}
    assert compose(SMALL)["trainer"] == yaml.safe_load(shipped_configs()["trainer"].read_text())["trainer"]


def test_overrides_are_short_for_arguments_of_classes():
    words = [
        "--model.embedding_size",
        "128",
        "--model.init_args.lr=1e-2",
        "--trainer.callbacks.EarlyStopping.patience=3",
    ]
    config = compose(SMALL, words)
    assert config["model"]["init_args"]["embedding_size"] == 128
    assert config["model"]["init_args"]["lr"] == 0.01
    callbacks = {
        member["class_path"].rpartition(".")[2]: member["init_args"] for member in config["trainer"]["callbacks"]
    }
    assert callbacks["EarlyStopping"] == {"monitor": "valid/ndcg@10", "mode": "max", "patience": 3}
    assert callbacks["ModelCheckpoint"]["filename"] == "best"
    assert compose(SMALL, ["--model.class_path=diffrec.models.DiffRec", "--model.dims=[8, 4]"])["model"] == {
        "class_path": "diffrec.models.DiffRec",
        "init_args": {"dims": [8, 4]},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.embeding_size=1"], r"--model.embeding_size: key 'embeding_size' .*'embedding_size'"),
        (["--modle.lr=1"], r"--modle.lr: key 'modle' is not one of .*'model'"),
        (["--decoding.dropuot=0.1"], "key 'dropuot' is not an argument .*'dropout'"),
        (["--decoding.num_items=5"], "num_items comes from the dataset"),
        (["--decoding.dropout=[1]"], "--decoding.dropout: dropout must be float"),
        (["--decoding.scheduler=DDIMScheduler"], "key 'scheduler' is not an argument of diffrec.SASRec"),
        (["--decoding=[1]"], "the arguments of decoding must be a mapping"),
        (["--model.lr"], "needs a value"),
        (["--model." + "a." * 3000 + "lr=1"], r"the option '--model\.a\.a.* is nested deeper than 20 levels"),
        (["--model.dims='" + "[" * 60_000 + "'"], r"--model.dims: '\[\[.* has 60,000 characters; a word has 1,000"),
        (["lr=1"], "unexpected word 'lr=1'"),
        (["--model.num_items=5"], "num_items comes from the dataset"),
        (["--trainer.callbacks.EarlyStoping.patience=1"], "did you mean 'EarlyStopping'"),
        (["--model.class_path=os.system"], "'os.system' is not allowed"),
        (["--model.class_path=diffrec.models.SASRek"], "did you mean 'diffrec.models.SASRec'"),
        (["--model.lr=!!python/name:os.system"], "--model.lr: the tag"),
        (["--model.lr=[1"], "--model.lr: this is not YAML"),
        (["--trainer.logger.CSVLogger.save_dir=/tmp"], "--run-dir"),
        (["--data.batch_size=many"], "batch_size must be int, got 'many'"),
    ],
)
def test_wrong_overrides_name_the_option(words, message):
    with pytest.raises(UsageError, match=message):
        compose(SMALL, words)


def test_configurations_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    shipped = shipped_configs()
    assert find_config("dreamrec-ml-100k") == shipped["recipe/dreamrec-ml-100k"]
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/model/ease.yaml") == find_config("model/ease") == shipped["model/ease"]
    own = tmp_path / "dreamrec-ml-100k"
    own.write_text("")
    assert find_config("dreamrec-ml-100k") == Path("dreamrec-ml-100k")
    with pytest.raises(NotFoundError, match="did you mean 'sasrec-ml-100k'"):
        find_config("sasrec-ml100k")
    with pytest.raises(NotFoundError, match="did you mean 'model/sasrec'"):
        find_config("sasrec")


def test_a_missing_base_names_line_and_near_match(tmp_path):
    (tmp_path / "trainer.yaml").write_text("")
    path = tmp_path / "top.yaml"
    path.write_text("seed_everything: 1\nbase: [trainr.yaml]\n")
    with pytest.raises(NotFoundError, match=r"top.yaml:2: no base 'trainr.yaml' .*; did you mean './trainer.yaml'"):
        compose([path])
    path.write_text("base: [sasrec-ml100k]\n")
    with pytest.raises(NotFoundError, match=r"top.yaml:1: no base 'sasrec-ml100k' .*; did you mean 'sasrec-ml-100k'"):
        compose([path])


@pytest.mark.parametrize("name", ["sasrec-ml-100k", "recipe/sasrec-ml-100k", "recipe/sasrec-ml-100k.yaml"])
def test_a_base_may_be_a_shipped_configuration_and_a_file_beside_comes_first(name, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"base: [{name}]\nseed_everything: 7\n")
    assert compose([path]) == {**compose(["sasrec-ml-100k"]), "seed_everything": 7}
    beside = tmp_path / name
    beside.parent.mkdir(exist_ok=True)
    beside.write_text("base: [data/ml-100k, model/ease]\n")
    assert compose([path])["model"]["class_path"] == "diffrec.baselines.EASE"


def test_a_net_of_bases_is_not_followed_forever(tmp_path):
    """Each file names the one below three times: 3^20 readings if nothing stopped it."""
    for level in range(20):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{', '.join([f'{level + 1}.yaml'] * 3)}]\n")
    (tmp_path / "20.yaml").write_text("seed_everything: 1\n")
    with pytest.raises(UsageError, match="more than 50 files"):
        compose([tmp_path / "0.yaml"])


@pytest.mark.parametrize("devices", ["2", "-1", "0", "'2'", "[0]", "[0, 1]"])
def test_more_than_one_device_is_refused(devices):
    with pytest.raises(
        UsageError, match=r"^--trainer\.devices: devices must be 1, for training runs on one device so far"
    ):
        compose(SMALL, [f"--trainer.devices={devices}"])


@pytest.mark.parametrize("devices", ["1", "'1'", "auto"])
def test_one_device_has_three_spellings(devices):
    assert compose(SMALL, [f"--trainer.devices={devices}"])


def test_mps_is_refused_and_so_is_a_gpu_that_would_be_one(monkeypatch):
    compose(SMALL, ["--trainer.accelerator=gpu"])
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    for word in ("mps", "gpu"):
        with pytest.raises(
            UsageError, match=r"accelerator cannot be 'mps', which lacks float64; use cpu, cuda or auto$"
        ):
            compose(SMALL, [f"--trainer.accelerator={word}"])


def test_controls_are_declared_beside_a_model_and_are_no_part_of_its_configuration(tmp_path):
    assert controls(["diffrec-ml1m-clean"])["noise-off"] == ("--model.num_train_timesteps=1", "--model.noise_scale=0.0")
    assert controls(["model/ease"]) == {}
    assert "controls" not in compose(["diffrec-ml1m-clean"])
    own = tmp_path / "own.yaml"
    for text, message in (
        ("[a]", "controls is a mapping such as"),
        ("{a: b}", "a is a list such as"),
        ("{a: [b]}", "unexpected word 'b'"),
        ("{a: []}", "a is a list such as"),
    ):
        own.write_text(f"controls: {text}\n")
        with pytest.raises(UsageError, match=message):
            controls([own])
