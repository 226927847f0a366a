"""The sampler of a saved diffusion model is the one it had, and a forged one is refused."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler

from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.schedulers import scheduler_class
from diffrec.errors import IntegrityError, UsageError
from diffrec.models import DiffRec, DiffuRec, DreamRec, FlowCF, PreferDiff, RuleBridge
from diffrec.zoo import load, save
from diffrec.zoo.entry import CONFIG, manifest_bytes

HISTORIES = torch.tensor([[1, 2, 3, 0], [12, 7, 18, 4], [9, 0, 0, 0]])


def dreamrec(**arguments):
    torch.manual_seed(0)
    return DreamRec(20, embedding_size=8, num_train_timesteps=12, **arguments).eval()


def same_lists(model, other):
    mine, theirs = (m.recommend(HISTORIES, k=10, seed=1) for m in (model, other))
    return torch.equal(mine.items, theirs.items) and torch.equal(mine.scores, theirs.scores)


def sampling(folder):
    return json.loads((folder / CONFIG).read_text())["sampling"]


def test_the_sampler_as_it_was_built(tmp_path):
    folder = save(dreamrec(guidance_scale=2.0), tmp_path / "entry")
    assert sampling(folder) == {
        "num_inference_steps": None,
        "guidance_scale": 2.0,
        "stochastic": True,
        "scheduler": {"class": "DDIMScheduler", "settings": {"clip_sample": False}},
    }
    assert same_lists(load(folder), dreamrec(guidance_scale=2.0))


def test_a_sampler_changed_after_construction_comes_back(tmp_path):
    model = dreamrec()
    model.scheduler = DPMSolverMultistepScheduler.from_config(model.scheduler.config, solver_order=3)
    model.num_inference_steps, model.guidance_scale, model.stochastic = 5, 1.5, False
    model.eta, model.num_samples = 0.5, 3
    assert not same_lists(model, dreamrec())
    loaded = load(save(model, tmp_path / "entry"))
    assert same_lists(loaded, model)
    assert (loaded.num_inference_steps, loaded.guidance_scale, loaded.stochastic) == (5, 1.5, False)
    assert (loaded.eta, loaded.num_samples) == (0.5, 3)
    assert loaded.scheduler.config["solver_order"] == 3
    assert loaded.init_args == model.init_args
    again = save(loaded, tmp_path / "again")
    assert (again / CONFIG).read_bytes() == (tmp_path / "entry" / CONFIG).read_bytes()


def test_the_hidden_width_takes_another_scheduler_too(tmp_path):
    model = DiffRec(20, dims=(6,), noise_scale=0.1, noise_min=0.01, noise_max=0.5).eval()
    model.scheduler, model.stochastic = HeunDiscreteScheduler.from_config(model.scheduler.config), True
    loaded = load(save(model, tmp_path / "entry"))
    assert same_lists(loaded, model)
    assert loaded.denoiser_calls == model.denoiser_calls == 9


def test_a_process_with_steps_of_its_own_has_no_scheduler(tmp_path):
    model = FlowCF(20, dims=(6,)).eval()
    model.process.frequency.copy_(torch.linspace(0, 1, 20))
    model.num_inference_steps, model.stochastic = 5, True
    folder = save(model, tmp_path / "entry")
    expected = {"num_inference_steps": 5, "guidance_scale": 1.0, "stochastic": True, "scheduler": None}
    assert sampling(folder) == expected
    loaded = load(folder)
    assert same_lists(loaded, model)
    assert torch.equal(loaded.process.frequency, model.process.frequency)
    forge(folder, lambda config: config["sampling"].update(scheduler={"class": "DDIMScheduler", "settings": {}}))
    with pytest.raises(IntegrityError, match="scheduler must be null for FlowCF"):
        load(folder)
    forge(folder, lambda config: config["sampling"].update(scheduler=None, eta=0.5))
    with pytest.raises(IntegrityError, match="FlowCF has steps of its own and takes no eta"):
        load(folder)


def test_averaged_samples_follow_one_another(tmp_path):
    """Sample k of a request is what it draws after k - 1 others."""
    model = dreamrec()
    noise = RequestNoise.from_history(HISTORIES)
    one_by_one = torch.stack([model.score(HISTORIES, noise=noise) for _ in range(3)]).mean(0)
    calls = model.denoiser_calls
    model.num_samples = 3
    torch.testing.assert_close(model.score(HISTORIES), one_by_one)
    assert model.denoiser_calls == 3 * calls


def test_eta_0_takes_the_noise_of_the_steps_out():
    model, other = dreamrec(), dreamrec()
    model.eta = other.eta = 0.0
    other.stochastic = False
    assert same_lists(model, other)
    assert not same_lists(model, dreamrec())


MODELS = {
    DreamRec: {"embedding_size": 8, "num_train_timesteps": 12},
    PreferDiff: {"embedding_size": 8, "num_train_timesteps": 12, "num_inference_steps": 12},
    DiffuRec: {"embedding_size": 8, "num_train_timesteps": 12, "num_blocks": 1},
}


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
     "HeunDiscreteScheduler"],
)  # fmt: skip
def test_any_solver_takes_any_number_of_steps_and_comes_near_the_others(cls, name, tmp_path):
    """The probability flow has one end, which all come near in many steps; its noise-free DDIM is the reference."""
    torch.manual_seed(0)
    model = cls(20, **MODELS[cls]).eval()
    model.num_inference_steps, model.eta = None, 0.0
    if model.takes_guidance:
        model.guidance_scale = 1.2
    reference = model.score(HISTORIES)
    model.scheduler = scheduler_class(name).from_config(model.scheduler.config)
    for steps in (1, 2, 5, None):
        model.num_inference_steps = steps
        scores = model.score(HISTORIES)
        assert torch.isfinite(scores).all()
    near = torch.corrcoef(torch.stack([scores.flatten(), reference.flatten()]))[0, 1]
    assert near > 0.9
    assert same_lists(load(save(model, tmp_path / "entry")), model)


def renamed(name):
    return type(name, (DPMSolverMultistepScheduler,), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "scheduler", renamed("DDIMScheduler")()), "DDIMScheduler is not that of diffusers"),
        (lambda m: setattr(m, "guidance_scale", float("inf")), "inf is not a finite number"),
    ],
)  # fmt: skip
def test_a_sampler_that_cannot_be_kept_is_named(change, message, tmp_path):
    model = dreamrec()
    change(model)
    with pytest.raises(UsageError, match=message):
        save(model, tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


FORGED = {
    "a class of elsewhere": (lambda s: s["scheduler"].update({"class": "os.system"}), r"no scheduler 'os\.system'"),
    "another class of diffusers": (
        lambda s: s["scheduler"].update({"class": "DDPMScheduler"}), "did you mean 'DDIMScheduler'"),
    "a class with its module": (
        lambda s: s["scheduler"].update({"class": "diffusers.DDIMScheduler"}), "no scheduler 'diffusers.DDIM"),
    "an unknown setting": (lambda s: s["scheduler"]["settings"].update(order=3), "has no argument 'order'"),
    "a setting of the process": (
        lambda s: s["scheduler"]["settings"].update(num_train_timesteps=9), "no setting of DDIMScheduler"),
    "text for a bool": (lambda s: s["scheduler"]["settings"].update(clip_sample="no"), "clip_sample cannot be 'no'"),
    "an object for a number": (
        lambda s: s["scheduler"]["settings"].update(steps_offset={"class": "os.system"}), "steps_offset cannot be"),
    "an extra key": (lambda s: s.update(callback="os.system"), "unexpected or missing"),
    "no scheduler": (lambda s: s.update(scheduler=None), "scheduler must be an object for"),
    "a scheduler by name only": (lambda s: s.update(scheduler="DDIMScheduler"), "scheduler has the wrong type str"),
    "noise that grows": (lambda s: s.update(eta=1.5), r"eta must lie from 0 to 1, got 1\.5"),
    "no samples": (lambda s: s.update(num_samples=0), "num_samples must be a whole number from 1, got 0"),
    "too many steps": (lambda s: s.update(num_inference_steps=13), r"must be a whole number in 1\.\.12, got 13"),
    "no steps": (lambda s: s.update(num_inference_steps=0), r"must be a whole number in 1\.\.12, got 0"),
    "a guidance in words": (lambda s: s.update(guidance_scale="3"), "guidance_scale has the wrong type str"),
    "a number for a bool": (lambda s: s.update(stochastic=1), "stochastic has the wrong type int"),
}  # fmt: skip


def forge(folder, change):
    """Change the configuration and make the manifest fit."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    (folder / "manifest.json").write_bytes(manifest_bytes(files))


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_sampler_is_refused(case, tmp_path):
    folder = save(dreamrec(), tmp_path / "entry")
    change, message = FORGED[case]
    forge(folder, lambda config: change(config["sampling"]))
    with pytest.raises(IntegrityError, match=message):
        load(folder)


