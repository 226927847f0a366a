"""Vectors of a dataset's item texts, made once and kept in the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import normalize

from diffrec.errors import UsageError, check_sizes
from diffrec.nn.artefacts import Artefact, artefact_path, check_name, hash_of_texts, read_artefact, write_artefact
from diffrec.nn.principal import principal
from diffrec.text.encoders import WITH_WEIGHTS, sentence_vectors, tf_idf_svd, there_is_an_encoder
from diffrec.text.items import item_texts
from diffrec.typing import Float, Tensor

TF_IDF = "tf-idf"


@dataclass(frozen=True)
class Embedding:
    """How texts become vectors.

    encoder: "tf-idf", or what `sentence_vectors` takes; fields: see `item_texts`; width: of the vectors, None: 256 for
    TF-IDF and the encoder's own else; whiten: principal directions of equal spread; unit_norm: vectors of length 1.
    """

    encoder: str = TF_IDF
    fields: tuple[str, ...] = ()
    width: int | None = None
    whiten: bool = False
    unit_norm: bool = False

    def name(self) -> str:
        """What the vectors are called unless they are given another name."""
        encoder = re.sub(r"[^a-z0-9]+", "-", self.encoder.removeprefix("package:").rpartition("/")[2].lower()).strip(
            "-"
        )
        parts = [encoder, "" if self.width is None else str(self.width)]
        parts += ["white" * self.whiten, "unit" * self.unit_norm, *self.fields]
        return "-".join(part for part in parts if part)[:64]


def default_encoder() -> str:
    """The packaged encoder where it is installed, else TF-IDF."""
    return f"package:{WITH_WEIGHTS}" if there_is_an_encoder() else TF_IDF


def embed(
    dataset: str, how: Embedding, name: str | None = None, *, force: bool = False, device: str | None = None
) -> tuple[Path, Artefact]:
    """The file with the tensor `vectors` (N, width) float32 of the items 1..N, and what is in it.

    What is there already is read, unless `force`; UsageError where it was made otherwise or of other texts.
    """
    if how.width is not None:
        check_sizes(width=how.width)
    name = check_name(how.name() if name is None else name)
    source, texts, fields = item_texts(dataset, how.fields)
    facts = {
        "dataset": dataset,
        "items_sha256": hash_of_texts(source.vocabulary.item_ids),
        "texts_sha256": hash_of_texts(texts),
        "how": {**asdict(how), "fields": list(fields)},
        "empty": sum(not text for text in texts),
        "distinct": len(set(texts)),
    }
    path = artefact_path("vectors", f"{dataset}/{name}")
    if path.is_file() and not force:
        there = read_artefact(path)
        if there.facts == facts:
            return path, there
        raise UsageError(f"{path} was made otherwise or of other texts; --force replaces it, --as gives another name")
    return path, write_artefact(path, {"vectors": vectors_of(texts, how, device)}, facts)


def vectors_of(texts: Sequence[str], how: Embedding, device: str | None = None) -> Float[Tensor, "items width"]:
    """One float32 row a text. UsageError where fewer directions can be had than `how.width`."""
    if how.encoder == TF_IDF:
        raw = torch.from_numpy(tf_idf_svd(texts, how.width or 256))
    else:
        raw = torch.from_numpy(sentence_vectors(texts, how.encoder, device=device))
    width = how.width or raw.shape[1]
    if raw.shape[1] < width:
        raise UsageError(f"{how.encoder} gives vectors of width {raw.shape[1]} for these texts, {width} were asked for")
    if how.whiten or raw.shape[1] > width:
        raw = principal(raw, width, how.whiten).float()
    return normalize(raw) if how.unit_norm else raw.contiguous()
