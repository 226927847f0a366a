"""A worker of `diffrec bench run`: runs one cell in a process of its own, see `diffrec.bench.jobs`."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.bench.jobs import Answer, Order, serve
from diffrec.cli.entries import entry_of, is_published, save_entry

if TYPE_CHECKING:
    from diffrec.bench.runner import Trained

COMMAND = (sys.executable, "-m", "diffrec.cli.bench_worker")


def work(order: Order) -> Answer:
    """Run the cell of an order, as `diffrec bench run` does without workers."""
    sys.stderr.write(f"process {os.getpid()} on {socket.gethostname()}: {order.task.cell}\n")
    sys.stderr.flush()
    import torch

    from diffrec.bench.runner import attempt
    from diffrec.training.progress import hush_lightning, progress_for

    torch.set_num_threads(order.threads)
    hush_lightning()
    keep = partial(keep_published, zoo=None if order.models is None else Path(order.models))
    outcome = attempt(order.task, order.folders, lambda monitor: progress_for(sys.stderr, monitor), keep)
    if outcome is None:
        return Answer("busy")
    if outcome.error is not None:
        sys.stderr.write(f"failed: {outcome.error}\n")
        return Answer("failed", outcome.error)
    return Answer("there" if outcome.reused else "done")


def keep_published(trained: Trained, zoo: Path | None) -> None:
    """Save the model of a row that is published, where models are to be kept."""
    if zoo is not None and is_published(trained.cell):
        save_entry(trained, entry_of(trained.cell, zoo))


if __name__ == "__main__":
    sys.exit(serve(work))
