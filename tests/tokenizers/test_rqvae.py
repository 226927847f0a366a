"""RQ-VAE against its official code, and the cures for codes that nobody has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.errors import UsageError
from diffrec.tokenizers import rqvae
from diffrec.tokenizers.rqvae import RQVAE, Training, revive, tokens_of, trained

VARIANTS = {"plain": {}, "norm": {"unit_norm": True}, "rotation": {"estimator": "rotation"}}


@pytest.fixture(params=VARIANTS)
def case(request, golden):
    arrays, variant = golden("rqvae"), request.param
    model = RQVAE(9, (8, 7), latent=5, levels=3, size=6, **VARIANTS[variant])
    with torch.no_grad():
        for level in range(3):
            model.encoder[2 * level].weight.copy_(arrays[f"net.{variant}.enc.{level}.weight"])
            model.decoder[2 * level].weight.copy_(arrays[f"net.{variant}.dec.{level}.weight"])
            model.codebooks[level] = arrays[f"net.{variant}.codes.{level}"]
    return model, arrays["x"], lambda name: arrays[f"{variant}.{name}"], variant


def test_forward_pass(case):
    model, x, expected, variant = case
    z = model.encode(x)
    torch.testing.assert_close(z, expected("z"))
    found = model.quantise(z)
    assert torch.equal(found.codes, expected("ids"))
    close = {"rtol": 2e-5, "atol": 5e-6}
    torch.testing.assert_close(found.residuals, expected("residuals"), **close)
    torch.testing.assert_close(found.loss, expected("quantise_loss"), **close)
    torch.testing.assert_close(model.decoder(found.summed), expected("decoded"), **close)
    passed = expected("codes")  # what a level hands on: with `rotation` a hair shorter than its code
    torch.testing.assert_close(found.vectors, passed, rtol=0, atol=1e-4 if variant == "rotation" else 1e-6)


def test_losses(case):
    model, x, expected, _ = case
    error, codebook = model.losses(x)
    total, reconstruction, quantise, distinct = expected("forward_cat0").tolist()
    assert (error.item(), codebook.item()) == pytest.approx((reconstruction, quantise), rel=1e-5)
    assert (error + codebook).item() == pytest.approx(total, rel=1e-5)
    codes = model.quantise(model.encode(x)).codes
    assert len(codes.unique(dim=0)) / len(codes) == pytest.approx(distinct)


def test_gradients_pass_the_codes(case):
    model, x, expected, variant = case
    if variant == "norm":
        return  # the arrays hold none
    found = model.quantise(model.encode(x))
    (model.decoder(found.summed).square().sum(1) + found.loss).mean().backward()
    torch.testing.assert_close(model.encoder[0].weight.grad, expected("grad_enc0"), rtol=1e-4, atol=3e-5)
    torch.testing.assert_close(model.codebooks.grad[0], expected("grad_codes0"), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 6))[rng.integers(20, size=300)] + 0.3 * rng.normal(size=(300, 6))


def model_of(seed: int = 0) -> RQVAE:
    torch.manual_seed(seed)
    return RQVAE(6, (16,), latent=4, levels=2, size=12)


def test_training_loses_less_and_uses_all_codes(vectors):
    start = trained(model_of(), vectors, Training(epochs=1, batch_size=64))
    end = trained(model_of(), vectors, Training(epochs=60, batch_size=64))
    errors = [np.square(tokens_of(m, vectors).reconstruction - vectors).sum(1).mean() for m in (start, end)]
    assert errors[1] < 0.7 * errors[0]
    tokens = tokens_of(end, vectors)
    assert [len(np.unique(level)) for level in tokens.codes.T] == [12, 12]
    assert np.array_equal(tokens.last_distances.argmin(1), tokens.codes[:, 1])


def test_the_seed_decides(vectors):
    training = Training(epochs=3, batch_size=64)
    first, again = (tokens_of(trained(model_of(), vectors, training, seed=5), vectors).codes for _ in range(2))
    assert np.array_equal(first, again)


def test_the_seed_decides_the_batches(vectors, monkeypatch):
    books = [np.random.default_rng(level).normal(size=(12, 4)) for level in range(2)]
    monkeypatch.setattr(rqvae, "residual_codebooks", lambda *arguments: (books, None))
    first, again, other = (
        trained(model_of(), vectors, Training(epochs=2, batch_size=64), seed=seed).codebooks for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dead_codes_move_to_residuals(vectors):
    model, x = model_of().eval(), torch.as_tensor(vectors, dtype=torch.float32)
    with torch.no_grad():
        model.codebooks[1, 7:] = 1e3
    before = model.codebooks.detach().clone()
    dead = torch.zeros(2, 12, dtype=torch.bool)
    dead[1, 7:] = True
    assert revive(model, x, dead, torch.Generator().manual_seed(0)) == 5
    assert torch.equal(model.codebooks[~dead], before[~dead])
    residuals = model.quantise(model.encode(x)).residuals[:, 1]
    assert torch.cdist(model.codebooks[1, 7:].double(), residuals.double()).min(1).values.max() < 1e-5
    assert revive(model, x, torch.zeros(2, 12, dtype=torch.bool), torch.Generator()) == 0


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="epochs must be a whole number from 1, got 0"):
        Training(epochs=0)
