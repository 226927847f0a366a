"""A trained model with the data it is asked about, from an entry of the zoo or a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from diffrec.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from diffrec.bench.subject import Subject
    from diffrec.zoo.entry import Entry


def subject_of(model: str, dataset: str | None, protocol: str | None, seed: int | None, batch_size: int) -> Subject:
    """That of a checkpoint where `model` ends in .ckpt, else that of a zoo entry by name or folder."""
    from diffrec.zoo.finding import find_entry

    if model.endswith(".ckpt"):
        return subject_of_checkpoint(Path(model), dataset, protocol, seed, batch_size)
    return subject_of_entry(find_entry(model), dataset, protocol, seed, batch_size)


def subject_of_entry(
    entry: Entry, dataset: str | None, protocol: str | None, seed: int | None, batch_size: int
) -> Subject:
    """The model of the entry on the dataset and protocol that were asked for, else on its own.

    Raises UsageError where neither says which, IntegrityError where the entry's own dataset has changed.
    """
    from diffrec.bench.subject import Subject
    from diffrec.data.protocol import get_protocol, refuse_other_part
    from diffrec.data.sources import load_dataset
    from diffrec.data.splits import TrainingPart
    from diffrec.zoo import load
    from diffrec.zoo.config import Config, Measured
    from diffrec.zoo.entry import CONFIG, METRICS

    config = Config.parse(entry.read(CONFIG), str(entry.folder / CONFIG))
    trained_on = config.dataset and config.dataset.name
    name = _stated("dataset", dataset or trained_on, entry)
    asked = get_protocol(_stated("protocol", protocol or config.protocol, entry))
    data = load_dataset(name)
    if config.dataset is not None and name == trained_on and data.sha256 != config.dataset.sha256:
        told = f"the entry was trained on {config.dataset.sha256[:12]}"
        raise IntegrityError(f"the dataset {name} here has sha256 {data.sha256[:12]}, {told}")
    model = load(entry.folder, offline=True)
    refuse_other_part(entry.folder.name, model.trained_on, TrainingPart(name, asked.id))
    trained = Measured.parse(entry.read(METRICS), str(entry.folder / METRICS)).training
    of_noise = seed if seed is not None else trained.seed or 0
    return Subject(model, data, asked, of_noise, batch_size)


def _stated(option: str, value: str | None, entry: Entry) -> str:
    if value is None:
        raise UsageError(f"{entry.folder} does not say under which {option} it was measured; give --{option}")
    return value


def subject_of_checkpoint(
    path: Path, dataset: str | None, protocol: str | None, seed: int | None, batch_size: int
) -> Subject:
    """The model of a run with these weights, on its own dataset and protocol unless others were asked for."""
    from diffrec.bench.subject import Subject
    from diffrec.data.protocol import refuse_other_part
    from diffrec.data.splits import TrainingPart
    from diffrec.training.build import build
    from diffrec.training.checkpoint_io import load_weights, read_checkpoint
    from diffrec.training.config import compose
    from diffrec.training.learnt_from import refuse_other_data
    from diffrec.training.progress import hush_lightning
    from diffrec.training.resume import run_of

    hush_lightning()
    checkpoint = read_checkpoint(path)
    config = run_of(path) / "config.yaml"
    if not config.is_file():
        raise UsageError(f"there is no {config}, the configuration of {path}")
    given = [f"--data.{name}={word}" for name, word in (("dataset", dataset), ("protocol", protocol)) if word]
    trained = cast("dict[str, Any]", compose([config], [])["data"])
    run = build([config], ["--trainer.logger=false", *given], run_of(path))
    part = TrainingPart(trained["dataset"], trained.get("protocol", run.data.protocol.id))
    refuse_other_part(str(path), part, TrainingPart(run.data.dataset_name, run.data.protocol.id))
    refuse_other_data(checkpoint, run.data, path)
    load_weights(run.model, checkpoint, path)
    of_noise = run.data.seed if seed is None else seed
    return Subject(run.model.eval(), run.data.dataset, run.data.protocol, of_noise, batch_size)
