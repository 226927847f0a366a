"""Pretrained models: `load` one by name or path, `save` one. Names load at first use, so listing needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec.zoo.loading import load as load
    from diffrec.zoo.saving import save as save

__all__ = ["load", "save"]

_PUBLIC = {"load": "diffrec.zoo.loading", "save": "diffrec.zoo.saving"}


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'diffrec.zoo' has no attribute {name!r}")
