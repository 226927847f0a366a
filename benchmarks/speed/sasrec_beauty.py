"""SASRec with cross-entropy on Amazon Beauty: seconds of a training epoch, and their ratio to a plain PyTorch loop.

DIFFREC_DATA=FOLDER python benchmarks/speed/sasrec_beauty.py --output benchmarks/speed/sasrec_beauty.json

Ours: batches of histories of similar length, the softmax over all items chunk by chunk with its gradient. Plain, around
the same network, optimiser and number of batches: users in random order, every window padded to 50 slots, logits of all
slots at once, `cross_entropy` that ignores the empty ones. "real" is the plain loop whose logits are those of real
slots only, which tells the two savings apart. The three take turns, the least of several epochs counts, and the losses
of one batch are compared. An epoch meets 131,413 targets each way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule, TrainingBatches
from diffrec.models.sasrec import SASRec
from diffrec.training.build import build
from diffrec.training.memory import keep_freed_memory
from diffrec.typing import Tensor

RECIPE = "sasrec-beauty"
NETWORK = ["--model.num_blocks=2", "--model.num_heads=2", "--model.embedding_size=64"]

Loss = Callable[[SASRec, Batch], Tensor]


def padded(batch: Batch, length: int) -> Batch:
    """The same with every window padded to `length` slots."""
    history, target = (torch.nn.functional.pad(part, (0, length - part.shape[1])) for part in batch.fields()[:2])
    return Batch(history, target)


def ours(model: SASRec, batch: Batch) -> Tensor:
    return model.training_loss(batch)


def plain(model: SASRec, batch: Batch) -> Tensor:
    """Logits of every slot; an empty one has target 0, which becomes -1 and is ignored."""
    logits = model.states(batch.history) @ model.items.table.weight[1:].T
    return cross_entropy(logits.flatten(0, 1), batch.target.flatten() - 1, ignore_index=-1)


def real(model: SASRec, batch: Batch) -> Tensor:
    """Logits of the slots that a target follows."""
    asked = batch.target > 0
    logits = model.states(batch.history)[asked] @ model.items.table.weight[1:].T
    return cross_entropy(logits, batch.target[asked] - 1)


def shuffled(data: InteractionDataModule, model: SASRec, seed: int) -> Iterator[Batch]:
    """Users in random order, all windows of one length."""
    assert model.max_history_length is not None
    batches = TrainingBatches(data.split.train, "next", model.max_history_length)
    order = np.random.default_rng(seed).permutation(len(batches))
    for rows in np.array_split(order, -(-len(order) // data.batch_size)):
        yield padded(batches[rows], model.max_history_length)


def by_length(data: InteractionDataModule, model: SASRec, seed: int) -> Iterator[Batch]:
    """The batches that `fit` trains on."""
    data.examples_of_model, data.max_history_length = model.examples, model.max_history_length
    loader = data.train_dataloader()
    loader.sampler.set_epoch(seed)  # pyright: ignore[reportAttributeAccessIssue]
    yield from loader


def epoch(model: SASRec, batches: Iterator[Batch], loss: Loss, device: torch.device) -> dict[str, float]:
    """Seconds of one epoch, without Lightning around it, and the targets and slots that it met."""
    optimizer = model.configure_optimizers()
    model.train()
    targets = slots = 0
    start = time.perf_counter()
    for batch in batches:
        targets, slots = targets + int((batch.target > 0).sum()), slots + batch.target.numel()
        optimizer.zero_grad()
        loss(model, batch.to(device)).backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"seconds": time.perf_counter() - start, "targets": targets, "slots": slots}


def difference(model: SASRec, batch: Batch) -> float:
    """How far apart the three losses of one batch are."""
    with torch.no_grad():
        losses = [float(loss(model.eval(), batch)) for loss in (ours, plain, real)]
    return max(losses) - min(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="of each way; the fastest counts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `fit` does
    load, device = os.getloadavg()[0], torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        run = build([RECIPE], NETWORK, run_dir=Path(folder) / "run")
    model, data = run.model, run.data
    assert isinstance(model, SASRec)
    model.to(device)
    apart = difference(model, next(shuffled(data, model, 0)).to(device))
    ways = {"ours": (by_length, ours), "plain": (shuffled, plain), "real": (shuffled, real)}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for seed in range(options.epochs):
        for name, (batches, loss) in ways.items():
            measured[name].append(epoch(model, batches(data, model, seed), loss, device))
            print(f"{name}: {measured[name][-1]['seconds']:.2f} s", flush=True)
    best = {name: min(epochs, key=lambda one: one["seconds"]) for name, epochs in measured.items()}
    faster = {name: best[name]["seconds"] / best["ours"]["seconds"] for name in ("plain", "real")}
    print(f"{faster['plain']:.1f} times a plain loop, {faster['real']:.1f} times one with logits of real slots only")
    record = {
        **{name: value for name, value in vars(options).items() if name != "output"},
        "items": data.num_items,
        "users_in_batch": data.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "times_faster": faster,
        "epoch": best,
        "loss_difference": apart,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
