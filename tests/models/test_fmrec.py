"""FMRec against its official code: network, times, losses and the walk of the original; and its walks by schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchHeunDiscreteScheduler

from diffrec.data.batch import Batch
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.timesteps import FlowTimes, TimestepDraw
from diffrec.errors import UsageError
from diffrec.models import FMRec
from diffrec.models.fmrec import balanced_error
from diffrec.nn.cross_entropy import cross_entropy_over_items

SMALL = {"embedding_size": 8, "num_blocks": 2, "max_history_length": 7, "decoder_dims": [12]}


@pytest.fixture
def arrays(golden):
    return golden("fmrec")


@pytest.fixture
def model(arrays, load_network):
    """With the original's mask and walk; its decoder has a column for padding, ours has none."""
    last = {f"aux.fc2.{kind}": arrays[f"net.aux.fc2.{kind}"][1:] for kind in ("weight", "bias")}
    model = FMRec(18, **SMALL, fidelity="original").eval()
    return load_network(model, arrays, {"block": "denoiser.blocks"}, **last)


@pytest.fixture
def history(arrays, from_the_right):
    return from_the_right(arrays["items"])


def test_times(arrays, close):
    for name, scale in (("mode", 1.0), ("cosmap", 1.0)):
        close(1 - FlowTimes(name, scale).placed(arrays["t.u"]), arrays[f"t.{name}"], 1e-5, 1e-6)
    # theirs is sigmoid(1 + .6 z); ours has no shift, so z is given the one that makes it so
    z = arrays["t.u"] + 1 / 0.6
    close(1 - FlowTimes("logit_normal", 0.6).placed(z), arrays["t.logit_normal"], 1e-5, 1e-6)


def test_the_path(model, arrays, close):
    t = model.timesteps.placed(arrays["train.u"])
    close(1 - t, arrays["train.t"], 1e-5, 1e-6)
    noised = model.process.corrupt(model.space.encode(arrays["target"]), t, arrays["train.z0"])
    close(noised.x_t, arrays["train.xt"], 1e-5, 1e-6)


@pytest.mark.parametrize("name", ["small", "big"])
def test_network_and_losses(model, arrays, history, shifted, close, name):
    strength = shifted(arrays[f"lambda_{name}"], history)
    slots = model.conditioner(history, model.space.encode)
    t, target = 1 - arrays["train.t"], arrays["target"]
    states = model.denoiser.last_states(arrays["train.xt"], t, slots, strength)
    x0 = model.denoiser.output(states[-1])
    close(x0, arrays[f"train.{name}.x1_hat"])
    ce, mse, _ = arrays[f"train.{name}.losses"]
    close(cross_entropy_over_items(x0, model.table, target), ce)
    close(model.objective(x0, model.process.corrupt(model.space.encode(target), t)).mean(), mse)
    if name == "big":
        close(x0, arrays["fwd.out"])
        close(model.decoded(states[0]), arrays["fwd.aux_logits"][:, 1:])


def test_the_decoder_is_compared_with_as_many_zeros_as_ones(arrays, close, monkeypatch):
    """Their column 0, which is no item, is made an item here."""
    items = torch.where(arrays["items"] > 0, arrays["items"] + 1, 0)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: arrays["train.zero_choice"])
    close(balanced_error(arrays["fwd.aux_logits"], items), arrays["train.big.losses"][2])


def test_the_zeros_are_drawn_from_what_nobody_holds():
    torch.manual_seed(0)
    history = torch.tensor([[1, 2, 2], [5, 0, 0]])
    right = torch.zeros(2, 6)
    right[0, :2], right[1, 4] = 1.0, 1.0
    assert balanced_error(right, history) == 0
    seen = torch.stack([balanced_error(1 - right, history) * 12 for _ in range(200)])
    assert set(seen.round().int().tolist()) == {4, 5, 6}  # three ones, and one to three different zeros


@pytest.mark.parametrize(("name", "mean", "std"), [("small", 1e-3, 1e-3), ("big", 0.5, 0.2)])
def test_the_walk_of_the_original(model, arrays, history, close, name, mean, std):
    model.denoiser.lambda_mean, model.denoiser.lambda_std = mean, std
    core = iter(arrays["euler.lambda_core"])
    denoiser = model.denoiser.drawing(lambda length, size: next(core).expand(-1, length, size))
    slots = model.conditioner(history, model.space.encode)
    x = sample(lambda x, t: denoiser(x, t, slots), model.process, arrays["euler.z0"], num_inference_steps=30)
    close(x, arrays[f"euler.{name}.x"], 1e-3, 1e-4)
    close(model.space.score(x), arrays[f"euler.{name}.scores"][:, 1:], 1e-3, 1e-3)


def test_training_adds_the_three_losses(model, arrays, history, shifted, close, monkeypatch):
    model.denoiser.lambda_mean, model.denoiser.lambda_std = 0.0, 1.0
    monkeypatch.setattr(torch, "randn", lambda *_, **__: shifted(arrays["lambda_big"], history))
    monkeypatch.setattr(torch, "randn_like", lambda _: arrays["train.z0"])
    monkeypatch.setattr(model.timesteps, "draw", lambda *_: TimestepDraw(1 - arrays["train.t"], torch.ones(5)))
    batch = Batch(history, arrays["target"][:, None])
    _, mse, _ = arrays["train.big.losses"]
    x0 = arrays["train.big.x1_hat"]
    ce = cross_entropy_over_items(x0, model.table[1:], arrays["target"] - 1)
    torch.manual_seed(3)
    aux = balanced_error(arrays["fwd.aux_logits"][:, 1:], history)
    torch.manual_seed(3)
    close(model.training_loss(batch), mse + 0.2 * ce + 0.4 * aux)
    model.decoder = None
    close(model.training_loss(batch), mse + 0.2 * ce)


def test_any_number_of_steps_and_either_scheduler():
    torch.manual_seed(0)
    model = FMRec(18, **SMALL, lambda_mean=0.5, lambda_std=0.0, num_inference_steps=40).eval()
    history = torch.randint(1, 19, (16, 7))
    fine = model.score(history)
    assert model.denoiser_calls == 40
    errors = {}
    for heun in (False, True):
        model.scheduler = FlowMatchHeunDiscreteScheduler() if heun else FMRec(18, **SMALL).scheduler
        for steps in (1, 4, 2000):
            model.num_inference_steps = steps
            if steps == 2000:
                assert model.denoiser_calls == (3999 if heun else 2000)
                continue
            assert model.denoiser_calls == (2 * steps - 1 if heun else steps)
            errors[heun, steps] = (model.score(history) - fine).norm() / fine.norm()
    assert errors[False, 4] < errors[False, 1]
    assert errors[True, 4] < errors[False, 4]
    with pytest.raises(UsageError, match="DDIMScheduler cannot be used"):
        model.scheduler = DDIMScheduler()


def test_a_tied_decoder_has_no_weights_of_items():
    torch.manual_seed(0)
    model = FMRec(5000, **SMALL, tied_decoder=True)
    assert model.decoded(torch.randn(3, 8)).shape == (3, 5000)
    assert sum(p.numel() for p in model.decoder.parameters()) < 1000


@pytest.mark.parametrize("dims", [[0], [12, -2]])
def test_sizes_of_the_decoder_are_positive(dims):
    with pytest.raises(UsageError, match=r"^decoder_dims must be .*, got "):
        FMRec(18, decoder_dims=dims)
