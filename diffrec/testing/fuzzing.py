"""What has to hold for input that nobody meant to give, case by case: the tests ask it some hundred times, and
benchmarks/fuzz.py as often as a release has to (needs hypothesis).

Every check returns in a word what came of a case, and lets through whatever must not happen.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from diffrec.errors import IntegrityError, UsageError
from diffrec.lists import Recommendations
from diffrec.paths import resource_dir
from diffrec.recommender import Recommender
from diffrec.training.config import compose
from diffrec.zoo import load
from diffrec.zoo.entry import FILES, MANIFEST, WEIGHTS, manifest_bytes

HISTORIES = torch.tensor([[1, 2, 3, 0], [50, 7, 60, 4], [9, 0, 0, 0]])  # for entries of 60 items or more
BASES = ("model/sasrec", "data/synthetic")  # what the made-up configurations are laid upon
_WORDS: tuple[str, ...] = (
    "model", "data", "trainer", "class_path", "init_args", "callbacks", "logger", "lr", "dims", "monitor", "strategy",
    "dataset", "plugins", "seed_everything", "max_epochs", "os.system", "diffrec.models.DiffRec", "auto", "",
    "pytorch_lightning.callbacks.EarlyStopping", "valid/ndcg@10", "diffusers.DDIMScheduler", "synthetic",
)  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Other bytes than `data`: a flipped bit, an end cut off, bytes added, a block of zeros, or two swapped."""
    while True:
        copied, place = bytearray(data), rng.randrange(len(data))
        kind = rng.choice(["flip", "flip", "cut", "add", "zeros", "swap"])
        if kind == "flip":
            copied[place] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del copied[place:]
        elif kind == "add":
            copied[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == "zeros":
            copied[place : place + 8] = bytes(len(copied[place : place + 8]))
        else:
            other = rng.randrange(len(data))
            copied[place], copied[other] = copied[other], copied[place]
        if copied != data:
            return bytes(copied)


def seal(folder: Path) -> None:
    """Make the manifest of an entry fit its files, as somebody who builds an entry to do harm would."""
    contents = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
    (folder / MANIFEST).write_bytes(manifest_bytes(contents))


def damage_is_noticed(folder: Path, name: str, rng: random.Random) -> str:
    """One file of an entry is damaged: it must be refused. The file is put back."""
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged(data, rng))
    try:
        load(folder)
    except IntegrityError:
        return "refused"
    finally:
        (folder / name).write_bytes(data)
    raise AssertionError(f"damage of {name} was not noticed")


def sealed_damage_is_refused_or_harmless(folder: Path, name: str, rng: random.Random, lists: Recommendations) -> str:
    """One file is damaged and the manifest says so: refused, or a model of the same catalogue; all is put back.

    lists: those of the entry for HISTORIES, which a file that says the same in other bytes must not change. Of the
    weights only the header is damaged, for other numbers are another model.
    """
    data, manifest = (folder / name).read_bytes(), (folder / MANIFEST).read_bytes()
    if name != WEIGHTS:
        changed = damaged(data, rng)
    else:
        place = rng.randrange(8 + int.from_bytes(data[:8], "little"))
        changed = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    (folder / name).write_bytes(changed)
    seal(folder)
    try:
        return _same_catalogue(load(folder), lists, same_lists=name == WEIGHTS)
    except IntegrityError:
        return "refused"
    finally:
        (folder / name).write_bytes(data)
        (folder / MANIFEST).write_bytes(manifest)


def _same_catalogue(model: Recommender, lists: Recommendations, same_lists: bool) -> str:
    best = model.recommend(HISTORIES, k=lists.items.shape[1], seed=1)
    assert best.items.shape == lists.items.shape, "lists of another shape"
    assert best.scores.isfinite().all(), "scores that are not finite"
    if same_lists:
        assert torch.equal(best.items, lists.items), "other items"
        assert torch.equal(best.scores, lists.scores), "other scores"
    return "loaded"


def trees() -> st.SearchStrategy[dict[str, Any]]:
    """Configurations as nobody writes them: of the words of real ones, or a shipped one with some places changed."""
    words = st.sampled_from(_WORDS)
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
        max_leaves=10,
    )
    names = sorted(path.stem for path in (resource_dir("configs") / "model").glob("*.yaml"))
    real = {name: _shipped(f"model/{name}") | {"trainer": _shipped("trainer")["trainer"]} for name in names}

    @st.composite
    def changed(draw: Any) -> dict[str, Any]:  # DrawFn is a protocol that beartype cannot check
        tree = copy.deepcopy(real[draw(st.sampled_from(names))])
        for _ in range(draw(st.integers(1, 3))):
            holders = list(_holders(tree))
            holder, key = holders[draw(st.integers(0, len(holders) - 1))]
            if draw(st.booleans()):
                holder[key] = draw(values)
            else:
                value = holder.pop(key)
                if isinstance(holder, dict) and draw(st.booleans()):
                    holder[draw(words)] = value
            if not tree:
                break
        return tree

    return st.dictionaries(words, values, max_size=4) | changed()


def _shipped(name: str) -> dict[str, Any]:
    return yaml.safe_load((resource_dir("configs") / f"{name}.yaml").read_text(encoding="utf-8"))


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of every place below `value`."""
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(places):
        yield value, key
        yield from _holders(child)


def any_configuration_is_read_or_refused(tree: dict[str, Any], base: str, path: Path) -> str:
    """A configuration is accepted, or refused in words (exit code 2). path: a file to write it to."""
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        compose([*BASES, base, path])
    except UsageError:
        return "refused"
    return "accepted"
