"""DreamRec against its official code: encoder, condition, denoiser, guided sampling, loss and gradients."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.diffusion import schedules
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.sampler import Guided, sample
from diffrec.metrics.functional import metrics_from_ranks, target_ranks
from diffrec.models.dreamrec import DreamRec
from diffrec.nn.concat_denoiser import ConcatDenoiser
from diffrec.nn.time_embedding import sine_cosine

RENAMED = {
    "position_table": "conditioner.encoder.position.weight",
    "null_condition": "conditioner.null",
    "norm_in": "conditioner.encoder.norm_in",
    "norm_mid": "conditioner.encoder.norm_mid",
    "norm_out": "conditioner.encoder.norm_out",
    "attn.q": "conditioner.encoder.query",
    "attn.k": "conditioner.encoder.key",
    "attn.v": "conditioner.encoder.value",
    "ffn.fc1": "conditioner.encoder.feed_in",
    "ffn.fc2": "conditioner.encoder.feed_out",
    "ffn.norm": "conditioner.encoder.norm_feed",
    "time.fc1": "denoiser.time.0",
    "time.fc2": "denoiser.time.2",
    "denoise": "denoiser.output.0",
}


def ours(items):
    """Their ids 0..22 with padding 23 become our 1..23 with padding 0."""
    return torch.where(items == 23, 0, items + 1)


@pytest.fixture
def arrays(golden):
    return golden("dreamrec")


@pytest.fixture
def model(arrays):
    model = DreamRec(23, embedding_size=8, num_train_timesteps=500).eval()
    state = {"space.table.weight": arrays["net.item_table"].roll(1, 0)}
    for name, value in arrays.items():
        if name.startswith("net.") and name != "net.item_table":
            stem = max((old for old in RENAMED if name[4:].startswith(old)), key=len)
            state[RENAMED[stem] + name[4 + len(stem) :]] = value
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not missing
    return model


def test_history_encoder(model, arrays):
    """Row 2 is an empty history."""
    condition = model.conditioner(ours(arrays["enc.items"]), model.space.encode)
    torch.testing.assert_close(condition, arrays["enc.h"], rtol=1e-5, atol=1e-5)


def test_dropped_condition(model, arrays):
    dropped = model.conditioner.drop_where(arrays["enc.h"], arrays["cond.uniform"])
    torch.testing.assert_close(dropped, arrays["cond.h"], rtol=0, atol=0)


def test_denoiser(model, arrays):
    x, t = arrays["den.x"], arrays["den.t"]
    torch.testing.assert_close(sine_cosine(t, 8), arrays["den.time_sin"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.denoiser.time(arrays["den.time_sin"]), arrays["den.time"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.denoiser(x, t, arrays["enc.h"]), arrays["den.cond"], rtol=1e-5, atol=1e-5)
    null = model.conditioner.null.expand(6, 8)
    torch.testing.assert_close(model.denoiser(x, t, null), arrays["den.uncond"], rtol=1e-5, atol=1e-5)


def test_denoiser_of_two_layers(arrays):
    denoiser = ConcatDenoiser(8, layers=2)
    names = {"time.fc1": "time.0", "time.fc2": "time.2", "denoise.fc1": "output.0", "denoise.fc2": "output.2"}
    denoiser.load_state_dict(
        {f"{new}.{p}": arrays[f"net_mlp2.{old}.{p}"] for old, new in names.items() for p in ("weight", "bias")}
    )
    output = denoiser(arrays["den.x"], arrays["den.t"], arrays["enc.h"])
    torch.testing.assert_close(output, arrays["den.cond_mlp2"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strength", [2.0, 0.0])
@pytest.mark.parametrize("name", ["linear", "cosine", "exp"])
def test_guided_ancestral_sampling(model, arrays, name, strength):
    """Their tables are float32: the schedule is taken from them so that only the loop is compared."""
    process = GaussianProcess(arrays[f"samp.{name}.betas"].double().numpy())
    ours_betas = {"linear": schedules.linear, "cosine": schedules.cosine, "exp": schedules.exponential}[name](20)
    torch.testing.assert_close(torch.from_numpy(ours_betas), arrays[f"samp.{name}.betas"].double(), rtol=0, atol=6e-5)
    noise = iter(arrays["samp.noise"])
    guided = Guided(model.denoiser, arrays["enc.h"], model.conditioner.null, 1 + strength)
    path = []

    def watched(x, t):
        path.append(x)
        return guided(x, t)

    x = sample(watched, process, next(noise), noise=lambda size: next(noise))
    # their last factor beta_0 / (1 - alpha_bar_0) is 1 in exact arithmetic and up to 2e-4 off in float32
    beta = arrays[f"samp.{name}.betas"][0]
    x = x * (beta / (1 - (1 - beta)))
    states = torch.stack([*path[1:], x])
    scale = arrays[f"samp.{name}.w{strength}.path"].abs().max().item()
    torch.testing.assert_close(states, arrays[f"samp.{name}.w{strength}.path"], rtol=1e-5, atol=1e-5 * max(1, scale))
    torch.testing.assert_close(x, arrays[f"samp.{name}.w{strength}.x"], rtol=1e-5, atol=1e-5 * max(1, scale))
    if (name, strength) == ("linear", 2.0):
        torch.testing.assert_close(model.space.score(x), arrays["samp.scores"][:, :23], rtol=1e-4, atol=1e-4)


def test_loss_and_gradients(model, arrays):
    target = ours(arrays["loss.target"])
    x0 = model.space.encode(target)
    noised = model.process.corrupt(x0, arrays["loss.t"], arrays["loss.noise"])
    torch.testing.assert_close(noised.x_t, arrays["loss.xt"], rtol=1e-5, atol=1e-5)
    condition = model.conditioner.drop_where(
        model.conditioner(ours(arrays["enc.items"]), model.space.encode), arrays["cond.uniform"]
    )
    output = model.denoiser(noised.x_t, noised.t, condition)
    torch.testing.assert_close(output, arrays["loss.pred"], rtol=1e-5, atol=1e-5)
    loss = model.objective(output, noised).mean()
    torch.testing.assert_close(loss, arrays["loss.value"][0], rtol=1e-5, atol=0)
    loss.backward()
    grad = model.space.table.weight.grad.roll(-1, 0)
    torch.testing.assert_close(grad[:23], arrays["loss.grad_item_table"][:23], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.conditioner.null.grad, arrays["loss.grad_null"], rtol=1e-4, atol=1e-5)


def test_hit_counts(arrays):
    ranks = target_ranks(arrays["metric.scores"], arrays["metric.target"][:, None] + 1)
    per_user = metrics_from_ranks(ranks.mean, cutoffs=(10, 20, 50))
    hits = torch.stack([per_user[f"recall@{k}"].sum() for k in (10, 20, 50)])
    ndcg = torch.stack([per_user[f"ndcg@{k}"].sum() for k in (10, 20, 50)])
    torch.testing.assert_close(hits.double(), arrays["metric.hits"], rtol=1e-12, atol=0)
    torch.testing.assert_close(ndcg.double(), arrays["metric.ndcg_sum"], rtol=1e-9, atol=0)


def test_training_on_a_batch_reaches_every_part(model):
    batch = Batch(torch.randint(1, 24, (32, 10)), torch.randint(1, 24, (32, 1)))
    model.train().training_loss(batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("detached", [False, True])
def test_a_target_that_is_detached_teaches_the_table_nothing(detached):
    torch.manual_seed(0)
    model = DreamRec(9, embedding_size=4, num_train_timesteps=5, detach_target=detached)
    model.training_loss(Batch(torch.tensor([[1, 2]]), torch.tensor([[7]]))).backward()
    assert bool(model.space.table.weight.grad[7].abs().sum() > 0) != detached
