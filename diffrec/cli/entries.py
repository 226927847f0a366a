"""A trained cell of a suite as an entry of the zoo; what `diffrec demo` and `diffrec bench run --zoo` keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.bench.result import Result
    from diffrec.bench.runner import Trained
    from diffrec.bench.suite import Cell
    from diffrec.zoo.config import Evaluation, Training


def entry_of(cell: Cell, folder: Path) -> Path:
    """`<model>.<dataset>` in `folder`."""
    return folder / f"{cell.model.name}.{cell.dataset.name}"


def is_published(cell: Cell) -> bool:
    """Rows that are trained, no controls, with their first seed: seeds are repeated to be compared, not chosen."""
    from diffrec.bench.suite import training_free

    first = cell.model.control_of is None and cell.seed == cell.model.seeds[0]
    return first and not training_free(cell.model, cell.dataset)


def save_entry(trained: Trained, entry: Path, dtype: str | None = None) -> Path:
    """Write the model, without titles: the terms of the data may not allow to pass them on.

    dtype: of the stored weights, as for `zoo.save`; what it costs is measured.
    """
    from diffrec.zoo import save

    result = trained.result
    training, evaluation = facts_of(result, entry.name)
    metrics = result.metrics if dtype is None else _rounded_metrics(trained, dtype)
    return save(
        trained.model,
        entry,
        dataset=trained.dataset,
        protocol=result.protocol,
        metrics=metrics,
        training=vars(training),
        evaluation=evaluation,
        overwrite=True,
        dtype=dtype,
        float32=None if dtype is None else result.metrics,
    )


def _rounded_metrics(trained: Trained, dtype: str) -> dict[str, float]:
    """The metrics of a trained model with rounded weights."""
    from diffrec.bench.evaluate import mean_metrics
    from diffrec.data.protocol import get_protocol
    from diffrec.zoo.saving import rounded

    result, protocol = trained.result, get_protocol(trained.result.protocol)
    cases, draws = protocol.apply(trained.dataset).test, len(result.draw_metrics)
    return mean_metrics(rounded(trained.model, dtype), cases, protocol.cutoffs, result.seed, draws)


def facts_of(result: Result, name: str) -> tuple[Training, Evaluation]:
    """What an entry says of its training and measuring: nothing that differs between two runs on one machine."""
    from diffrec.zoo.config import Evaluation, Training

    command = f"diffrec zoo build {name} --suite {result.suite} --seed {result.seed}"
    draws, machine = len(result.draw_metrics), (result.device, result.processor, result.threads)
    return Training(command, result.seed, result.epochs), Evaluation(result.seed, draws, *machine, result.packages)
