"""Semantic IDs of a dataset, made once and kept in the cache; published ones beside them."""

# pyarrow.compute makes its functions when it is imported, where a type checker cannot see them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from diffrec.data.dataset import Dataset
from diffrec.data.folders import read_table
from diffrec.data.protocol import get_protocol
from diffrec.data.sources import fetch, load_dataset
from diffrec.errors import NotFoundError, UsageError, check_numbers, check_sizes, choose, near_match
from diffrec.nn.artefacts import (
    Artefact,
    artefact_path,
    check_name,
    find_artefact,
    hash_of_texts,
    read_artefact,
    write_artefact,
)  # fmt: skip
from diffrec.spaces.embedding import read_vectors
from diffrec.tokenizers.collaborative import collaborative_vectors
from diffrec.tokenizers.collisions import Resolution, resolved
from diffrec.tokenizers.k_means import Points
from diffrec.tokenizers.product import product_quantisation
from diffrec.tokenizers.residual import residual_k_means
from diffrec.tokenizers.rqvae import RQVAE, Estimator, Training, tokens_of, trained
from diffrec.tokenizers.tokens import Codes, Tokens, lost_share, report_card

Method = Literal["residual-k-means", "rq-vae", "pq", "opq"]
COLLABORATIVE = "collaborative"
_PUBLISHED = re.compile(r"sid(_[a-z0-9_]+)?")
_ONE_CODE = r"<[a-z]_(\d+)>"


@dataclass(frozen=True)
class Tokenizer:
    """How vectors become codes.

    vectors: a name of `diffrec data embed`, where the dataset may be left out, a safetensors file, or "collaborative":
    singular vectors, of `width`, of the training sequences under `protocol`; method: one of `Method`; levels, size:
    codes an item, and how many there are of each; resolve: see `resolved`; rounds: of k-means; latent, training: of the
    RQ-VAE.
    """

    vectors: str
    method: str = "residual-k-means"
    levels: int = 4
    size: int = 256
    resolve: str = "extra"
    seed: int = 0
    rounds: int = 25
    latent: int = 32
    training: Training = field(default_factory=Training)
    width: int = 64
    protocol: str = "loo-full-masked@1"
    hidden: tuple[int, ...] = (512, 256, 128)
    commitment: float = 0.25
    unit_norm: bool = False
    estimator: str = "straight-through"

    def __post_init__(self) -> None:
        check_sizes(levels=self.levels, size=self.size, rounds=self.rounds, latent=self.latent, width=self.width)
        choose("method", self.method, get_args(Method))
        choose("resolution", self.resolve, get_args(Resolution))
        choose("estimator", self.estimator, get_args(Estimator))
        check_sizes(**{f"hidden[{place}]": width for place, width in enumerate(self.hidden)})
        check_numbers(low=0.0, commitment=self.commitment)

    def name(self) -> str:
        """What the codes are called unless they are given another name."""
        source = Path(self.vectors).stem if self.vectors != COLLABORATIVE else "collaborative"
        return f"{self.method}-{self.levels}x{self.size}-{self.resolve}-{source}-seed{self.seed}"[:96]

    def facts(self, origin: str) -> dict[str, Any]:
        """What is kept of it; options that came later only where they are not at their default, as before them."""
        later = {"hidden": list(self.hidden), "commitment": self.commitment, "unit_norm": self.unit_norm,
                 "estimator": self.estimator}  # fmt: skip
        kept = {name: value for name, value in asdict(self).items() if name not in later}
        changed = {name: value for name, value in later.items() if getattr(self, name) != _DEFAULTS[name]}
        return {**kept, **changed, "vectors": origin}

    def tokens(self, vectors: Points) -> Tokens:
        """The codes of vectors (N, width), before duplicates are told apart."""
        if self.method == "rq-vae":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model = RQVAE(
                    vectors.shape[1], self.hidden, self.latent, self.levels, self.size,
                    self.commitment, self.unit_norm, self.estimator,
                )  # fmt: skip
            return tokens_of(trained(model, vectors, self.training, self.seed), vectors)
        if self.method == "residual-k-means":
            return residual_k_means(vectors, self.levels, self.size, self.rounds, self.seed)
        arguments = (vectors, self.levels, self.size, self.rounds, self.seed)
        return product_quantisation(*arguments, rotate=self.method == "opq")


_DEFAULTS = {option.name: option.default for option in fields(Tokenizer)}


def tokenize(dataset: str, how: Tokenizer, name: str | None = None, *, force: bool = False) -> tuple[Path, Artefact]:
    """The file with the tensor `codes` (N, levels) of the items 1..N, and what is in it.

    The facts hold the report card before and after duplicates were told apart. What is there already is read, unless
    `force`; UsageError where it was made otherwise, or for vectors of other items.
    """
    source = load_dataset(dataset)
    path = artefact_path("codes", f"{dataset}/{check_name(how.name() if name is None else name)}")
    vectors, origin = vectors_of(source, how)
    made = {**_of(source), "how": how.facts(origin)}
    if path.is_file() and not force:
        there = read_artefact(path)
        if all(there.facts.get(key) == value for key, value in made.items()):
            return path, there
        raise UsageError(f"{path} was made otherwise or of other items; --force replaces it, --as gives another name")
    tokens = how.tokens(vectors)
    codes, sizes = resolved(tokens, how.size, how.resolve)
    before = report_card(tokens.codes, (how.size,) * how.levels)
    lost = None if tokens.reconstruction is None else lost_share(vectors, tokens.reconstruction)
    facts = {**made, "card": {**report_card(codes, sizes), "lost": lost}, "before": before}
    return path, write_artefact(path, {"codes": torch.from_numpy(codes)}, facts)


