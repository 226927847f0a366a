"""SASRec with cross-entropy on Amazon Beauty: seconds of a training epoch, and their ratio to a plain PyTorch loop.

DIFFREC_DATA=FOLDER python benchmarks/speed/sasrec_beauty.py --peer-python PEER/bin/python \\
    --output benchmarks/speed/sasrec_beauty.json

Ours: batches of histories of similar length, the softmax over all items chunk by chunk with its gradient. Plain, around
the same network, optimiser and number of batches: users in random order, every window padded to 50 slots, logits of all
slots at once, `cross_entropy` that ignores the empty ones. "real" is the plain loop whose logits are those of real
slots only, which tells the two savings apart. The three take turns, the least of several epochs counts, and their
gradients of one batch are compared.

With --peer-python (an environment with RecBole, made as against_recbole.py says), the epochs of RecBole's trainer
on its SASRec with cross-entropy are measured too, once the others are: same width, blocks, heads, window and dropout,
its own batches (2,048 examples, its default), in which every prefix of a history is an example of its own. Targets
before the window of 50 are examples there and not here; the record counts both.
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
from typing import Any

import numpy as np
import torch
from against_recbole import peer
from torch.nn.functional import cross_entropy

from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule, TrainingBatches
from diffrec.models.sasrec import SASRec
from diffrec.training.build import build
from diffrec.training.memory import keep_freed_memory
from diffrec.typing import Tensor

RECIPE = "sasrec-beauty"
NETWORK = ["--model.num_blocks=2", "--model.num_heads=2", "--model.embedding_size=64"]
RECBOLE: dict[str, Any] = {
    "hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "hidden_dropout_prob": 0.3,
    "attn_dropout_prob": 0.3, "hidden_act": "gelu", "MAX_ITEM_LIST_LENGTH": 50, "loss_type": "CE",
    "train_neg_sample_args": None, "learner": "adam", "learning_rate": 1e-3,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "ITEM_LIST_LENGTH_FIELD": "item_length",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
}  # fmt: skip

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


def recbole_epoch(python: Path, data: InteractionDataModule, threads: int, epochs: int) -> dict[str, Any]:
    """The fastest epoch of RecBole on the same sequences, written in its format with places in time order as times."""
    sequences = data.dataset.parts["all"].items
    rows, places = sequences.row_of_entry, sequences.position_of_entry
    table = np.stack([rows, sequences.values, places], axis=1)
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "beauty" / "beauty.inter").parent.mkdir()
        header = "user_id:token\titem_id:token\ttimestamp:float"
        np.savetxt(path, table, fmt="%d", delimiter="\t", header=header, comments="")
        asked = {"model": "SASRec", "dataset": "beauty", "config": {**RECBOLE, "data_path": folder}}
        printed = peer(python, {**asked, "threads": threads, "epochs": epochs, "evaluations": 0})
    seconds = min(clock for clock, _ in printed["epochs"])
    kept = {name: printed[name] for name in ("training_batches", "parameters", "versions")}
    return {"seconds": seconds, "targets": printed["training_examples"], **kept}


def difference(model: SASRec, batch: Batch) -> float:
    """How far apart the gradients of the item table are that the three give for one batch, of the largest entry."""
    table, gradients = model.items.table.weight, []
    for loss in (ours, plain, real):
        (gradient,) = torch.autograd.grad(loss(model.eval(), batch), table)
        gradients.append(gradient)
    apart = max(float((gradient - gradients[0]).abs().max()) for gradient in gradients)
    return apart / float(gradients[0].abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of a training epoch of SASRec on Amazon Beauty.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="of each way; the fastest counts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with RecBole")
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
    best: dict[str, Any] = {name: min(epochs, key=lambda one: one["seconds"]) for name, epochs in measured.items()}
    if options.peer_python is not None:
        best["recbole"] = recbole_epoch(options.peer_python, data, options.threads, options.epochs)
    faster = {name: one["seconds"] / best["ours"]["seconds"] for name, one in best.items() if name != "ours"}
    for name, ratio in faster.items():
        print(f"{name}: {ratio:.1f} times the seconds of ours")
    record = {
        **{name: value for name, value in vars(options).items() if name not in ("output", "peer_python")},
        "items": data.num_items,
        "users_in_batch": data.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "times_faster": faster,
        "epoch": best,
        "gradient_difference": apart,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
