"""One way to build a run, for the command line, the benchmark harness and the tests."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentError
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from diffrec.data.datamodule import InteractionDataModule
from diffrec.errors import NotFoundError, UsageError
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.training.checkpoint_io import AtomicCheckpointIO
from diffrec.training.config import compose, located
from diffrec.training.guards import StopAtNonFinite
from diffrec.training.learnt_from import LearntFrom
from diffrec.training.products import QuickProducts
from diffrec.training.resume import LastCheckpoint, RandomStates, StopsWhereItStopped, newest_checkpoint

OF_THE_CONFIGURATION = (  # numbers that overflow a clock, and parts that need a package which is not installed
    ArgumentError, MisconfigurationException, ValueError, TypeError, OverflowError, ImportError, RecursionError
)  # fmt: skip
_NUMBERS = ("guidance_scale", "eta")  # YAML writes whole ones without a point


@dataclass(frozen=True)
class Run:
    """A model, its data and its trainer, built from `config`; everything is written below `run_dir`."""

    model: Recommender
    data: InteractionDataModule
    trainer: Trainer
    config: dict[str, object]
    run_dir: Path


def build(configs: Sequence[str | Path], overrides: Sequence[str] = (), run_dir: Path | None = None) -> Run:
    """Compose and check the configuration (`config.compose`), seed everything, build the three parts.

    run_dir: where logs and checkpoints go; by default a new `runs/<model>-<dataset>/version_<n>`.
    `data.seed` follows `seed_everything` unless given. The dataset is loaded, for its number of items is
    an argument of the model. What `decoding` asks for is looked at and changes nothing here, see `decoded`.
    """
    config = compose(configs, overrides)
    folder = Path(run_dir) if run_dir is not None else new_run_dir(run_family(config))
    sections = ("model", "data", "trainer")
    try:
        cli = _construct(config, folder)
        model, data = cast(Recommender, cli.model), cast(InteractionDataModule, cli.datamodule)
        model.vocabulary = data.dataset.vocabulary
        sections = ("decoding",)
        _ = decoded(model, config)  # said now, not after the training
    except BaseException as error:
        if run_dir is None:
            give_up_run_dir(folder)
        told = error
        if isinstance(error, OF_THE_CONFIGURATION):
            told = UsageError(f"the configuration cannot be built: {reason_of(error)}")
        if isinstance(told, UsageError | NotFoundError):
            raise located(told, configs, overrides, sections) from error
        raise
    return Run(model, data, cli.trainer, config, folder)


def decoded(model: Recommender, config: Mapping[str, Any]) -> Recommender:
    """The trained `model` as it is measured: with the arguments, and the settings of `set_sampling`, that `decoding` of
    its configuration changes.

    UsageError where they are of the weights, which are then of another shape, or where the model does not take them.
    """
    changes = config.get("decoding")
    if not changes:
        return model
    arguments = {name: value for name, value in changes.items() if name in inspect.signature(type(model)).parameters}
    other = model.remade(**arguments)
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"decoding changes the weights, set {', '.join(changes)} below model: {reason}") from None
    if later := sampling_changes(model, config):
        other.set_sampling(**later)
    other.vocabulary = model.vocabulary
    return other.to(model.device).eval()


def sampling_changes(model: Recommender, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `decoding` of a configuration says of sampling that is no argument of the model's constructor."""
    arguments = inspect.signature(type(model)).parameters
    changes = {name: value for name, value in (config.get("decoding") or {}).items() if name not in arguments}
    return {
        name: float(value) if isinstance(value, int) and name in _NUMBERS else value for name, value in changes.items()
    }


def _construct(config: dict[str, object], folder: Path) -> _Lightning:
    return _Lightning(
        Recommender,
        InteractionDataModule,
        save_config_callback=None,
        trainer_defaults={
            "callbacks": [
                StopAtNonFinite(),
                QuickProducts(),
                RandomStates(),
                LearntFrom(),
                StopsWhereItStopped(),
                LastCheckpoint(folder / "checkpoints"),
            ]
        },
        parser_class=_Parser,
        parser_kwargs={"exit_on_error": False},
        subclass_mode_model=True,
        args=_completed(config, folder),
        run=False,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def reason_of(error: Exception) -> str:
    """The first particular of a message; jsonargparse begins with generalities and a list."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    return next((line[2:] for line in lines if line.startswith("- ")), lines[0])


def run_family(config: Mapping[str, Any]) -> Path:
    """The folder of all runs of a model on a dataset: `runs/dreamrec-ml-100k`."""
    return Path("runs") / f"{config['model']['class_path'].rpartition('.')[2].lower()}-{config['data']['dataset']}"


def new_run_dir(family: Path) -> Path:
    """A new empty folder `version_<n>` in `family`; two processes never get the same one."""
    taken = [int(p.name[8:]) for p in family.glob("version_*") if p.name[8:].isdigit()]
    for version in itertools.count(max(taken, default=-1) + 1):
        try:
            (folder := family / f"version_{version}").mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def give_up_run_dir(folder: Path) -> None:
    """Remove what `new_run_dir` made, as far as nothing is in it."""
    with suppress(OSError):
        for empty in (folder, folder.parent, folder.parent.parent):
            empty.rmdir()


def last_checkpoint(config: Mapping[str, Any], run_dir: Path | None = None) -> Path | None:
    """`last.ckpt` of the run in `run_dir`, else of the newest run of this model on this dataset that has one."""
    return newest_checkpoint([run_dir] if run_dir is not None else run_family(config).glob("version_*"), "last.ckpt")


def _completed(config: dict[str, object], folder: Path) -> dict[str, Any]:
    """The configuration with the seed of the data, one device, and every place that is written to inside `folder`."""
    complete: dict[str, Any] = deepcopy({key: part for key, part in config.items() if key != "decoding"})
    complete["data"].setdefault("seed", complete["seed_everything"])
    trainer = complete["trainer"]
    trainer |= {"default_root_dir": str(folder), "devices": 1}
    if trainer.get("accelerator", "auto") == "auto" and MPSAccelerator.is_available():
        trainer["accelerator"] = "cpu"  # MPS lacks float64, in which the tables of a diffusion are kept
    for member in _members(trainer.get("logger")):
        member.setdefault("init_args", {})["save_dir"] = str(folder)
    for member in _members(trainer.get("callbacks")):
        if member["class_path"].endswith(".ModelCheckpoint"):
            member.setdefault("init_args", {})["dirpath"] = str(folder / "checkpoints")
    return complete


def _members(value: object) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else []


class _Parser(LightningArgumentParser):
    """Never reads a further file that an argument of the trainer names: it would have passed no check."""

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})


class _Lightning(LightningCLI):
    """Lightning's construction from a checked configuration; closed forms are trained for one epoch."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_items", "model.init_args.num_items", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_object(args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if isinstance(self.model, ClosedFormRecommender):
            kwargs |= {"max_epochs": 1, "check_val_every_n_epoch": 1}
        return super().instantiate_trainer(plugins=[AtomicCheckpointIO()], **kwargs)
