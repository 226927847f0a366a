"""The report cards of our tokenizers beside those of the codes that came with a dataset.

diffrec data embed s3rec_beauty --encoder tf-idf --width 64 --as tf-idf-64
python benchmarks/semantic_ids.py s3rec_beauty --text s3rec_beauty/tf-idf-64 --output benchmarks/semantic_ids.json

Ours are made of collaborative vectors and of vectors of texts, once for each seed, and the first seed again: the sha256
of the codes says whether a seed decides them, and whether another gives others. `before` and `after` are report cards
(`diffrec.tokenizers.tokens.report_card`) before and after duplicates are told apart, `lost` the squared error of the
reconstruction as a share of the vectors' spread. Published codes came without their vectors: they have no `lost`, and
no `before`, for they are as they are. Their levels are counted as of --size codes, like ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diffrec.bench.provenance import code_version, processor_name
from diffrec.data.sources import load_dataset
from diffrec.tokenizers.collisions import resolved
from diffrec.tokenizers.k_means import Points
from diffrec.tokenizers.rqvae import Training
from diffrec.tokenizers.tokenize import COLLABORATIVE, Tokenizer, published_codes, vectors_of
from diffrec.tokenizers.tokens import Codes, lost_share, report_card

METHODS, RESOLUTIONS = ("residual-k-means", "rq-vae", "opq"), ("extra", "sinkhorn")


def sha256(codes: Codes) -> str:
    """Of the codes as 64-bit numbers, item by item."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<i8").tobytes()).hexdigest()


def made(how: Tokenizer, vectors: Points) -> dict[str, object]:
    """The codes of one seed, before and after each way to tell duplicates apart."""
    start = time.perf_counter()
    tokens = how.tokens(vectors)
    seconds = time.perf_counter() - start
    ways = RESOLUTIONS if tokens.last_distances is not None else RESOLUTIONS[:1]
    told_apart = {way: resolved(tokens, how.size, way) for way in ways}
    return {
        "sha256": sha256(tokens.codes),
        "before": report_card(tokens.codes, (how.size,) * how.levels),
        "after": {way: report_card(codes, sizes) for way, (codes, sizes) in told_apart.items()},
        "lost": None if tokens.reconstruction is None else lost_share(vectors, tokens.reconstruction),
        "seconds": seconds,
    }


def ours(how: Tokenizer, vectors: Points, seeds: list[int]) -> dict[str, object]:
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
    parser.add_argument("--text", help="vectors of 'diffrec data embed'; without them only collaborative ones")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20, help="of the RQ-VAE; 'diffrec data tokenize' has 500")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    source, rows = load_dataset(args.dataset), {}
    about = {"dataset": args.dataset, "dataset_sha256": source.sha256, "levels": args.levels, "size": args.size,
             "rq_vae_epochs": args.epochs, "code_version": code_version(), "torch": torch.__version__,
             "processor": processor_name()}  # fmt: skip
    plain = Tokenizer(COLLABORATIVE, levels=args.levels, size=args.size, training=Training(args.epochs))
    for origin in (COLLABORATIVE, *([args.text] if args.text else [])):
        vectors, _ = vectors_of(source, replace(plain, vectors=origin))
        for method in METHODS:
            name = f"{method} of {origin}"
            rows[name] = ours(replace(plain, vectors=origin, method=method), vectors, [*range(args.seeds)])
            for seed, run in rows[name]["seeds"].items():
                print(line(f"{name}, seed {seed}", run["before"], run["lost"]), flush=True)
    published = {name: report_card(codes, (args.size,) * codes.shape[1])
                 for name, codes in published_codes(args.dataset).items()}  # fmt: skip
    for name, card in published.items():
        print(line(name, card, None))
    result = {**about, "ours": rows, "published": published}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
