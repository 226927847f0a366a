"""Nothing in the package makes code of what a file says: no pickle, eval, exec, unsafe YAML or torch loads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import diffrec

_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "_pickle"}
_CALLS = {"eval", "exec", "__import__", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
_CALLS |= {"torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"}
_WITH = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def renamed(node: ast.AST) -> bool:
    return isinstance(node, ast.Import) and any(alias.asname for alias in node.names)


def dangers(source: str) -> list[str]:
    """What of it could run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.partition(".")[0] in _MODULES]
        found += [name for name in names if name == "pickle" and (isinstance(node, ast.ImportFrom) or renamed(node))]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr != "UnpicklingError":
            found.append(f"pickle.{node.attr}")
        if isinstance(node, ast.Call):
            called, words = ast.unparse(node.func), {(k.arg, ast.unparse(k.value)) for k in node.keywords}
            keyword, value = _WITH.get(called, ("", None))
            if called in _CALLS or (keyword and (keyword, str(value)) not in words):
                found.append(called)
    return found


@pytest.mark.parametrize("path", sorted(Path(diffrec.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_is_without_dangers(path):
    assert not dangers(path.read_text(encoding="utf-8"))


DANGERS = """
import pickle as p
pickle.loads(data)
from pickle import loads
import os, marshal
import shelve as s
exec(text)
eval(text)
__import__(name)
yaml.load(text, Loader=yaml.Loader)
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=unsure)
np.load(path)
""".strip().splitlines()


@pytest.mark.parametrize("line", DANGERS)
def test_a_danger_is_seen(line):
    assert dangers(f"def f():\n    {line}")


@pytest.mark.parametrize(
    "line",
    ["import pickle", "pickle.UnpicklingError", "model.eval()", "torch.load(path, weights_only=True)", "re.compile(x)"],
)
def test_what_only_looks_like_one_is_allowed(line):
    assert not dangers(line)
