"""One trial of a tuning: its settings' metric on validation. A closed form is solved once for all it can be asked."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from diffrec.bench.evaluate import measure_one
from diffrec.bench.result import sha256_of
from diffrec.bench.search import Settings
from diffrec.bench.searches import SEED, Places, Search
from diffrec.bench.suite import SuiteDataset
from diffrec.bench.training import training
from diffrec.bench.tuning import Trial
from diffrec.data.datamodule import InteractionDataModule
from diffrec.errors import DiffrecError, is_lack_of_memory
from diffrec.recommender import ClosedFormRecommender, Recommender
from diffrec.training.build import build


def run_trial(search: Search, settings: Settings, places: Places, solver: Solver) -> Trial:
    """Train with these settings and validate.

    An error of the model, or memory that does not suffice, is a trial without a value: the next settings are tried.
    """
    started = time.perf_counter()
    value, error = None, None
    try:
        value = solver.value(search, settings) if solver.solves(search) else _trained_value(search, settings, places)
    except Exception as refused:
        if not (isinstance(refused, DiffrecError) or is_lack_of_memory(refused)):
            raise
        error = (str(refused) or type(refused).__name__).partition("\n")[0]
    return Trial(dict(settings), value, round(time.perf_counter() - started, 2), error)


def _trained_value(search: Search, settings: Settings, places: Places) -> float:
    family = search.folder(places) / sha256_of(settings)[:12]
    with training(search.model.configs, search.overrides(settings), family, SEED) as fitted:
        if fitted.result.best is not None and fitted.result.metric == f"valid/{search.protocol.headline}":
            return fitted.result.best
        return _headline(fitted.run.model, fitted.run.data, search)


def _headline(model: Recommender, data: InteractionDataModule, search: Search) -> float:
    """The metric that settings are chosen by, on the validation cases."""
    return measure_one(model, data.split.valid, search.protocol.headline, batch_size=data.eval_batch_size, seed=SEED)


class Solver:
    """Values of closed forms. A solved model is asked again where settings differ in `asked_with` only."""

    def __init__(self) -> None:
        self.data: dict[SuiteDataset, InteractionDataModule] = {}
        self.key: object = None
        self.model: ClosedFormRecommender | None = None

    def solves(self, search: Search) -> bool:
        """Is the row a closed form?"""
        return issubclass(_class_of(search), ClosedFormRecommender)

    def order(self, search: Search, settings: Settings) -> str:
        """Settings that are solved alike stand together."""
        cls = _class_of(search)
        asked = cls.asked_with if issubclass(cls, ClosedFormRecommender) else ()
        solved = {name: value for name, value in settings.items() if name.rpartition(".")[2] not in asked}
        return json.dumps([solved, str(search), settings])

    def value(self, search: Search, settings: Settings) -> float:
        """The headline on validation."""
        return _headline(self._solved(search, settings), self._data(search), search)

    def _data(self, search: Search) -> InteractionDataModule:
        if search.dataset not in self.data:
            module = InteractionDataModule(search.dataset.name, search.protocol.id)
            others = [there for dataset, there in self.data.items() if dataset.name == search.dataset.name]
            if others:
                module.__dict__["dataset"] = others[0].dataset
            self.data[search.dataset] = module
        return self.data[search.dataset]

    def _solved(self, search: Search, settings: Settings) -> ClosedFormRecommender:
        config = search.config(settings)["model"]
        arguments, split = config.get("init_args", {}), self._data(search).split
        asked = _class_of(search).asked_with
        solved = {name: value for name, value in arguments.items() if name not in asked}
        content = hashlib.sha256(split.train.values.tobytes() + split.train.offsets.tobytes())
        if split.timestamps is not None:
            content.update(split.timestamps.values.tobytes())
        key = (config["class_path"], json.dumps(solved, sort_keys=True), content.hexdigest())
        if self.model is None or key != self.key:
            self.model = None  # the memory of the last one is needed
            with tempfile.TemporaryDirectory() as folder:
                run = build(search.model.configs, search.overrides(settings), Path(folder))
            model = run.model.to(run.trainer.strategy.root_device)
            assert isinstance(model, ClosedFormRecommender)
            model.prepare_on(split)
            self.model, self.key = model.eval(), key
        for name in asked:
            if name in arguments:
                setattr(self.model, name, arguments[name])
        return self.model


def _class_of(search: Search) -> Any:
    module, _, name = search.config({})["model"]["class_path"].rpartition(".")
    return getattr(import_module(module), name)
