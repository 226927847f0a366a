"""DiffRec on MovieLens 100K against RecBole's in the same run: a training epoch and a full-ranking evaluation.

python3 -m venv PEER && PEER/bin/pip install 'torch==2.13.0' 'numpy<2' 'setuptools<80'
PEER/bin/pip install --no-deps recbole==1.2.1
PEER/bin/pip install 'pandas<2.3' 'scipy<1.13' scikit-learn pyyaml tqdm colorlog colorama tensorboard thop tabulate \\
    plotly texttable psutil
python benchmarks/speed/against_recbole.py --peer-python PEER/bin/python --output benchmarks/speed/against_recbole.json

(RecBole asks for ray for its search of settings; it imports without.) Equal: the interactions (one table, whose hash
`diffrec.data.movielens` pins), leave-one-out by time with the last item but one as target, history and mask = the
items before it, all items ranked, network, noise, T, dropout, loss weights, timestep sampler, optimiser (AdamW with
decay 0 is Adam), users a training batch, threads. Not equal: seeds. Each side's epoch is its own trainer's, each
side's evaluation its own: RecBole's gives Recall, MRR, NDCG, Hit and Precision at 10; ours all metrics at 10 with
bounds of ties, and the lists. The two sides take turns. Medians are compared, of the clock and of the processor's
time; with one thread the latter hardly depends on what else the machine does, with more it counts threads that wait.
RecBole's `eval_batch_size` counts scores, so that 4,096, its default, is two users at a time. That is "as it comes";
"same batch" gives it as many users as ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback

from diffrec.bench.evaluate import evaluate
from diffrec.training.build import build
from diffrec.training.fit import fit

ITEMS, USERS_AT_ONCE, K = 1682, 512, 10
OURS = [
    "--data.protocol=loo-full-masked@1", "--model.dims=[200]",
    "--model.noise_scale=1e-3", "--model.lr=1e-3", "--trainer.check_val_every_n_epoch=1000",
    "--trainer.accelerator=cpu", f"--data.eval_batch_size={USERS_AT_ONCE}",
]  # fmt: skip
RECBOLE: dict[str, Any] = {
    "dims_dnn": [200], "noise_schedule": "linear-var", "noise_scale": 1e-3, "noise_min": 5e-4,
    "noise_max": 5e-3, "learner": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "embedding_size": 10,
    "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"], "topk": [K],
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
}  # fmt: skip


def now() -> tuple[float, float]:
    """The clock and the processor's time of this process."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both since then."""
    clock, cpu = now()
    return clock - start[0], cpu - start[1]


class EpochSeconds(Callback):
    """From the start of each training epoch to its end."""

    def __init__(self) -> None:
        self.seconds: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
        self._start = now()

    def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
        self.seconds.append(since(self._start))


def ours(epochs: int, evaluations: int, batch_size: int, timesteps: int) -> dict[str, Any]:
    """The same as recbole_peer.py prints."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [f"--data.batch_size={batch_size}", f"--model.num_train_timesteps={timesteps}"]
        overrides = [*OURS, *sizes, f"--trainer.max_epochs={epochs}"]
        run = build(["data/ml-100k", "model/diffrec"], overrides, run_dir=Path(folder) / "run")
        clock = EpochSeconds()
        run.trainer.callbacks.insert(0, clock)  # pyright: ignore[reportAttributeAccessIssue]
        fit(run)
    cases, model = run.data.split.valid, run.model.eval()
    seconds, result = [], None
    for _ in range(evaluations):
        start = now()
        result = evaluate(model, cases, (K,), batch_size=USERS_AT_ONCE)
        seconds.append(since(start))
    assert result is not None
    return {
        "epochs": clock.seconds,
        "evaluations": seconds,
        "result": dict(result.metrics),
        "users": len(cases),
        "training_batches": run.trainer.num_training_batches,
        "users_in_evaluation_batch": USERS_AT_ONCE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def theirs(python: Path, threads: int, epochs: int, evaluations: int, config: dict[str, Any]) -> dict[str, Any]:
    """What RecBole's process prints last."""
    asked = {"model": "DiffRec", "dataset": "ml-100k", "config": config}
    return peer(python, {**asked, "threads": threads, "epochs": epochs, "evaluations": evaluations})


def peer(python: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The same for any model; asked: what recbole_peer.py reads."""
    threads = asked["threads"]
    script = str(Path(__file__).with_name("recbole_peer.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment.pop("PYTHONPATH", None)
    command = [str(python), script, json.dumps(asked)]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def pooled(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all rounds; the first epoch and evaluation of each are warm-up."""
    medians = {}
    for name in ("epoch", "evaluation"):
        clock, cpu = zip(*(seconds for one in rounds for seconds in one[f"{name}s"][1:]), strict=True)
        medians |= {f"{name}_seconds": statistics.median(clock), f"{name}_cpu_seconds": statistics.median(cpu)}
        medians |= {f"{name}_seconds_fastest": min(clock)}
    return {name: value for name, value in rounds[-1].items() if name not in ("epochs", "evaluations")} | medians


def compare(options: argparse.Namespace, timesteps: int) -> dict[str, Any]:
    """Both sides in turn at one T."""
    counts = options.epochs, options.evaluations
    as_it_comes = {**RECBOLE, "steps": timesteps, "train_batch_size": options.batch_size}
    same_batch = {**as_it_comes, "eval_batch_size": USERS_AT_ONCE * (ITEMS + 1)}
    rounds = [
        (
            ours(*counts, options.batch_size, timesteps),
            theirs(options.peer_python, options.threads, *counts, as_it_comes),
            theirs(options.peer_python, options.threads, *counts, same_batch),
        )
        for _ in range(options.rounds)
    ]
    mine, default, same = (pooled(list(side)) for side in zip(*rounds, strict=True))
    ratios = {}
    for kind in ("seconds", "cpu_seconds", "seconds_fastest"):
        ratios[f"epoch_{kind}"] = default[f"epoch_{kind}"] / mine[f"epoch_{kind}"]
        ratios[f"evaluation_{kind}"] = default[f"evaluation_{kind}"] / mine[f"evaluation_{kind}"]
        ratios[f"evaluation_same_batch_{kind}"] = same[f"evaluation_{kind}"] / mine[f"evaluation_{kind}"]
    for name, value in ratios.items():
        print(f"T = {timesteps}, {name}: {value:.1f} times faster", flush=True)
    sides = {"ours": mine, "recbole_as_it_comes": default, "recbole_same_evaluation_batch": same}
    return {"timesteps": timesteps, "times_faster": ratios, **sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", type=Path, required=True, help="Python of an environment with RecBole")
    parser.add_argument("--epochs", type=int, default=6, help="of each round, the first not counted")
    parser.add_argument("--evaluations", type=int, default=4, help="of each round, the first not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256, help="users in a training batch")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[5, 40], help="T; RecBole's default is 5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    results = [compare(options, timesteps) for timesteps in options.timesteps]
    record = {
        **{name: value for name, value in vars(options).items() if name not in ("output", "peer_python")},
        "results": results,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "machine": platform.machine(),
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
