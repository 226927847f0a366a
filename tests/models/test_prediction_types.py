"""What the network of a Gaussian model tells, x_0, eps or v, and the schedule it is told at, are arguments of it."""

from __future__ import annotations

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.errors import UsageError
from diffrec.models import ADRec, DiffRec, DiffuRec, DreamRec, LDiffRec, PreferDiff

HISTORY = torch.tensor([[1, 2, 3, 0], [12, 7, 18, 4], [9, 5, 0, 0]])
NOISE = {"noise_scale": 1.0, "noise_min": 0.1, "noise_max": 0.9, "num_train_timesteps": 6}
MODELS = {
    DiffRec: {"dims": (6,), **NOISE},
    LDiffRec: {"num_clusters": 1, "encoder_dims": (7,), "dims": (6,), **NOISE},
    DreamRec: {"embedding_size": 8, "num_train_timesteps": 6},
    PreferDiff: {"embedding_size": 8, "num_train_timesteps": 6, "num_inference_steps": 3},
    DiffuRec: {"embedding_size": 8, "num_blocks": 1, "num_heads": 1, "num_train_timesteps": 6},
    ADRec: {"embedding_size": 8, "encoder_blocks": 1, "num_blocks": 1, "num_heads": 1, "num_train_timesteps": 6},
}
TYPES, SCHEDULES = ("sample", "epsilon", "v_prediction"), ("linear", "cosine", "exponential", "truncated_linear")


def made(cls, **arguments):
    torch.manual_seed(0)
    return cls(20, **MODELS[cls], **arguments)


def batch_of(cls):
    target = {"history": HISTORY, "next": HISTORY.roll(-1, 1) * (HISTORY > 0)}.get(cls.examples, HISTORY[:, 1:2])
    return Batch(HISTORY, target)


def loss_of(model):
    torch.manual_seed(1)
    return model.eval().training_loss(batch_of(type(model)))


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("cls", MODELS)
def test_every_type_trains_and_ranks_on_every_schedule(cls, prediction_type):
    for schedule in SCHEDULES:
        model = made(cls, prediction_type=prediction_type, schedule=schedule)
        loss = loss_of(model)
        loss.backward()
        assert torch.isfinite(loss)
        assert any((p.grad != 0).any() for p in model.denoiser.parameters() if p.grad is not None)
        assert torch.isfinite(model.recommend(HISTORY, 3).scores).all()


@pytest.mark.parametrize("prediction_type", TYPES[1:])
@pytest.mark.parametrize("cls", [cls for cls in MODELS if cls is not DreamRec])  # whose error is that of the output
def test_an_output_that_stands_for_the_same_x_0_has_the_same_loss(cls, prediction_type):
    if cls in (DiffRec, LDiffRec) and prediction_type == "epsilon":
        pytest.skip("the bound has another weight for eps (DiffRec, eq. 12)")
    told, other = made(cls), made(cls, prediction_type=prediction_type)

    def converted(network, asked, x0):
        x_t, t = asked[:2]
        signal, sigma = (table[t][..., None].float() for table in (other.process.signal, other.process.sigma))
        return ((x_t - signal * x0) if prediction_type == "epsilon" else (signal * x_t - x0)) / sigma

    other.denoiser.register_forward_hook(converted)
    torch.testing.assert_close(loss_of(other), loss_of(told), rtol=1e-4, atol=1e-5)


def test_epsilon_at_no_signal_is_refused():
    with pytest.raises(UsageError, match="with zero_terminal_snr epsilon tells nothing of x_0 at T-1"):
        made(DreamRec, zero_terminal_snr=True, prediction_type="epsilon")
    assert torch.isfinite(loss_of(made(DreamRec, zero_terminal_snr=True, prediction_type="v_prediction")))
