"""The report cards of our tokenizers beside those of the codes that came with a dataset.

diffrec data embed s3rec_beauty --encoder tf-idf --width 64 --as tf-idf-64
python benchmarks/semantic_ids.py s3rec_beauty --output benchmarks/semantic_ids.json
python benchmarks/semantic_ids.py s3rec_beauty --vectors s3rec_beauty/tf-idf-64 --methods residual-k-means \\
    --output benchmarks/semantic_ids.json

Rows are added to the file while all else is as it was. Ours are made of collaborative vectors and of vectors of texts,
once for each seed, and the first seed again: the sha256 of the codes says whether a seed decides them, and whether
another gives others. `before` and `after` are report cards (`diffrec.tokenizers.tokens.report_card`) before and after
duplicates are told apart, `lost` the squared error of the reconstruction as a share of the vectors' spread. Published
codes came without their vectors: they have no `lost`, and no `before`, for they are as they are. Their levels are
counted as of --size codes, like ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffrec.bench.provenance import code_version, processor_name
from diffrec.data.sources import load_dataset
from diffrec.errors import UsageError
from diffrec.tokenizers.collisions import resolved
from diffrec.tokenizers.k_means import Points
from diffrec.tokenizers.rqvae import Training
from diffrec.tokenizers.tokenize import COLLABORATIVE, Tokenizer, published_codes, sizes_of, vectors_of
from diffrec.tokenizers.tokens import Codes, Tokens, lost_share, report_card

METHODS, RESOLUTIONS = ("residual-k-means", "rq-vae", "opq"), ("extra", "sinkhorn")


def sha256(codes: Codes) -> str:
    """Of the codes as 64-bit numbers, item by item."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<i8").tobytes()).hexdigest()


def made(how: Tokenizer, vectors: Points) -> dict[str, object]:
    """The codes of one seed, before and after each way to tell duplicates apart."""
    start = time.perf_counter()
    tokens = how.tokens(vectors)
    seconds = time.perf_counter() - start
    return {
        "sha256": sha256(tokens.codes),
        "before": report_card(tokens.codes, (how.size,) * how.levels),
        "after": {way: told_apart(tokens, how.size, way) for way in RESOLUTIONS},
        "lost": None if tokens.reconstruction is None else lost_share(vectors, tokens.reconstruction),
        "seconds": seconds,
    }


def told_apart(tokens: Tokens, size: int, way: str) -> dict[str, object]:
    """The report card after duplicates are told apart, or why they cannot be in this way."""
    try:
        return report_card(*resolved(tokens, size, way))
    except UsageError as error:
        return {"cannot": str(error)}


def ours(how: Tokenizer, vectors: Points, seeds: list[int]) -> dict[str, Any]:
    """All seeds of a tokenizer, and whether the first gives the same codes again."""
    runs = {str(seed): made(replace(how, seed=seed), vectors) for seed in seeds}
    again = sha256(replace(how, seed=seeds[0]).tokens(vectors).codes)
    hashes = [run["sha256"] for run in runs.values()]
    return {"same_again": again == hashes[0], "seeds_differ": len({*hashes}) == len(hashes), "seeds": runs}


def line(name: str, card: Mapping[str, object], lost: float | None) -> str:
    """One row to read."""
    entropy, usage, collisions = card["entropy"], card["usage"], card["collisions"]
    assert isinstance(entropy, list)
    assert isinstance(usage, list)
    bits = " ".join(f"{bits:.2f}" for bits in entropy)
    kept = "" if lost is None else f"  lost {lost:.3f}"
    return f"{name:44} collisions {collisions:7.2%}  used {min(usage):4.0%}  bits {bits}{kept}"


def main() -> None:
    """Make, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--vectors", default=COLLABORATIVE, help="or those of 'diffrec data embed'; A,B for several")
    parser.add_argument("--methods", default=",".join(METHODS), help="of 'diffrec data tokenize'")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20, help="of the RQ-VAE; 'diffrec data tokenize' has 500")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    source = load_dataset(args.dataset)
    about: dict[str, Any] = {
        "dataset": args.dataset,
        "dataset_sha256": source.sha256,
        "levels": args.levels,
        "size": args.size,
        "rq_vae_epochs": args.epochs,
        "code_version": code_version(),
        "torch": torch.__version__,
        "processor": processor_name(),
    }
    plain = Tokenizer(COLLABORATIVE, levels=args.levels, size=args.size, training=Training(args.epochs))
    about["published"] = {
        name: report_card(codes, [max(args.size, most) for most in sizes_of(codes)])
        for name, codes in published_codes(args.dataset).items()
    }
    for name, card in about["published"].items():
        print(line(name, card, None))
    for origin in args.vectors.split(","):
        vectors, _ = vectors_of(source, replace(plain, vectors=origin))
        for method in args.methods.split(","):
            name = f"{method} of {origin}"
            row = ours(replace(plain, vectors=origin, method=method), vectors, [*range(args.seeds)])
            for seed, run in row["seeds"].items():
                print(line(f"{name}, seed {seed}", run["before"], run["lost"]), flush=True)
            add(args.output, about, name, row)


def add(path: Path, about: Mapping[str, object], name: str, row: object) -> None:
    """Put a row into the file; of what was measured otherwise before nothing stays."""
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = there.get("ours", {}) if {**about, "ours": None} == {**there, "ours": None} else {}
    path.write_text(json.dumps({**about, "ours": {**rows, name: row}}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
