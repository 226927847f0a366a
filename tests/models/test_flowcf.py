"""FlowCF against its official code: frequencies, interpolant, network, loss and walk."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.diffusion.sampler import sample
from diffrec.models import FlowCF

STEPS = 9


@pytest.fixture
def arrays(golden):
    return golden("flowcf")


@pytest.fixture
def model(arrays):
    """Their item 0 is a pad that has a column; here it is one more item."""
    model = FlowCF(23, dims=(14, 12)).eval()
    names = {"time": "time", **{f"layer.{place}": f"layers.{place}" for place in range(3)}}
    state = {f"{new}.{p}": arrays[f"net.{old}.{p}"] for old, new in names.items() for p in ("weight", "bias")}
    model.denoiser.load_state_dict(state)
    return model


def history_of(x):
    """Histories whose interaction vectors are the rows of x."""
    rows = [row.nonzero()[:, 0] + 1 for row in x]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_frequencies(arrays):
    """Theirs count the pad user among the users; an item met twice counts once, a user without items not at all."""
    rows = [2 * (row.nonzero()[:, 0] + 1).tolist() for row in arrays["X"][1:, 1:]]
    model = FlowCF(22)
    model.prepare(Ragged.from_rows([[], *rows]))
    torch.testing.assert_close(model.process.frequency * 8 / 9, arrays["item_frequency"][1:], rtol=1e-6, atol=0)


def test_training(model, arrays):
    t = STEPS - 1 - arrays["train.step"]
    x1 = arrays["X"][1:]
    noised = model.process.corrupt(x1, t, arrays["train.x0"], arrays["train.u"])
    assert torch.equal(noised.x_t, arrays["train.xt"])
    output = model.denoiser(noised.x_t, t)
    torch.testing.assert_close(output, arrays["train.out"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.objective(output, noised).mean()[None], arrays["train.loss"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_the_walk_from_the_history(model, arrays, steps):
    model.num_inference_steps = steps
    scores = model.score(history_of(arrays["X"][1:]))
    torch.testing.assert_close(scores, arrays[f"sample.s{steps}.out"], rtol=1e-5, atol=1e-6)
    met = []
    sample(
        lambda x, t: met.append(x) or model.denoiser(x, t), model.process, arrays["X"][1:], num_inference_steps=steps
    )
    assert len(met) == steps == model.denoiser_calls
    assert torch.equal(met[-1], arrays[f"sample.s{steps}.last_x"])


def test_scores_use_noise_where_it_is_asked_for(model, arrays):
    history = history_of(arrays["X"][1:])
    assert not model.uses_noise
    model.num_inference_steps, model.stochastic = 5, True
    assert model.uses_noise
    first, second = (model.recommend(history, 5, seed=seed).scores for seed in (1, 2))
    assert not torch.equal(first, second)


def test_training_on_a_batch_reaches_every_part(model):
    model.train().training_loss(Batch(torch.randint(1, 24, (32, 10)), torch.zeros(32, 0, dtype=torch.int64))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
