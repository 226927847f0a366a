"""Writes benchmarks/SPEED.md: what the files of this folder say, in one place.

python benchmarks/speed/table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "SPEED.md"
HEAD = """# Speed

Made by `python benchmarks/speed/table.py` from the files beside it; how each is measured stands in the script of its
name. Ratios are of two sides in one run on one machine, by the clock unless said otherwise. Load: the machine's load
average at the start, where it was noted; two cores, so that above 2 other work was going on, seconds are longer than
they need be, and ratios hold better than they do.
"""


def read(name: str) -> dict[str, Any]:
    """One of the files."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def times(ratio: float) -> str:
    """A ratio to two figures."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def load(record: dict[str, Any]) -> str:
    """At the start."""
    found = record.get("load_before", record.get("load"))
    return "" if found is None else f"{found[0] if isinstance(found, list) else found:.1f}"


def ratios() -> Iterator[tuple[str, str, str, str, str]]:
    """What, beside what, times faster, load, file."""
    for name in ("against_recbole", "against_recbole_1_thread"):
        record = read(name)
        for one in record["results"]:
            what, faster = f"DiffRec on ML-100K, T = {one['timesteps']}", one["times_faster"]
            threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
            row = (load(record), name)
            epoch, evaluation = times(faster["epoch_seconds"]), times(faster["evaluation_seconds"])
            yield f"{what}, training epoch", f"RecBole, {threads}", f"{epoch} (aim: 3)", *row
            yield f"{what}, evaluation", f"RecBole as it comes, {threads}", f"{evaluation} (aim: 50)", *row
            same = times(faster["evaluation_same_batch_seconds"])
            yield f"{what}, evaluation", f"RecBole at our batch, {threads}", same, *row
    record = read("sasrec_beauty")
    what = f"SASRec on Beauty, training epoch of {record['epoch']['ours']['seconds']:.0f} s"
    beside = {"plain": "logits of all slots, padding too", "real": "logits of real slots", "recbole": "RecBole"}
    for side, words in beside.items():
        faster = times(record["times_faster"][side])
        yield what, words, faster, load(record), "sasrec_beauty"
    record = read("diffrec_ml1m")
    one = record["results"]
    faster = times(one["evaluation_times_faster"])
    yield "DiffRec on ML-1M, evaluation of 40 steps", "whole vectors", faster, load(record), "diffrec_ml1m"
    record = read("dreamrec_latency")
    one = record["results"]
    words = f"DreamRec, {one['steps']} steps, {one['items']:,} items"
    faster = times(one["times_faster_than_plain_20"])
    yield words, "a plain loop of as many", faster, load(record), "dreamrec_latency"
    faster = times(one["times_faster_than_plain_all"])
    yield words, f"all {one['train_timesteps']} steps", faster, load(record), "dreamrec_latency"
    record = read("graph")
    kinds = {
        "items, float32": ("hop over items, float32", "one sparse product"),
        "items, float64": ("hop over items, float64", "one sparse product"),
        "histories, float32": ("hop of histories in training, float32", "the product with the dense table"),
        "nodes, float32": (f"{record['layers']} layers of LightGCN", "torch's sparse product"),
    }
    for row in record["rows"]:
        what, words = kinds[row["kind"]]
        yield f"{what}, sizes of {row['sizes_of']}", words, times(row["times_faster"]), load(record), "graph"
    record = read("sampled_losses")
    for row in record["rows"]:
        what = f"{row['negatives']} negatives a position, {row['items']:,} items"
        faster = times(row["times_faster"]) + ("" if row["from_all_by_default"] else " (not the default there)")
        yield what, "looking vectors up", faster, load(record), "sampled_losses"
    record = read("ranking")
    for kind, one in record["results"].items():
        what = f"metrics and lists of {record['users']:,} users, {record['items']:,} items, {kind} scores"
        yield what, "a loop over users", times(one["times_faster"]), load(record), "ranking"
    record = read("significance")
    what = f"paired tests of {record['rows']} rows, {record['users']:,} users, {record['resamples']:,} resamples"
    yield what, "a loop", times(record["times_faster"]), load(record), "significance"
    record = read("index")
    for kind, one in record["results"].items():
        for row in one["index"]:
            vectors = {"entry": "of SASRec on Beauty", "million": "made up, in clusters: the easy case"}[kind]
            what = f"approximate lists, {one['items']:,} items ({vectors}), recall@10 {row['recall@10']:.3f}"
            yield what, "exact lists", times(row["times_faster"]), load(record), "index"


def facts() -> Iterator[tuple[str, str, str, str]]:
    """What, how much, load, file."""
    record = read("memory")
    what = f"DiffRec, {record['users']:,} users x {record['items']:,} items, {record['interactions']:,} interactions"
    yield f"{what}: trained and evaluated", f"{record['peak_mib'] / 1024:.1f} GiB at the peak", load(record), "memory"
    record = read("serve")
    for kind, one in record["results"].items():
        asked = f"`diffrec serve`, SASRec, {one['callers']} caller{'s' if kind == 'callers' else ''}"
        told = (
            f"{one['requests_per_second']:,.0f} requests a second, p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f}"
        )
        yield asked, f"{told} ms", load(record), "serve"
    record = read("recommend")
    one = record["results"]
    what = f"`diffrec recommend`, {one['users']:,} users, {one['denoiser_calls']} steps, {one['items']:,} items"
    yield what, f"{one['users_per_second']:,.0f} users a second", load(record), "recommend"
    yield "`diffrec recommend`, until it begins", f"{one['cold_start_seconds']:.1f} s", load(record), "recommend"
    record = read("verify")
    what = f"`diffrec verify`, level 1, {record['users']:,} users"
    yield what, f"{record['seconds']:.2f} s", load(record), "verify"
    record = read("beam")
    for name, rate in record["users_per_second"].items():
        name = name.replace("1 steps", "1 step")
        yield f"lists of {name}, {record['items']:,} items", f"{rate:,.0f} users a second", load(record), "beam"


def steps() -> tuple[list[str], list[list[str]]]:
    """DiffRec's users a second by catalogue and number of steps."""
    record = read("catalogue")
    counts = list(record["results"][0]["lists_users_per_second"])
    head = [
        "items",
        *(f"{count} step{'s' if count != '1' else ''}" for count in counts),
        "ms a further step of a batch",
    ]
    rows = [
        [
            f"{one['items']:,}",
            *(f"{one['lists_users_per_second'][count]:,.0f}" for count in counts),
            f"{1000 * one['seconds_per_extra_step']:.2f}",
        ]
        for one in record["results"]
    ]
    return head, rows


def table(head: list[str], rows: list[list[str]], numbers: int) -> str:
    """As Markdown; numbers: the first column that is aligned to the right, as all behind it but the file are."""
    sides = ["---" if at < numbers or name == "file" else "---:" for at, name in enumerate(head)]
    lines = [head, sides, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page() -> str:
    """The whole of it."""
    link = "[{0}]({1}/{0}.json)".format
    rows = [[*row[:-1], link(row[-1], FOLDER.name)] for row in ratios()]
    told = [[*row[:-1], link(row[-1], FOLDER.name)] for row in facts()]
    record = read("catalogue")
    parts = [
        HEAD,
        table(["what", "beside", "times faster", "load", "file"], rows, 2),
        table(["what", "measured", "load", "file"], told, 2),
        f"DiffRec, hidden width {record['hidden']}: users a second, lists of ten included, {record['threads']} thread"
        f" ({link('catalogue', FOLDER.name)}, load {load(record)}):\n",
        table(*steps(), 0),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
