"""Going on with a run: the same experiment, and the same random numbers as if it had never stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from diffrec.errors import NotFoundError, UsageError
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.yaml_tree import read_yaml

MAY_DIFFER = ("trainer.max_epochs", "trainer.max_time", "trainer.logger")
_SHOWN = 5  # differences
_MISSING = "not set"


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint: `<run>/checkpoints/<name>.ckpt`."""
    return checkpoint.parent.parent


def best_of(run: Path) -> Path | None:
    """The checkpoint that validation chose, of the folder of a run, if it is one."""
    return newest_checkpoint([run], "best.ckpt")


def newest_checkpoint(runs: Iterable[Path], name: str) -> Path | None:
    """`checkpoints/<name>` of the run that wrote it last; None where no run has one."""
    found = [path for run in runs if (path := run / "checkpoints" / name).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def checkpoint_to_go_on_from(config: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Its content. UsageError where `config` differs from the config.yaml of the run in more than MAY_DIFFER, or ends
    before it, and where nothing can go on from the checkpoint.

    Raises NotFoundError where checkpoint or config.yaml are not there.
    """
    kept = read_checkpoint(checkpoint)
    path = run_of(checkpoint) / "config.yaml"
    if not path.is_file():
        raise NotFoundError(f"there is no {path}; without it nobody knows what {checkpoint} would go on with")
    stored = read_yaml(path.read_text(encoding="utf-8"), str(path)).plain()
    if different := _differences(_leaves(config), _leaves(stored)):
        more = f"; and {len(different) - _SHOWN} more" * (len(different) > _SHOWN)
        raise UsageError(
            f"{checkpoint} is of another experiment: {'; '.join(different[:_SHOWN])}{more}. "
            f"Only {', '.join(MAY_DIFFER)} may differ in a run that goes on"
        )
    loops, epoch = kept["loops"]["fit_loop"], kept["epoch"] + 1
    inside, wanted = _inside(loops["epoch_progress"]), config["trainer"].get("max_epochs")
    place = f"{'inside' if inside else 'at the end of'} epoch {epoch}"
    if isinstance(wanted, int) and 0 <= wanted < epoch:
        raise UsageError(f"{checkpoint} is {place}, and trainer.max_epochs is {wanted}; ask for more")
    if not inside and kept["global_step"] < config["trainer"].get("max_steps", -1):
        raise UsageError(f"{checkpoint} is {place}; a run with trainer.max_steps goes on only from inside one")
    if inside and (moment := _no_place_to_go_on(loops)):
        raise UsageError(
            f"{checkpoint} was written {moment} of epoch {epoch}; training goes on from between two batches that each "
            "ended with a step of the optimiser, or from an end of an epoch (last.ckpt)"
        )
    return kept


def _inside(epochs: Mapping[str, Any]) -> bool:
    """Whether an epoch has begun that was not over."""
    return epochs["current"]["started"] > epochs["current"]["processed"]


def _no_place_to_go_on(loops: Mapping[str, Any]) -> str | None:
    """What was not done yet, and is in no checkpoint, inside an epoch; None where there was nothing."""
    batches = loops["epoch_loop.batch_progress"]
    optimiser = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    if batches["current"]["ready"] != batches["current"]["processed"]:
        return "in the middle of a batch"
    if optimiser["zero_grad"]["total"]["completed"] != optimiser["step"]["total"]["completed"]:
        return "while gradients of several batches were added up, in the middle"
    before = batches["is_last_batch"] and batches["current"]["completed"] < batches["current"]["processed"]
    return "before the validation at the end" if before else None


def _differences(now: Mapping[str, object], then: Mapping[str, object]) -> list[str]:
    """`model.lr is 0.1, was 0.01` for every key, in the words of the command line."""
    keys = [key for key in dict.fromkeys([*now, *then]) if not key.startswith(MAY_DIFFER)]
    values = [(key.replace(".init_args.", "."), now.get(key, _MISSING), then.get(key, _MISSING)) for key in keys]
    return [f"{key} is {here}, was {there}" for key, here, there in values if here != there]


def _leaves(tree: object, path: str = "") -> dict[str, object]:
    """Every value of a configuration by its dotted path; members of a list of classes by their place."""
    if isinstance(tree, list) and any(isinstance(member, dict) for member in tree):
        tree = {str(place): member for place, member in enumerate(tree)}
    if not (isinstance(tree, dict) and tree):
        return {path: tree}
    below = [_leaves(child, f"{path}.{key}" if path else key) for key, child in tree.items()]
    return {key: value for leaves in below for key, value in leaves.items()}


class LastCheckpoint(ModelCheckpoint):
    """Writes `last.ckpt`, which `--resume` reads, at the end of an epoch; the best one is the configuration's affair.

    Where epochs are short it passes over some, so that writing takes a fiftieth of the time and not a tenth;
    the last epoch is always written.
    """

    _SHARE = 50

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.next_time = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.perf_counter() < self.next_time and not _ends(trainer):
            return
        start = time.perf_counter()
        super().on_train_epoch_end(trainer, pl_module)
        end = time.perf_counter()
        self.next_time = end + self._SHARE * (end - start)


class StopsWhereItStopped(Callback):
    """Lightning does not remember that early stopping had the last word, and would train one epoch more."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the states of all callbacks are back, before the first epoch."""
        for stopping in trainer.early_stopping_callbacks:
            assert stopping is not None
            if stopping.stopped_epoch > 0 or stopping.wait_count >= max(stopping.patience, 1):
                trainer.should_stop = True


def _ends(trainer: Trainer) -> bool:
    """Whether this epoch is the last."""
    by_epochs = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch + 1
    return trainer.should_stop or by_epochs or 0 <= trainer.max_steps <= trainer.global_step


class RandomStates(Callback):
    """Keeps the random states in every checkpoint, and puts them back right before the first batch is drawn.

    The loader draws a number for its workers at the beginning of an epoch: after a checkpoint from an end of one,
    before a checkpoint from inside.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and lists, which `torch.load(weights_only=True)` reads."""
        of_numpy = np.random.get_state(legacy=False)
        version, words, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            "numpy": [
                of_numpy["state"]["key"].tolist(),
                of_numpy["state"]["pos"],
                of_numpy["has_gauss"],
                of_numpy["gauss"],
            ],
            "python": [version, list(words), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After Lightning has restored the checkpoint, before the data loader draws its number."""
        if self.loaded is not None:
            _put_back(self.loaded)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After that draw, which inside an epoch is one too many."""
        if self.loaded is not None and trainer.fit_loop.restarted_mid_epoch:
            _put_back(self.loaded)
        self.loaded = None


def _put_back(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
