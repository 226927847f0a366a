"""Baselines that need no training: one file each, the same contract as every model."""

from __future__ import annotations

from importlib import import_module

BASELINES: dict[str, str] = {
    "popularity": "diffrec.baselines.popularity:Popularity",
    "recent-popularity": "diffrec.baselines.recent_popularity:RecentPopularity",
    "markov": "diffrec.baselines.markov:Markov",
    "sequential-rules": "diffrec.baselines.sequential_rules:SequentialRules",
    "item-knn": "diffrec.baselines.item_knn:ItemKNN",
    "ease": "diffrec.baselines.ease:EASE",
    "l3ae": "diffrec.baselines.l3ae:L3AE",
    "slim": "diffrec.baselines.slim:SLIM",
    "rp3beta": "diffrec.baselines.rp3beta:RP3beta",
    "pure-svd": "diffrec.baselines.pure_svd:PureSVD",
    "ials": "diffrec.baselines.ials:IALS",
    "bspm": "diffrec.baselines.bspm:BSPM",
}

_CLASSES = {path.partition(":")[2]: path for path in BASELINES.values()}


def __getattr__(name: str) -> type:
    """The class of a baseline, imported when it is asked for."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _CLASSES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return ["BASELINES", *_CLASSES]
