"""DiffuRec against its official code: schedule, network under both masks, reverse loop, loss and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.schedules import truncated_linear
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.models import DiffuRec
from diffrec.nn.cross_entropy import cross_entropy_over_items

SMALL = {"embedding_size": 8, "num_blocks": 2, "num_heads": 4, "max_history_length": 8}


@pytest.fixture
def arrays(golden):
    return golden("diffurec")


@pytest.fixture
def model(arrays, load_network):
    """With the original's mask, for its numbers."""
    return load_network(DiffuRec(21, **SMALL, fidelity="original").eval(), arrays, {"block": "denoiser.blocks"})


@pytest.fixture
def history(arrays, from_the_right):
    """Their histories are padded on the left."""
    return from_the_right(arrays["items"])


@pytest.mark.parametrize("steps", [15, 32])
def test_schedule(arrays, steps, close):
    prefix = f"sched.trunc_lin{steps}."
    process = GaussianProcess(truncated_linear(steps), variance_type="fixed_large")
    close(torch.from_numpy(process.betas), arrays[prefix + "betas"], 1e-12, 0)
    close(process.alphas_cumprod, arrays[prefix + "alphas_cumprod"], 1e-12, 0)
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    for coefficient, output, state in (("coef1", one, zero), ("coef2", zero, one)):
        reverse = process.reverse_steps()
        got = torch.cat([reverse.step(output, state, place, None) for place in range(steps)])[:, 0].flip(0)
        close(got, arrays[f"{prefix}posterior_mean_{coefficient}"], 1e-9, 1e-12)
    reverse = process.reverse_steps()
    deviations = torch.cat([reverse.step(zero, zero, place, lambda: one) for place in range(steps - 1)])[:, 0].flip(0)
    close(2 * deviations.log(), arrays[prefix + "log_variance"][1:], 1e-9, 1e-9)


def test_slots_of_the_history(model, arrays, history, shifted, close):
    slots = model.conditioner(history, model.space.encode)
    close(slots[..., :-1], shifted(arrays["item_rep"], history), 2e-5, 2e-6)
    assert torch.equal(slots[..., -1], shifted(arrays["mask"][..., None], history)[..., 0])


@pytest.mark.parametrize("name", ["small", "big", "const", "zero"])
def test_network(model, arrays, history, name, shifted, close):
    constant = {"const": torch.full((1, 1, 1), 0.001), "zero": torch.zeros(1, 1, 1)}
    strength = constant[name] if name in constant else shifted(arrays[f"fwd.lambda_{name}"], history)
    slots = model.conditioner(history, model.space.encode)
    close(model.denoiser.denoise(arrays["fwd.x_t"], arrays["fwd.t"], slots, strength), arrays[f"fwd.out_{name}"])


@pytest.mark.parametrize(("name", "mean", "std"), [("small", 1e-3, 1e-3), ("big", 0.4, 0.2), ("const", 1e-3, 0.0)])
def test_reverse_loop(model, arrays, history, name, mean, std, close):
    model.denoiser.lambda_mean, model.denoiser.lambda_std = mean, std
    core, noise = iter(arrays["rev.lambda_core"]), iter(arrays["rev.noise"])
    denoiser = model.denoiser.drawing(lambda length, size: next(core).expand(-1, length, size))
    slots = model.conditioner(history, model.space.encode)
    path = []

    def watched(x, t):
        path.append(x)
        return denoiser(x, t, slots)

    x = sample(watched, model.process, arrays["rev.x_T"], noise=lambda size: next(noise))
    close(torch.stack(path[1::4]), arrays[f"rev.{name}.path"], 1e-3, 1e-4)
    close(x, arrays[f"rev.{name}.x"], 1e-3, 1e-4)
    close(model.space.score(x), arrays[f"rev.{name}.scores"][:, 1:], 1e-3, 1e-3)


