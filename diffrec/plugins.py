"""Models of other packages: the entry points of the group `diffrec.models`, known by name before anything is imported.

A package announces `name = "package.module:Class"` in its metadata. The name is used as those of `configs/model` are,
`-c model/name`; the class has to meet the contract of `Recommender`, which `diffrec.testing` checks.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions

from diffrec.baselines import BASELINES
from diffrec.errors import PluginWarning, UsageError
from diffrec.models import MODELS

GROUP = "diffrec.models"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VALUE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


@dataclass(frozen=True)
class Plugin:
    """One model of another package. class_path: `package.module.Class`; package: the name it was installed under."""

    name: str
    class_path: str
    package: str

    def load(self) -> type:
        """The class. UsageError, which names the package, where it cannot be imported."""
        module, _, name = self.class_path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the code of another package does when it is imported
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise UsageError(f"the plug-in {self.name!r} of {self.package} cannot be imported ({reason})") from error
        if not isinstance(found, type):
            raise UsageError(f"the plug-in {self.name!r} of {self.package} names {self.class_path}, which is no class")
        return found


@cache
def plugins() -> Mapping[str, Plugin]:
    """All plug-ins by name; what is wrong with others is said once, as a PluginWarning. Nothing is imported."""
    found: dict[str, Plugin] = {}
    for name, value, package in sorted(_announced()):
        if reason := _fault(name, value, found):
            warnings.warn(f"a plug-in of {package} is left out: {reason}", PluginWarning, stacklevel=2)
        else:
            found[name] = Plugin(name, value.replace(":", "."), package)
    return found


def by_class(class_path: str) -> Plugin | None:
    """The plug-in that announces this class, if one does."""
    return next((plugin for plugin in plugins().values() if plugin.class_path == class_path), None)


def plugin_of(cls: type) -> Plugin | None:
    """The plug-in whose class this is, if it is one."""
    top = cls.__module__.partition(".")[0]
    alike = re.compile(rf"{re.escape(top)}\..*{re.escape(cls.__name__)}")
    candidates = (plugin for plugin in plugins().values() if alike.fullmatch(plugin.class_path))
    return next((plugin for plugin in candidates if plugin.load() is cls), None)


def _announced() -> Iterator[tuple[str, str, str]]:
    """Name, value and package of every entry point of the group; of two installations the one that is imported."""
    seen: set[str] = set()
    for distribution in distributions():
        package = _name_of(distribution)
        if package in seen:
            continue
        seen.add(package)
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:  # metadata of others may be anything
            warnings.warn(f"the entry points of {package} cannot be read: {error}", PluginWarning, stacklevel=3)
            continue
        for point in points:
            yield point.name, point.value.replace(" ", ""), package


def _name_of(distribution: Distribution) -> str:
    try:
        return distribution.metadata["Name"] or "a package without a name"
    except Exception:  # as above
        return "a package without metadata"


def _fault(name: str, value: str, found: Mapping[str, Plugin]) -> str:
    """What is wrong with an announcement, "" for nothing."""
    parts = _VALUE.fullmatch(value)
    if not _NAME.fullmatch(name):
        return f"the name {name!r} is not of a-z, 0-9, '.', '_' and '-'"
    if parts is None:
        return f"{name} = {value!r} is not of the form package.module:Class"
    if name in MODELS or name in BASELINES:
        return f"{name!r} is a model of diffrec"
    if name in found:
        return f"{name!r} is a model of {found[name].package}"
    top = parts[1].partition(".")[0]
    if top == "diffrec":
        return f"{name!r} lies in diffrec itself"
    return "" if _is_there(top) else f"{name!r} lies in {top!r}, which is not installed"


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a specification
        return False