def test_only_diffusion_models_have_a_sampler(tmp_path, popularity):
    folder = save(popularity, tmp_path / "popularity")
    assert sampling(folder) is None
    forge(folder, lambda config: config.update(sampling={}))
    with pytest.raises(IntegrityError, match="sampling must be null, for Popularity is no diffusion model"):
        load(folder)
    folder = save(dreamrec(), tmp_path / "dreamrec")
    forge(folder, lambda config: config.update(sampling=None))
    with pytest.raises(IntegrityError, match="sampling must be an object, got NoneType"):
        load(folder)


@pytest.mark.parametrize(("steps", "draws"), [(2, 3), (None, 0)])
def test_a_bridge_keeps_its_walk(steps, draws, tmp_path):
    model = RuleBridge(20, embedding_size=8).eval()
    model.num_inference_steps, model.num_draws = steps, draws
    folder = save(model, tmp_path / "entry")
    assert sampling(folder) == {"num_inference_steps": steps, "num_draws": draws}
    loaded = load(folder)
    assert loaded.denoiser_calls == model.denoiser_calls
    assert same_lists(loaded, model)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "num_inference_steps",
            5,
            "sampling cannot be used: num_inference_steps must be a whole number in 1..4, got 5",
        ),
        ("num_draws", -1, "sampling cannot be used: num_draws must be a whole number from 0, got -1"),
        ("num_draws", None, "num_draws"),
        ("guidance_scale", 1.0, "guidance_scale"),
    ],
)
def test_a_forged_walk_is_refused(name, value, message, tmp_path):
    folder = save(RuleBridge(20, embedding_size=8).eval(), tmp_path / "entry")
    forge(folder, lambda config: config["sampling"].update({name: value}))
    with pytest.raises(IntegrityError, match=message):
        load(folder)