@pytest.mark.parametrize("name", ["small", "big"])
def test_loss_and_gradients(model, arrays, history, name, shifted, close):
    """Theirs has padding among the classes."""
    noised = model.process.corrupt(model.space.encode(arrays["target"]), arrays["loss.t"], arrays["loss.noise"])
    close(noised.x_t, arrays["loss.xt"])
    slots = model.conditioner(history, model.space.encode)
    x0 = model.denoiser.denoise(noised.x_t, noised.t, slots, shifted(arrays[f"fwd.lambda_{name}"], history))
    close(x0, arrays[f"loss.{name}.x0_hat"])
    loss = cross_entropy_over_items(x0, model.space.table.weight, arrays["target"])
    close(loss, arrays[f"loss.{name}.value"][0])
    loss.backward()
    close(model.space.table.weight.grad, arrays[f"loss.{name}.grad_item_table"])


def test_training_compares_with_all_items_but_padding(model, arrays, history, monkeypatch, shifted, close):
    model.denoiser.lambda_mean, model.denoiser.lambda_std = 0.0, 1.0
    monkeypatch.setattr(torch, "randn", lambda *_, **__: shifted(arrays["fwd.lambda_big"], history))
    monkeypatch.setattr(torch, "randn_like", lambda _: arrays["loss.noise"])
    monkeypatch.setattr(model.timesteps, "draw", lambda *_: TimestepDraw(arrays["loss.t"], torch.ones(5)))
    loss = model.training_loss(Batch(history, arrays["target"][:, None]))
    logits = arrays["loss.big.x0_hat"] @ model.space.table.weight[1:].T
    close(loss, cross_entropy(logits, arrays["target"] - 1))


def test_padding_is_read_by_the_original_only(history):
    torch.manual_seed(0)
    for fidelity, read in (("fixed", False), ("original", True)):
        model = DiffuRec(21, **SMALL, fidelity=fidelity).eval()
        before = model.score(history)
        with torch.no_grad():
            model.space.table.weight[0] += torch.arange(8.0)
        assert torch.equal(model.score(history), before) != read


@pytest.mark.parametrize(("fidelity", "dropped"), [("fixed", 0.0), ("original", 0.5)])
def test_the_original_drops_what_a_block_passes_on_too(fidelity, dropped):
    torch.manual_seed(0)
    block = DiffuRec(21, **{**SMALL, "dropout": 0.5}, fidelity=fidelity).train().denoiser.blocks[0]
    width = block.norm_feed.normalized_shape[0]
    passed = block(torch.randn(50, 4, width), torch.ones(50, 4, dtype=torch.bool))
    assert abs(float((passed == 0).float().mean()) - dropped) < 0.05


def test_lambda_belongs_to_the_request(close):
    torch.manual_seed(0)
    model = DiffuRec(21, **SMALL, lambda_mean=0.5, lambda_std=0.5, num_inference_steps=1).eval()
    model.stochastic = False
    history = torch.tensor([[3, 7, 0], [5, 0, 0], [1, 2, 9]])
    noise = RequestNoise.from_keys(torch.tensor([4, 8, 15]))
    scores = model.score(history, noise=noise.take(torch.arange(3)))
    close(model.score(history[[1]][:, :1], noise=noise.take(torch.tensor([1])))[0], scores[1])
    x = model.process.prior((8,), noise.take(torch.arange(3)))
    slots = model.conditioner(history, model.space.encode)
    fixed = model.denoiser.denoise(x, torch.tensor([31]), slots, torch.full((1, 1, 1), 0.5))
    assert not torch.allclose(model.space.score(fixed), scores, rtol=0.01)


def test_the_learning_rate_falls_by_epochs(monkeypatch):
    model = DiffuRec(21, **SMALL, lr=0.5, lr_decay_epochs=3)
    optimizer = model.configure_optimizers()
    monkeypatch.setattr(DiffuRec, "trainer", type("Trainer", (), {"optimizers": [optimizer]}))
    rates = []
    for epoch in range(7):
        monkeypatch.setattr(DiffuRec, "current_epoch", epoch)
        model.on_train_epoch_start()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005])
