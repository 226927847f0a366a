"""A model of RecBole on a dataset: seconds of training epochs and evaluations, printed as JSON.

Started by against_recbole.py and sasrec_beauty.py with the Python of RecBole's environment; imports nothing of diffrec.
Its trainer, its data loaders and its evaluation, as they come; progress bars are off.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


def timed(call: Any, times: int) -> tuple[list[tuple[float, float]], Any]:
    """(seconds, seconds of the processor) of each call, and what the last one gave."""
    seconds, value = [], None
    for _ in range(times):
        start, start_cpu = time.perf_counter(), time.process_time()
        value = call()
        seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return seconds, value


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes below the working folder
        settings = {**asked["config"], "use_gpu": False, "show_progress": False, "checkpoint_dir": folder}
        config = Config(model=asked["model"], dataset=asked["dataset"], config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        torch.set_num_threads(asked["threads"])
        train, valid, _ = data_preparation(config, create_dataset(config))
        model = get_model(config["model"])(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.eval_collector.data_collect(train)
        epochs = iter(range(asked["epochs"]))
        epoch_seconds, _ = timed(lambda: trainer._train_epoch(train, next(epochs)), asked["epochs"])
        evaluation_seconds, result = timed(lambda: trainer.evaluate(valid, load_best_model=False), asked["evaluations"])
    print(
        json.dumps(
            {
                "epochs": epoch_seconds,
                "evaluations": evaluation_seconds,
                "result": {name: float(value) for name, value in (result or {}).items()},
                "users": train.dataset.user_num - 1,
                "training_examples": len(train.dataset),
                "training_batches": len(train),
                "users_in_evaluation_batch": valid.step,
                "parameters": sum(p.numel() for p in model.parameters()),
                "versions": {"recbole": recbole.__version__, "torch": torch.__version__, "numpy": np.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
