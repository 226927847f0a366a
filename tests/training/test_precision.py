"""Under bf16 autocast a training step is that in float32 up to rounding, and scores are not rounded at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffrec.baselines import BASELINES
from diffrec.bench.evaluate import evaluate
from diffrec.data.datamodule import InteractionDataModule, TrainingBatches
from diffrec.data.synthetic import synthetic
from diffrec.models import MODELS
from diffrec.recommender import ClosedFormRecommender
from diffrec.testing.conformance import scores_of
from diffrec.testing.small_models import NUM_ITEMS, started
from diffrec.training.build import build
from diffrec.training.fit import fit

HISTORY = torch.tensor([[3, 7, 5, 2], [5, 1, 0, 0], [9, 0, 0, 0], [60, 64, 3, 9]])


@pytest.fixture(scope="module")
def data():
    return InteractionDataModule.of(synthetic(num_users=150, num_items=NUM_ITEMS, seed=1), "loo-full-masked@1")


@pytest.fixture(scope="module", params=[*MODELS, *BASELINES])
def model(request, data):
    return started(request.param, data)


def step_of(model, batch, autocast):
    """The loss, and the gradient of every parameter that is trained."""
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model.training_loss(batch)
    return loss.detach(), torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def test_a_step_under_autocast_is_that_in_float32_up_to_rounding(model, data):
    if isinstance(model, ClosedFormRecommender):
        return
    examples = TrainingBatches(data.split.train, model.examples, model.max_history_length)
    batch = examples[np.arange(min(16, len(examples)))]
    model.train()
    (loss, gradients), (mixed_loss, mixed) = (step_of(model, batch, autocast) for autocast in (False, True))
    model.eval()
    assert mixed_loss.dtype == torch.float32
    torch.testing.assert_close(mixed_loss, loss, rtol=0.005, atol=0)
    assert all(torch.isfinite(part).all() for part in mixed)
    flat, mixed_flat = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, mixed))
    assert (mixed_flat - flat).norm() < 0.03 * flat.norm()


def test_scores_are_in_the_precision_of_the_weights(model):
    expected = scores_of(model, HISTORY)
    with torch.autocast("cpu", torch.bfloat16):
        got = scores_of(model, HISTORY)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_a_run_in_mixed_precision_validates_what_its_checkpoint_answers(tmp_path):
    words = ["--trainer.max_epochs=2", "--trainer.precision=bf16-mixed", "--trainer.accelerator=cpu"]
    run = build(["data/synthetic", "model/sasrec"], [*words, "--model.embedding_size=16"], run_dir=tmp_path)
    best = fit(run).best
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    result = evaluate(run.model.eval(), run.data.split.valid, (10,))
    assert result.metrics["ndcg@10"] == pytest.approx(best, abs=1e-6)
