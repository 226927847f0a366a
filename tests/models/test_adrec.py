"""ADRec against its official code: network, losses and reverse loop under the original's mask; its stages."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import NoisedSample
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.models import ADRec

SMALL = {"embedding_size": 8, "num_heads": 4, "max_history_length": 6}
STACKS = {"enc": "conditioner.blocks", "den": "denoiser.blocks"}
NOBODY = RequestNoise(torch.zeros(1, dtype=torch.int64))


@pytest.fixture
def arrays(golden):
    return golden("adrec")


@pytest.fixture(params=[0.001, 0.5], ids=str)
def weight(request):
    return request.param


@pytest.fixture
def model(arrays, load_network, weight):
    """With the original's mask, for its numbers."""
    return load_network(ADRec(17, **SMALL, fidelity="original", state_weight=weight).eval(), arrays, STACKS)


def batch_of(arrays, from_the_right):
    """Their rows without the padding whose target is the first item, which they hold beside our batches."""
    return Batch(from_the_right(arrays["items"]), from_the_right(arrays["targets"] * (arrays["items"] > 0)))


def test_network(model, arrays, weight, close):
    real, x0 = arrays["targets"] > 0, model.space.encode(arrays["targets"])
    t, noise = arrays["train.t"].flatten(), arrays["train.noise"].flatten(0, 1)
    noised = model.process.corrupt(x0.flatten(0, 1), t, noise).x_t.view_as(x0)
    x_t = torch.where(real[..., None], noised, x0)
    slots = model.conditioner(arrays["items"], model.space.encode)
    out = model.denoiser(x_t, torch.where(real, arrays["train.t"], 0), slots)
    close(out, arrays[f"train.lam{weight}.out"])


def test_losses(model, arrays, weight, from_the_right, monkeypatch, close):
    """Theirs has padding among the classes."""
    batch, noise = batch_of(arrays, from_the_right), arrays["train.noise"].flatten(0, 1)
    corrupt = model.process.corrupt
    monkeypatch.setattr(model.process, "corrupt", lambda x0, t: corrupt(x0, t, noise))
    monkeypatch.setattr(
        model.timesteps, "draw", lambda size, _: TimestepDraw(arrays["train.t"].flatten(), torch.ones(size))
    )
    out, target = arrays[f"train.lam{weight}.out"], arrays["targets"]
    logits = out[target > 0] @ model.space.table.weight.T
    close(cross_entropy(logits, target[target > 0]), arrays[f"train.lam{weight}.losses"][1])
    expected = cross_entropy(logits[:, 1:], target[target > 0] - 1) + arrays[f"train.lam{weight}.losses"][0]
    close(model.training_loss(batch), expected)


def test_reverse_loop(model, arrays, weight, from_the_right, close):
    noise = iter(arrays["rev.noise"])
    denoise = model.denoiser_for(from_the_right(arrays["items"]), NOBODY)
    x = sample(denoise, model.process, arrays["rev.start"], noise=lambda size: next(noise))
    close(x, arrays[f"rev.lam{weight}.last"], 1e-3, 1e-4)


def test_what_is_worked_out_once_is_what_every_step_would_find(close):
    """The last position alone, against all positions."""
    torch.manual_seed(0)
    model = ADRec(17, **SMALL, state_weight=0.5).eval()
    history, x_t, t = torch.tensor([[3, 7, 5, 2], [5, 0, 0, 0], [1, 2, 9, 0]]), torch.randn(3, 8), torch.tensor([11])
    last, slots = (history > 0).sum(1) - 1, model.conditioner(history, model.space.encode)
    clean, steps = model.space.encode(history.roll(-1, 1)), torch.zeros(3, 4, dtype=torch.int64)
    rows = torch.arange(3)
    clean[rows, last], steps[rows, last] = x_t, t
    close(model.denoiser_for(history, NOBODY)(x_t, t), model.denoiser(clean, steps, slots)[rows, last])


def test_padding_is_read_by_the_original_only():
    for fidelity, read in (("fixed", False), ("original", True)):
        torch.manual_seed(0)
        model = ADRec(17, **SMALL, fidelity=fidelity).eval()
        history = torch.tensor([[3, 7, 5, 2], [5, 0, 0, 0]])
        before = model.score(history)
        with torch.no_grad():
            model.space.table.weight[0] += torch.arange(8.0)
        assert torch.equal(model.score(history), before) != read


def test_every_position_has_a_step_of_its_own(monkeypatch):
    torch.manual_seed(0)
    model, seen = ADRec(17, **SMALL), []
    corrupt = model.process.corrupt

    def watched(x0: torch.Tensor, t: torch.Tensor) -> NoisedSample:
        seen.append(t)
        return corrupt(x0, t)

    monkeypatch.setattr(model.process, "corrupt", watched)
    model.training_loss(Batch(torch.tensor([[3, 7, 5, 2], [5, 1, 0, 0]]), torch.tensor([[7, 5, 2, 9], [1, 4, 0, 0]])))
    assert seen[0].tolist()[6:] == [0, 0]
    assert len(set(seen[0].tolist()[:4])) > 1


def test_three_stages(monkeypatch, close):
    """Table and encoder; all but the table; everything."""
    torch.manual_seed(0)
    model = ADRec(17, **SMALL, pretraining_epochs=2, frozen_epochs=1)
    batch = Batch(torch.tensor([[3, 7, 5, 2], [5, 1, 0, 0]]), torch.tensor([[7, 5, 2, 9], [1, 4, 0, 0]]))
    moved = []
    for epoch in range(4):
        monkeypatch.setattr(ADRec, "current_epoch", epoch)
        model.zero_grad()
        model.training_loss(batch).backward()
        parts = (model.space, model.conditioner, model.denoiser)
        moved.append([any(p.grad is not None for p in part.parameters()) for part in parts])
    assert moved == [[True, True, False]] * 2 + [[False, True, True], [True, True, True]]


def test_the_squared_error_weighs_sequences_alike(monkeypatch, close):
    torch.manual_seed(0)
    model = ADRec(17, **SMALL).eval()
    batch = Batch(torch.tensor([[3, 7, 5, 2], [5, 0, 0, 0]]), torch.tensor([[7, 5, 2, 9], [1, 0, 0, 0]]))
    outputs = torch.randn(2, 4, 8)
    monkeypatch.setattr(model.denoiser, "forward", lambda *_: outputs)
    x0 = model.space.encode(batch.target)
    ranking = cross_entropy(
        outputs[batch.target > 0] @ model.space.table.weight[1:].T, batch.target[batch.target > 0] - 1
    )
    error = (mse_loss(outputs[0], x0[0]) + mse_loss(outputs[1, 0], x0[1, 0])) / 2
    close(model.training_loss(batch), ranking + error)


def test_the_learning_rate_follows_a_cosine():
    model = ADRec(17, **SMALL, lr=0.5, decay_epochs=4)
    assert [round(model.rate(epoch), 4) for epoch in (0, 1, 2, 4, 9)] == [0.5, 0.4268, 0.25, 0.0, 0.0]


def test_it_learns_what_follows_what(ndcg, walks, popular):
    """Through all of its stages, the table resting in the second."""
    data, sizes = walks(64), {**SMALL, "embedding_size": 16, "encoder_blocks": 1, "num_blocks": 1}
    model = ADRec(data.num_items, **sizes, pretraining_epochs=8, frozen_epochs=2, embedding_dropout=0.1, lr=1e-2)
    assert ndcg(model, data, 16) > 2 * popular > 0.15
