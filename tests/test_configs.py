"""Every file in `configs/` passes the guard, and every model and recipe runs a batch of everything."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path

import pytest
import torch
import yaml

from diffrec.baselines import BASELINES
from diffrec.bench.runner import overrides
from diffrec.bench.suite import Cell, find_suite, load_suite
from diffrec.data.protocol import get_protocol
from diffrec.data.ragged import Ragged
from diffrec.models import MODELS
from diffrec.recommender import DiffusionRecommender
from diffrec.training.build import build, decoded
from diffrec.training.config import compose, controls, find_config, shipped_configs
from diffrec.training.fit import fit
from diffrec.zoo import save
from diffrec.zoo.distillation import Distillation

NAMES = sorted(shipped_configs())
KINDS = {
    kind: [name for name in NAMES if name.startswith(f"{kind}/")] for kind in ("model", "data", "recipe", "logger")
}
SMALL_BATCHES = ["--data.batch_size=16", "--data.eval_batch_size=16"]
ON_SYNTHETIC = [
    "--data.dataset=synthetic", "--data.protocol=loo-full-masked@1", "--trainer.fast_dev_run=true", *SMALL_BATCHES
]  # fmt: skip
FEW_STEPS, NARROW = ["--model.num_inference_steps=5"], ["--model.embedding_size=16"]
CLASS_OF = {n: yaml.safe_load(find_config(n).read_text())["model"]["class_path"] for n in KINDS["model"]}
BY_CLASS = {path.partition(":")[2]: name for name, path in {**MODELS, **BASELINES}.items()}
TRIED: set[str] = set()
WITH_RECENCY = ("tdiffrec", "ltdiffrec")  # rows of their own, of the classes DiffRec and LDiffRec


def companions(name: str) -> list[str]:
    """What a file needs beside it to be a whole configuration."""
    kind = name.partition("/")[0]
    return {"recipe": [], "model": ["data/synthetic"], "data": ["model/popularity"]}.get(
        kind, ["model/popularity", "data/synthetic"]
    )


def names_callbacks(path: Path) -> bool:
    """Whether this file, or one that it builds on, chooses by a metric of its own."""
    text = path.read_text()
    below = (yaml.safe_load(text) or {}).get("base", [])
    return "callbacks" in text or any(names_callbacks(path.parent / base) for base in below)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_passes_the_guard(name):
    config = compose([*companions(name), name])
    get_protocol(config["data"]["protocol"])
    assert {"seed_everything", "trainer", "model", "data"} == config.keys()


def test_every_model_and_baseline_has_a_file():
    assert {name.removeprefix("model/") for name in KINDS["model"]} == MODELS.keys() | BASELINES.keys()


@pytest.mark.parametrize("name", KINDS["model"])
def test_a_model_file_states_every_argument(name):
    """Results are told apart by a hash of what is stated, so a default that changed would go unnoticed."""
    model = yaml.safe_load(find_config(name).read_text())["model"]
    arguments = inspect.signature(pydoc.locate(model["class_path"])).parameters
    assert model.get("init_args", {}).keys() == arguments.keys() - {"num_items"}


@pytest.mark.parametrize("name", KINDS["model"] + KINDS["recipe"])
def test_every_model_and_recipe_trains_validates_and_tests(name, tmp_path):
    data = ["data/synthetic"] if name.startswith("model/") else []
    config = compose([name, *data])
    model = config["model"]
    tried = repr((model, config["trainer"]["callbacks"]))
    if tried in TRIED:  # the same for another dataset
        return
    TRIED.add(tried)
    generative = model["class_path"].endswith(("DreamRec", "DiffRec", "PreferDiff", "DiffuRec", "FMRec", "ADRec"))
    arguments = model.get("init_args", {})
    files = [f"--model.{key}=null" for key in ("codes", "item_vectors") if key in arguments]  # are of one dataset
    if "num_beams" in arguments:  # every one of them goes through every block
        files += ["--model.num_beams=4", *(f"--model.{key}=2" for key in arguments if key.endswith("_blocks"))]
    wide = model.get("init_args", {}).get("embedding_size", 0) > 1000
    run = build([name, *data], [*ON_SYNTHETIC, *FEW_STEPS * generative, *NARROW * wide, *files], tmp_path)
    for callback in run.trainer.callbacks:
        if isinstance(callback, Distillation):  # a teacher for this dataset
            callback.name = str(save(run.model, tmp_path / "teacher", dataset=run.data.dataset))
    result = fit(run)
    assert result.metric == f"valid/{run.data.protocol.headline}" or names_callbacks(find_config(name))
    assert result.best is not None
    assert 0 <= result.best <= 1
    (metrics,) = run.trainer.test(run.model, run.data, verbose=False)
    assert 0 <= metrics["test/ndcg@10"] <= 1


@pytest.mark.parametrize("name", KINDS["recipe"])
def test_a_recipe_names_its_model_and_dataset_and_only_what_differs(name):
    """A recipe that repeats a value of its bases hides what is special about it."""
    own = yaml.safe_load(find_config(name).read_text())
    config = compose([name])
    bases = [part.rpartition("/")[2].removesuffix(".yaml") for part in own["base"]]
    model = BY_CLASS[config["model"]["class_path"].rpartition(".")[2]]
    assert model in bases
    row = model if name.startswith(f"recipe/{model}-") else name.removeprefix("recipe/").partition("-")[0]
    assert row == model or (row in WITH_RECENCY and row.replace("t", "", 1) == model)
    assert (row in WITH_RECENCY) == (config["model"]["init_args"].get("recency") is not None)
    below = compose([find_config(name).parent / base for base in own["base"]])
    for part in ("model", "data", "trainer"):
        given = own.get(part, {}).get("init_args", {}) if part == "model" else own.get(part, {})
        known = below[part]["init_args"] if part == "model" else below[part]
        assert not {key for key, value in given.items() if known.get(key) == value and key != "callbacks"}


@pytest.mark.parametrize("name", KINDS["recipe"])
def test_a_recipe_chooses_by_the_headline_metric_of_its_protocol(name):
    config = compose([name])
    if config["trainer"]["max_epochs"] == 1:  # a closed form: there is nothing to choose
        return
    headline = f"valid/{get_protocol(config['data']['protocol']).headline}"
    monitors = [callback["init_args"].get("monitor", headline) for callback in config["trainer"]["callbacks"]]
    assert {*monitors} == {headline}


SEQUENTIAL = [
    cell
    for suite in ("sequential", "sequential-unmasked")
    for cell in load_suite(find_suite(suite)).cells()
    if cell.seed == 0 and not cell.model.twin and not cell.model.configs[0].startswith("model/")
]


@pytest.mark.parametrize("cell", SEQUENTIAL, ids=str)
def test_a_row_of_the_sequential_suites_has_the_settings_of_its_recipe(cell: Cell):
    """What `fit` trains is what the leaderboard shows; protocol and seed are the suite's affair."""
    family, _, rest = cell.dataset.name.partition("_")
    longer = f"recipe/{cell.model.name}-{family}-{rest}"  # where another family has a dataset of that name
    recipe = longer if longer in NAMES else f"{cell.model.name}-{rest}"
    assert compose([recipe])["data"]["dataset"] == cell.dataset.name
    seed = ["--seed_everything=0", "--data.seed=0", f"--data.protocol={cell.dataset.protocol}"]
    assert compose(cell.model.configs, overrides(cell)) == compose([recipe], seed)


