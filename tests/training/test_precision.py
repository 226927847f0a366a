"""Mixed precision trains and scores, and comes close to full precision."""

from __future__ import annotations

import pytest
import torch

from diffrec.bench.evaluate import evaluate
from diffrec.training.build import build
from diffrec.training.fit import fit

SMALL = {
    "diffrec": ["--model.dims=[16]", "--model.lr=1e-2"],
    "sasrec": ["--model.embedding_size=16", "--model.lr=1e-2"],
}


def fitted(name: str, precision: str, folder):
    overrides = ["--trainer.max_epochs=10", f"--trainer.precision={precision}", "--trainer.accelerator=cpu"]
    run = build(["data/synthetic", f"model/{name}"], [*overrides, *SMALL[name]], run_dir=folder / precision)
    return run, fit(run)


@pytest.mark.parametrize("name", SMALL)
def test_bf16_trains_like_full_precision(name, tmp_path):
    torch.manual_seed(0)
    (run, mixed), (_, full) = (fitted(name, precision, tmp_path) for precision in ("bf16-mixed", "32-true"))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert mixed.best == pytest.approx(full.best, abs=0.05)
    assert mixed.best > 0.1  # chance is 0.045
    run.model.eval()
    history = torch.randint(1, run.data.num_items + 1, (4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        lists = run.model.recommend(history, 5)
    assert torch.isfinite(lists.scores).all()
    assert lists.items.unique(dim=1).shape == (4, 5)
    result = evaluate(run.model, run.data.split.valid, (10,))
    assert result.metrics["ndcg@10"] == pytest.approx(mixed.best, abs=0.02)
