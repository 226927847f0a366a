"""A trained cell of a suite as an entry of the zoo; what `diffrec demo` and `diffrec bench run --zoo` keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.bench.runner import Trained
    from diffrec.bench.suite import Cell


def entry_of(cell: Cell, folder: Path) -> Path:
    """`<model>.<dataset>` in `folder`."""
    return folder / f"{cell.model.name}.{cell.dataset.name}"


def is_published(cell: Cell) -> bool:
    """Rows that are trained, no controls, with their first seed: seeds are repeated to be compared, not chosen."""
    from diffrec.bench.suite import training_free

    first = cell.model.control_of is None and cell.seed == cell.model.seeds[0]
    return first and not training_free(cell.model, cell.dataset)


def save_entry(trained: Trained, entry: Path) -> None:
    """Write the model, without titles: the terms of the data may not allow to pass them on."""
    from diffrec.zoo import save

    result = trained.result
    save(
        trained.model,
        entry,
        dataset=trained.dataset,
        protocol=result.protocol,
        metrics=result.metrics,
        training={
            "command": f"diffrec bench run {result.suite} --only {result.model} --seeds {result.seed}",
            "seed": result.seed,
            "epochs": result.epochs,
            "seconds": result.train_seconds,
        },
        overwrite=True,
    )