def test_every_model_has_a_row_on_movielens_100k():
    """From which the zoo gets an example of it."""
    rows = [model for suite in ("quick", "every-model") for model in load_suite(find_suite(suite)).models]
    shown = {compose(["data/ml-100k", *row.configs])["model"]["class_path"].rpartition(".")[2] for row in rows}
    assert shown == {path.partition(":")[2] for path in {**MODELS, **BASELINES}.values()}


def twin(name, control, tmp_path, words=()):
    """The model of a control on generated data, as it is measured."""
    run = build([name, "data/synthetic"], [*words, *controls([name])[control]], tmp_path)
    return decoded(run.model, run.config)


DIFFUSION = [n for n in KINDS["model"] if issubclass(pydoc.locate(CLASS_OF[n]), DiffusionRecommender)]
FROM_HISTORY = [n for n in DIFFUSION if pydoc.locate(CLASS_OF[n]).examples == "history"]  # others start from noise


@pytest.mark.parametrize("name", FROM_HISTORY)
def test_without_noise_the_network_sees_the_clean_state_once(name, tmp_path):
    model = twin(name, "noise-off", tmp_path)
    x0 = model.space.encode(torch.randint(1, model.num_items + 1, (6, 9)))
    model.prepare(Ragged.from_rows([[1, 2, 3], [2, 3, 4], [1, 5]]))
    for t in range(model.process.num_train_timesteps):
        assert (model.process.corrupt(x0, torch.full((6,), t)).x_t - x0).abs().max() < 1e-6
    assert model.denoiser_calls == model.process.num_train_timesteps == 1


@pytest.mark.parametrize("name", DIFFUSION)
def test_one_step_is_one_step(name, tmp_path):
    model = twin(name, "one-step", tmp_path)
    assert len(model.process.reverse_steps(model.num_inference_steps).timesteps) == 1


@pytest.mark.parametrize("name", ["recipe/dreamrec-ml-100k", "recipe/preferdiff-original-beauty"])
def test_with_the_conditioner_only_the_state_says_nothing_of_the_target(name, tmp_path):
    """And the network is asked once, or once with the history and once without."""
    model = twin(name, "conditioner-only", tmp_path, [*ON_SYNTHETIC, *NARROW])
    x0, noise, t = torch.ones(2, 9), torch.zeros(2, 9), torch.zeros(2, dtype=torch.long)
    assert model.start == "noise"
    assert (model.process.corrupt(x0, t, noise).x_t <= 0.01).all()
    assert model.process.num_train_timesteps == 1
    assert model.denoiser_calls == 2


def test_bspm_without_sharpening_only_blurs(tmp_path):
    assert twin("model/bspm", "noise-off", tmp_path).sharpening_steps == 0


@pytest.mark.real_data
@pytest.mark.parametrize("name", KINDS["data"])
def test_every_dataset_splits_under_its_protocol(name, real_data):
    config = compose([name, "model/popularity"])["data"]
    folder = {"ml-100k": "ml100k"}.get(config["dataset"], config["dataset"])
    if folder in ("synthetic", "ml100k"):
        pytest.skip("needs no folder of DIFFREC_DATA")
    split = get_protocol(config["protocol"]).apply(real_data(folder))
    assert len(split.train) > 900
    assert len(split.valid) > 0
    assert len(split.test) > 0
