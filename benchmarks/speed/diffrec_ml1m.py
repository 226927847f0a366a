"""DiffRec on MovieLens 1M: seconds of evaluation and training, and their ratio to a plain PyTorch loop in the same run.

python benchmarks/speed/diffrec_ml1m.py --output benchmarks/speed/diffrec_ml1m.json

The plain loop is the usual one: dense rows of the user x item matrix, the whole network at each of the 40
steps, seen items masked, top k, metrics in NumPy. Both use the same weights, and their lists of ten are
compared. `run` is `diffrec fit` with this recipe and one test: everything from the configuration to the result.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffrec.bench.evaluate import evaluate
from diffrec.data.splits import Cases
from diffrec.diffusion.timesteps import LossAwareTimesteps
from diffrec.models.diffrec import DiffRec
from diffrec.training.build import Run, build
from diffrec.training.fit import fit
from diffrec.typing import Tensor

RECIPE, BATCH, K = "diffrec-ml1m-clean", 400, 10


class PlainDiffRec(nn.Module):
    """The network and the posterior of a trained `DiffRec`, applied to whole vectors."""

    def __init__(self, model: DiffRec) -> None:
        super().__init__()
        self.network, self.betas = model.denoiser, torch.from_numpy(model.process.betas)
        self.alpha_bar = torch.cumprod(1 - self.betas, 0)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x_T = x (batch, items), back through all steps."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        of_x0 = self.betas * before.sqrt() / (1 - self.alpha_bar)
        of_x = (1 - before) * (1 - self.betas).sqrt() / (1 - self.alpha_bar)
        for step in reversed(range(len(self.betas))):
            t = torch.full((len(x),), step)
            x0 = self.network(x, t)
            x = of_x0[t].float()[:, None] * x0 + of_x[t].float()[:, None] * x
        return x


def plain_evaluation(model: DiffRec, cases: Cases) -> tuple[float, float, np.ndarray]:
    """Seconds, NDCG@10 and the lists of ten item numbers."""
    history, seen = (rows.to_csr(model.num_items) for rows in (cases.history, cases.seen))
    targets = [set(cases.target[row].tolist()) for row in range(len(cases))]
    plain, lists, start = PlainDiffRec(model), [], time.perf_counter()
    for first in range(0, len(cases), BATCH):
        rows = slice(first, first + BATCH)
        scores = plain(torch.from_numpy(history[rows].toarray()))
        scores[torch.from_numpy(seen[rows].toarray() > 0)] = -torch.inf
        lists.append(torch.topk(scores, K).indices.numpy() + 1)
    top = np.concatenate(lists)
    discount = 1 / np.log2(np.arange(2, K + 2))
    gains = [
        sum(discount[place] for place, item in enumerate(best) if item in target) / discount[: len(target)].sum()
        for best, target in zip(top.tolist(), targets, strict=True)
    ]
    return time.perf_counter() - start, float(np.mean(gains)), top


def widest_gap(model: DiffRec, cases: Cases, ours: np.ndarray, plain: np.ndarray) -> float:
    """Where the lists differ, how far apart the plain loop scores the two items of a place; 0 where they do not."""
    rows = np.flatnonzero((ours != plain).any(1))
    if not len(rows):
        return 0.0
    history = cases.history.take(rows).to_csr(model.num_items)
    scores = PlainDiffRec(model)(torch.from_numpy(history.toarray()))
    one, other = (scores.gather(1, torch.from_numpy(lists[rows].astype(np.int64) - 1)) for lists in (ours, plain))
    return float((one - other).abs().max())


def plain_epoch(run: Run) -> float:
    """Seconds of one epoch with a Python loop over the losses of a batch, as a plain loss-aware sampler keeps them."""
    model, sequences = run.model, run.data.split.train
    assert isinstance(model, DiffRec)
    matrix, optimizer = sequences.to_csr(model.num_items), torch.optim.AdamW(model.denoiser.parameters(), lr=model.lr)
    steps = len(model.process.betas)
    history, filled = np.zeros((steps, 10)), np.zeros(steps, dtype=int)
    alpha_bar = model.process.alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    weight = torch.cat([torch.ones(1, dtype=torch.float64), snr[:-1] - snr[1:]])
    model.train()
    start = time.perf_counter()
    for rows in np.array_split(np.random.default_rng(0).permutation(len(sequences)), -(-len(sequences) // BATCH)):
        x0 = torch.from_numpy(matrix[rows].toarray())
        p = np.full(steps, 1 / steps)
        if (filled == 10).all():
            p = np.sqrt((history**2).mean(1))
            p = p / p.sum() * 0.999 + 0.001 / steps
        t = torch.multinomial(torch.from_numpy(p), len(rows), replacement=True)
        noise = torch.randn_like(x0)
        x_t = alpha_bar[t].sqrt().float()[:, None] * x0 + (1 - alpha_bar[t]).sqrt().float()[:, None] * noise
        loss = weight[t].float() * (model.denoiser(x_t, t) - x0).square().mean(1)
        for step, value in zip(t.tolist(), loss.detach().tolist(), strict=True):
            if filled[step] == 10:
                history[step, :-1], history[step, -1] = history[step, 1:], value
            else:
                history[step, filled[step]] = value
                filled[step] += 1
        optimizer.zero_grad()
        (loss / torch.from_numpy(p * steps)[t].float()).mean().backward()
        optimizer.step()
    return time.perf_counter() - start


def our_epoch(run: Run) -> float:
    """Seconds of one epoch, without Lightning around it."""
    model = run.model
    assert isinstance(model, DiffRec)
    assert isinstance(model.timesteps, LossAwareTimesteps)
    run.data.examples_of_model = model.examples
    batches, optimizer = run.data.train_dataloader(), model.configure_optimizers()
    model.train()
    start = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        model.training_loss(batch).backward()
        optimizer.step()
    return time.perf_counter() - start


def repeated(measure: Callable[[], float], times: int = 3) -> float:
    """The least of several measurements: what the machine can do when nothing disturbs it."""
    return min(measure() for _ in range(times))


def compare(run: Run) -> dict[str, float]:
    """Training epochs first; the weights they leave are then evaluated both ways."""
    model, cases = run.model, run.data.split.test
    assert isinstance(model, DiffRec)
    epoch, epoch_plain = repeated(lambda: our_epoch(run)), repeated(lambda: plain_epoch(run))
    model.eval()
    ours = [evaluate(model, cases, (K,), batch_size=run.data.eval_batch_size) for _ in range(3)]
    plain = [plain_evaluation(model, cases) for _ in range(3)]
    seconds, seconds_plain = min(e.seconds for e in ours), min(p[0] for p in plain)
    return {
        "users": len(cases),
        "steps": len(model.process.betas),
        "evaluation_seconds": seconds,
        "evaluation_seconds_plain": seconds_plain,
        "evaluation_times_faster": seconds_plain / seconds,
        "equal_places": float((ours[0].top_items == plain[0][2]).mean()),
        "widest_gap": widest_gap(model, cases, ours[0].top_items, plain[0][2]),
        "ndcg_difference": abs(ours[0].metrics["ndcg@10"] - plain[0][1]),
        "epoch_seconds": epoch,
        "epoch_seconds_plain": epoch_plain,
        "epoch_times_faster": epoch_plain / epoch,
    }


def whole_run(folder: Path) -> dict[str, float]:
    """`diffrec fit` and `diffrec test`, seed 0: the dataset, training with its validations, one test."""
    start = time.perf_counter()
    run = build([RECIPE], ["--seed_everything=0"], run_dir=folder / "run")
    fitted = fit(run)
    test = evaluate(run.model.eval(), run.data.split.test, (K,), batch_size=run.data.eval_batch_size)
    return {
        "run_seconds": time.perf_counter() - start,
        "run_epochs": fitted.epochs,
        "run_validations": fitted.epochs // run.trainer.check_val_every_n_epoch,
        "run_train_seconds": fitted.seconds,
        "run_test_seconds": test.seconds,
        "run_ndcg@10": test.metrics["ndcg@10"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        values = compare(build([RECIPE], run_dir=Path(folder) / "compare"))
        runs = [whole_run(Path(folder) / str(number)) for number in range(2)]
        values |= min(runs, key=lambda run: run["run_seconds"])
    print(
        f"evaluation of {values['users']:,} users at {values['steps']} steps: {values['evaluation_seconds']:.2f} s, "
        f"{values['evaluation_times_faster']:.1f} times a plain loop ({values['evaluation_seconds_plain']:.2f} s), "
        f"{100 * values['equal_places']:.3f} % of places equal, "
        f"the items of the others scored {values['widest_gap']:.0e} apart\n"
        f"training epoch: {values['epoch_seconds']:.2f} s, {values['epoch_times_faster']:.1f} times a plain loop "
        f"({values['epoch_seconds_plain']:.2f} s)\n"
        f"whole run, {values['run_epochs']} epochs: {values['run_seconds']:.0f} s"
    )
    record = {"threads": options.threads, "torch": torch.__version__, "machine": platform.machine(), "results": values}
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
