"""Where things lie: the folders that ship with the project, the cache, and datasets people bring."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

# Folders of the cache whose files are made here, and the commands that make them.
MAKING = {"vectors": "diffrec data embed", "codes": "diffrec data tokenize"}


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Where the system refuses without naming a file, as on a full disk, let the OSError name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename, error.strerror = str(path), os.strerror(error.errno)
        raise


def resource_dir(name: Literal["configs", "zoo", "benchmarks"]) -> Path:
    """A top-level folder of the project: of the checkout, or its copy inside the installed package."""
    here = Path(__file__).resolve().parent
    checkout = here.parent / name
    return checkout if (here.parent / "pyproject.toml").exists() else here / "_resources" / name


def cache_dir() -> Path:
    """Downloads, by content: `DIFFREC_CACHE`, else `XDG_CACHE_HOME`/diffrec, else ~/.cache/diffrec."""
    if chosen := os.environ.get("DIFFREC_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffrec"


def data_dir() -> Path | None:
    """The folder of datasets named by `DIFFREC_DATA`, if there is one."""
    chosen = os.environ.get("DIFFREC_DATA")
    return Path(chosen) if chosen else None
