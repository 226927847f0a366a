"""Vectors and codes of the items of a dataset, in safetensors files that say how they were made.

A file lies in the cache under `<kind>/<dataset>/<name>.safetensors`, and is named `<dataset>/<name>`. Its header holds
the facts as JSON and a hash of the tensors, which is checked whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save

from diffrec.errors import IntegrityError, NotFoundError, UsageError, near_match
from diffrec.files import write_file
from diffrec.paths import MAKING, cache_dir
from diffrec.typing import Tensor

Kind = Literal["vectors", "codes"]
Readable = Kind | Literal["model"]  # what an argument may name that a run reads
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


@dataclass(frozen=True, eq=False)
class Artefact:
    """Tensors by name, and how they were made; sha256: of the tensors, None where the file states none."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    sha256: str | None = None


def artefact_path(kind: Kind, name: str) -> Path:
    """Where the artefact `<dataset>/<name>` lies in the cache."""
    return cache_dir() / kind / f"{name}.safetensors"


def find_artefact(kind: Kind, name: str | Path) -> Path:
    """A file of that path, else the artefact of that name in the cache; NotFoundError says how to make one."""
    if Path(name).is_file():
        return Path(name)
    if (path := artefact_path(kind, str(name))).is_file():
        return path
    folder = cache_dir() / kind
    there = [p.relative_to(folder).with_suffix("").as_posix() for p in sorted(folder.rglob("*.safetensors"))]
    raise NotFoundError(
        f"no file {str(name)!r} with item {kind}, and none of that name in {folder}{near_match(str(name), there)}; "
        f"{MAKING[kind]!r} makes one"
    )


def write_artefact(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Artefact:
    """Write and return it; the file appears whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _hash(contiguous)
    write_file(path, save(contiguous, {"facts": json.dumps(facts, sort_keys=True), "sha256": digest}))
    return Artefact(contiguous, facts, digest)


def read_artefact(path: Path) -> Artefact:
    """UsageError for what is no safetensors file, IntegrityError where its tensors are not those it was written with.

    Files of other makers, without facts and hash, are read too.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except Exception as error:  # safetensors has an exception of its own for each fault
        raise UsageError(f"{path} is no safetensors file: {error}") from None
    digest = header.get("sha256")
    if digest is not None and (seen := _hash(tensors)) != digest:
        raise IntegrityError(f"{path}: its tensors have sha256 {seen}, it was written with {digest}")
    try:
        facts = json.loads(header.get("facts", "{}"))
    except ValueError as error:
        raise IntegrityError(f"{path}: its facts are not JSON: {error}") from None
    return Artefact(tensors, facts, digest)


def is_name(name: str) -> bool:
    """Whether it is `<dataset>/<name>`."""
    parts = name.split("/")
    return len(parts) == 2 and all(map(_NAME.fullmatch, parts))


def check_name(name: str) -> str:
    """`name`, as artefacts of a dataset may be called; UsageError for another."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"the name {name!r} is not allowed; use at most 96 of a-z, 0-9, '.', '_' and '-'")
    return name


def hash_of_artefact(kind: Kind, name: str | Path) -> str:
    """sha256 of the tensors of an artefact, by path or name; errors as `find_artefact` and `read_artefact`."""
    artefact = read_artefact(find_artefact(kind, name))
    return artefact.sha256 or _hash(artefact.tensors)


def hash_of_texts(texts: Sequence[str]) -> str:
    """sha256 of texts in their order."""
    return hashlib.sha256("\x1e".join(texts).encode()).hexdigest()


def hash_of_weights(weights: Mapping[str, Tensor]) -> str:
    """sha256 of the names, types, shapes and numbers of everything a model has learnt, its `state_dict`."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