def import_codes(dataset: str, column: str, name: str | None = None, *, force: bool = False) -> tuple[Path, Artefact]:
    """The same of codes that came with the dataset: a column of `published_codes`."""
    source, published = load_dataset(dataset), published_codes(dataset)
    if column not in published:
        listed = ", ".join(sorted(published)) or "none"
        raise NotFoundError(
            f"{dataset} came with no codes {column!r}; there are: {listed}{near_match(column, published)}"
        )
    path = artefact_path("codes", f"{dataset}/{check_name(column.replace('_', '-') if name is None else name)}")
    codes = published[column]
    facts = {**_of(source), "how": {"published": column}, "card": report_card(codes, sizes_of(codes))}
    if path.is_file() and not force:
        if (there := read_artefact(path)).facts == facts:
            return path, there
        raise UsageError(f"{path} holds other codes; --force replaces it, --as gives another name")
    return path, write_artefact(path, {"codes": torch.from_numpy(codes)}, facts)


def published_codes(dataset: str) -> dict[str, Codes]:
    """Codes (N, levels) that lie beside a dataset, by their column of items.parquet or semantic_ids.parquet.

    There they are texts such as `<a_3> <b_0>`; a column that is not filled for every item is passed over.
    """
    folder = fetch(dataset)
    if folder is None:
        return {}
    ids = pa.array(load_dataset(dataset).vocabulary.item_ids, pa.string())
    found = {}
    for file in (folder / "items.parquet", folder / "semantic_ids.parquet"):
        table = read_table(file) if file.is_file() else pa.table({})
        for column in filter(_PUBLISHED.fullmatch, table.column_names):
            places = pc.index_in(ids, table["item_id"].combine_chunks().cast(pa.string()))
            texts = table[column].combine_chunks().take(places)
            if texts.null_count == 0:
                found[column] = _parsed(texts, f"{file}, column {column}")
    return found


def codes_of(dataset: str) -> dict[str, Mapping[str, Any]]:
    """The report cards of all codes of a dataset by name: published ones, then those in the cache."""
    cards: dict[str, Mapping[str, Any]] = {
        column: report_card(codes, sizes_of(codes)) for column, codes in published_codes(dataset).items()
    }
    for path in sorted(artefact_path("codes", f"{dataset}/x").parent.glob("*.safetensors")):
        facts = read_artefact(path).facts
        if "card" in facts and "published" not in facts["how"]:
            if "before" in facts:
                cards[f"{path.stem}, unresolved"] = facts["before"]
            cards[path.stem] = facts["card"]
    return cards


def read_codes(name: str | Path) -> tuple[Codes, Mapping[str, Any]]:
    """The tensor `codes` (N, levels) of an artefact, by path or name, and its facts; UsageError for anything else."""
    path = find_artefact("codes", name)
    artefact = read_artefact(path)
    codes = artefact.tensors.get("codes")
    if codes is None or codes.ndim != 2 or codes.is_floating_point() or not codes.numel() or int(codes.min()) < 0:
        held = {name: tuple(tensor.shape) for name, tensor in artefact.tensors.items()}
        raise UsageError(f"{path} needs a tensor 'codes' (items, levels) of whole numbers from 0, it holds {held}")
    return codes.to(torch.int64).numpy(), artefact.facts


def sizes_of(codes: Codes) -> tuple[int, ...]:
    """How many codes each level has, as far as can be told from those that occur."""
    return tuple(int(most) + 1 for most in codes.max(0))


def _of(source: Dataset) -> dict[str, str]:
    return {"dataset": source.name, "items_sha256": hash_of_texts(source.vocabulary.item_ids)}


def vectors_of(source: Dataset, how: Tokenizer) -> tuple[Points, str]:
    """Vectors of the items 1..N in float64, and what they are."""
    if how.vectors == COLLABORATIVE:
        train = get_protocol(how.protocol).apply(source).train
        return collaborative_vectors(train, source.num_items, how.width), COLLABORATIVE
    own = artefact_path("vectors", f"{source.name}/{how.vectors}")
    name = f"{source.name}/{how.vectors}" if own.is_file() and not Path(how.vectors).is_file() else how.vectors
    vectors = read_vectors(name)
    made, expected = read_artefact(find_artefact("vectors", name)), _of(source)["items_sha256"]
    if len(vectors) != source.num_items or made.facts.get("items_sha256", expected) != expected:
        seen = f"holds {len(vectors)} vectors of other items than the {source.num_items} of {source.name}"
        raise UsageError(f"{name} {seen}")
    return vectors.double().numpy(), f"{name}, sha256 {made.sha256}"


def _parsed(texts: pa.Array, where: str) -> Codes:
    """(N, levels) the numbers of texts such as `<a_3> <b_0>`."""
    levels = len(re.findall(_ONE_CODE, texts[0].as_py()))
    found = pc.extract_regex(texts, " ?".join(f"<[a-z]_(?P<level{n}>[0-9]+)>" for n in range(levels)))
    if not levels or found.null_count:
        raise UsageError(f"{where} holds texts that are no codes such as '<a_3> <b_0>'")
    return np.stack([found.field(n).cast(pa.int64()).to_numpy() for n in range(levels)], axis=1)
