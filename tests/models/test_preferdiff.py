"""PreferDiff against its official code: encoder, denoiser, DDIM on both grids, the preference loss and gradients."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.sampler import Guided, sample
from diffrec.diffusion.schedules import linear, preferdiff_grid, respaced
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import DreamRec, PreferDiff
from diffrec.nn.principal import whitened
from diffrec.recommender import count_parameters
from diffrec.zoo import load, save

RENAMED = {
    "item_table": "space.table.weight",
    "position_table": "conditioner.encoder.position.weight",
    "null_condition": "conditioner.null",
    "block.0.norm1": "conditioner.encoder.norm_in",
    "block.0.norm2": "conditioner.encoder.norm_mid",
    "block.0.norm3": "conditioner.encoder.norm_out",
    "block.0.attn.q": "conditioner.encoder.query",
    "block.0.attn.k": "conditioner.encoder.key",
    "block.0.attn.v": "conditioner.encoder.value",
    "block.0.ffn.fc1": "conditioner.encoder.feed_in",
    "block.0.ffn.fc2": "conditioner.encoder.feed_out",
    "block.0.ffn.norm": "conditioner.encoder.norm_feed",
    "time.fc1": "denoiser.time.0",
    "time.fc2": "denoiser.time.2",
    "denoise": "denoiser.output.0",
}


@pytest.fixture
def arrays(golden):
    return golden("preferdiff")


def model_of(arrays, **arguments):
    model = PreferDiff(24, embedding_size=8, **arguments).eval()
    state = {}
    for name, value in arrays.items():
        if name.startswith("net.one."):
            stem = max((old for old in RENAMED if name[8:].startswith(old)), key=len)
            state[RENAMED[stem] + name[8 + len(stem) :]] = value
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    return model


def test_history_encoder(arrays):
    model = model_of(arrays)
    condition = model.conditioner(arrays["enc.items"], model.space.encode)
    torch.testing.assert_close(condition, arrays["enc.one.h"], rtol=2e-5, atol=2e-6)


def test_denoiser(arrays):
    model = model_of(arrays)
    x, t = arrays["den.x"], arrays["den.t"]
    torch.testing.assert_close(model.denoiser(x, t, arrays["enc.one.h"]), arrays["den.cond"], rtol=2e-5, atol=2e-6)
    null = model.conditioner.null.expand(6, 8)
    torch.testing.assert_close(model.denoiser(x, t, null), arrays["den.uncond"], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "steps"), [("T2000s100", 20), ("T2000s250", 8), ("T500s20", 25)])
def test_the_grid_of_the_original(arrays, name, steps):
    arrays = {key.removeprefix(f"ddim.{name}."): value for key, value in arrays.items() if f"ddim.{name}." in key}
    betas = linear(len(arrays["betas"]))
    visited, told = preferdiff_grid(len(betas), steps)
    assert told.tolist() == arrays["model_steps"].tolist()
    alpha_bar = torch.from_numpy((1 - respaced(betas, visited)).cumprod())
    torch.testing.assert_close(alpha_bar.float(), arrays["alphas_cumprod"], rtol=1e-4, atol=0)
    # one step from x = 0 and from an output of 0 gives its two factors
    reverse = GaussianProcess(betas, eta=0.0, grid=preferdiff_grid).reverse_steps(steps)
    assert reverse.timesteps == told[::-1].tolist()
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    for coefficient, output, state in (("coef1", one, zero), ("coef2", zero, one)):
        fresh = GaussianProcess(betas, eta=0.0, grid=preferdiff_grid).reverse_steps(steps)
        got = torch.cat([fresh.step(output, state, place, None) for place in range(len(told))])[:, 0].flip(0)
        torch.testing.assert_close(got, arrays[coefficient], rtol=2e-4, atol=1e-6)


def test_with_a_stride_of_one_no_step_is_visited_twice():
    visited, told = preferdiff_grid(5, 5)
    assert (visited.tolist(), told.tolist()) == ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "total", "steps", "strength"),
    [("T2000s100w2.0", 2000, 20, 2.0), ("T2000s100w8.0", 2000, 20, 8.0), ("T500s20w2.0", 500, 25, 2.0)],
)
def test_guided_ddim(arrays, name, total, steps, strength):
    arguments = {"num_train_timesteps": total, "num_inference_steps": steps, "guidance_scale": 1 + strength}
    model = model_of(arrays, fidelity="original", **arguments)
    path = []
    guided = Guided(model.denoiser, arrays["enc.one.h"], model.conditioner.null, model.guidance_scale)

    def watched(x, t):
        path.append(x)
        return guided(x, t)

    x = sample(watched, model.process, arrays["samp.x_T"], num_inference_steps=steps)
    torch.testing.assert_close(torch.stack([*path[1:], x]), arrays[f"samp.{name}.path"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(x, arrays[f"samp.{name}.x"], rtol=1e-3, atol=1e-4)
    if total == 500:
        scores = model.space.score(x)
        torch.testing.assert_close(scores, arrays["samp.scores"], rtol=1e-3, atol=1e-3)
        assert torch.equal(scores.topk(5).indices + 1, arrays["samp.top5"])


def test_ancestral_sampling_is_eta_1(arrays):
    model = model_of(arrays, num_train_timesteps=15, num_inference_steps=None, guidance_scale=3.0)
    model.eta = 1.0
    noise = iter(arrays["samp.ddpm.noise"])
    guided = Guided(model.denoiser, arrays["enc.one.h"], model.conditioner.null, 3.0)
    x = sample(guided, model.process, next(noise), noise=lambda size: next(noise))
    torch.testing.assert_close(x, arrays["samp.ddpm.x"], rtol=1e-3, atol=1e-4)


def test_the_default_grid_ends_where_the_network_was_trained():
    timesteps = PreferDiff(5, embedding_size=4, num_heads=1).process.reverse_steps(20).timesteps
    assert timesteps == list(range(1999, 0, -100))


@pytest.mark.parametrize(("weight", "sharpness", "name"), [(0.4, 5.0, "l0.4g5.0"), (0.6, 1.0, "l0.6g1.0")])
def test_loss_and_gradients(arrays, weight, sharpness, name, monkeypatch):
    model = model_of(arrays, reconstruction_weight=weight, sharpness=sharpness)
    noise = torch.cat([arrays["loss.noise_pos"], arrays["loss.noise_neg"]])
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: arrays["loss.uniform"])
    monkeypatch.setattr(model.timesteps, "draw", lambda *_: TimestepDraw(arrays["loss.t"], torch.ones(6)))
    loss = model.training_loss(Batch(arrays["enc.items"], arrays["loss.labels"][:, None]))
    torch.testing.assert_close(loss, arrays[f"loss.cosine.neg.{name}"][0], rtol=2e-5, atol=0)
    if name == "l0.4g5.0":
        torch.testing.assert_close(loss, arrays["loss.forward"][0], rtol=2e-5, atol=0)
        loss.backward()
        expected = arrays[f"loss.cosine.neg.{name}.grad_item_table"]
        torch.testing.assert_close(model.space.table.weight.grad, expected, rtol=1e-4, atol=1e-5)
        expected = arrays[f"loss.cosine.neg.{name}.grad_denoise"]
        torch.testing.assert_close(model.denoiser.output[0].weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_one_has_a_loss():
    model = PreferDiff(5, embedding_size=4, num_heads=1)
    assert torch.isfinite(model.training_loss(Batch(torch.tensor([[1, 2]]), torch.tensor([[3]]))))


def test_whitening(arrays):
    """Directions have no sign, so inner products are compared; the original whitens twice."""
    once = whitened(arrays["white.x"], 6)
    torch.testing.assert_close((once @ once.T).float(), arrays["white.gram"], rtol=1e-3, atol=1e-4)
    twice = whitened(once, 6)
    torch.testing.assert_close((twice @ twice.T).float(), arrays["white.gram2"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(twice @ twice.T, once @ once.T, rtol=0, atol=1e-3)


def with_vectors(path, **arguments):
    torch.manual_seed(0)
    return PreferDiff(12, embedding_size=4, num_heads=1, item_vectors=str(path), **arguments).eval()


def test_a_frozen_table_is_read_when_training_starts_and_kept_with_the_model(tmp_path):
    path, vectors = tmp_path / "text.safetensors", torch.randn(12, 6)
    save_file({"vectors": vectors}, path)
    model = with_vectors(path)
    model.prepare(Ragged.from_rows([[1, 2]]))
    torch.testing.assert_close(model.space.table.weight[1:], whitened(vectors, 4).float())
    learnt = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "space.table.weight" not in learnt
    assert count_parameters(model) == sum(p.numel() for name, p in model.named_parameters() if name in learnt)
    folder = save(model, tmp_path / "entry")
    path.unlink()
    loaded = load(folder)
    assert torch.equal(loaded.space.table.weight, model.space.table.weight)
    assert loaded.eta == 0.0


@pytest.mark.parametrize("cls", [PreferDiff, DreamRec])
def test_items_may_be_texts_with_something_of_their_own(cls, tmp_path):
    path, vectors = tmp_path / "text.safetensors", torch.randn(12, 6)
    save_file({"vectors": vectors}, path)
    nothing_hidden = {"dropout": 0.0, "condition_dropout": 0.0}  # or an item may be left out of the loss
    model = cls(12, embedding_size=4, item_vectors=str(path), learn_ids=True, **nothing_hidden)
    model.prepare(Ragged.from_rows([[1, 2]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = Batch(history=torch.tensor([[1, 2], [3, 4]]), target=torch.tensor([[5], [6]]))
    model.training_loss(batch).backward()
    optimizer.step()
    torch.testing.assert_close(model.space.table.weight[1:], whitened(vectors, 4).float())
    assert (model.space.ids.weight[1:7].abs().sum(1) > 0).all()
    assert not model.space.ids.weight[7:].any()
    folder = save(model.eval(), tmp_path / "entry")
    path.unlink()
    assert torch.equal(load(folder).space.vectors, model.space.vectors)


def test_vectors_that_do_not_fit_are_named(tmp_path):
    path, sequences = tmp_path / "text.safetensors", Ragged.from_rows([[1, 2]])
    with pytest.raises(NotFoundError, match=r"no file '.*text.safetensors' with item vectors"):
        with_vectors(path).prepare(sequences)
    path.write_bytes(b"no vectors")
    with pytest.raises(UsageError, match=r"text\.safetensors is no safetensors file"):
        with_vectors(path).prepare(sequences)
    save_file({"embeddings": torch.zeros(12, 6)}, path)
    with pytest.raises(UsageError, match=r"needs a tensor 'vectors' .* it holds \{'embeddings': \(12, 6\)\}"):
        with_vectors(path).prepare(sequences)
    save_file({"vectors": torch.zeros(11, 6)}, path)
    with pytest.raises(UsageError, match="vectors of 12 items and a width of at least 4 are needed, got 11 of width 6"):
        with_vectors(path).prepare(sequences)
