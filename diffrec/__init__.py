"""diffrec: the model zoo for diffusion recommenders. Importing it imports no torch; names load at first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "load": "diffrec.zoo",
    "save": "diffrec.zoo",
    "load_dataset": "diffrec.data.sources",
    "Batch": "diffrec.data.batch",
    "Recommender": "diffrec.recommender",
    "Recommendations": "diffrec.lists",
    "DiffusionRecommender": "diffrec.recommender",
    "InteractionDataModule": "diffrec.data.datamodule",
    "get_protocol": "diffrec.data.protocol",
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffrec.data.batch import Batch as Batch
    from diffrec.data.datamodule import InteractionDataModule as InteractionDataModule
    from diffrec.data.protocol import get_protocol as get_protocol
    from diffrec.data.sources import load_dataset as load_dataset
    from diffrec.lists import Recommendations as Recommendations
    from diffrec.recommender import DiffusionRecommender as DiffusionRecommender
    from diffrec.recommender import Recommender as Recommender
    from diffrec.zoo import load as load
    from diffrec.zoo import save as save


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'diffrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
