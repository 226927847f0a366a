"""Level 1: whatever is changed in a bundle, and sealed again, is found by recomputation and told in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec.bench import ranks as rank_files
from diffrec.bench.bundle import (
    LISTS,
    MANIFEST,
    RANKS,
    RECORD,
    Lists,
    UserLists,
    lists_from_parquet,
    lists_to_parquet,
    read_bundle,
    write_bundle,
)
from diffrec.bench.ranks import UserRanks
from diffrec.bench.rerun import lists_behind
from diffrec.bench.result import Result, ranks_path, sha256_of, write_result
from diffrec.bench.runner import run_cell
from diffrec.bench.suite import Cell, SuiteDataset, SuiteModel
from diffrec.bench.verify import LEVEL_OF, NOT_VERIFIED, findings, places
from diffrec.data.protocol import PROTOCOLS
from diffrec.data.ragged import Ragged
from diffrec.data.splits import by_user
from diffrec.data.synthetic import synthetic
from diffrec.errors import IntegrityError
from diffrec.metrics.functional import metric_names
from diffrec.strict_json import to_json

PROTOCOL = "loo-full-masked@1"
SPLIT = PROTOCOLS[PROTOCOL].apply(synthetic())
BEYOND = [f"{name}@{k}" for k in PROTOCOLS[PROTOCOL].cutoffs for name in ("coverage", "gini", "novelty", "popularity")]
WIDE, OTHER = {"optimistic": 1.0, "pessimistic": 0.0}, "user-split-811@1"
COUNTS = ("users", "items", "interactions", "train_sequences", "train_interactions", "valid_users", "test_users",
          "test_targets", "cold_test_targets")  # fmt: skip


def made(folder: Path, model: str, words: tuple[str, ...], draws: int) -> Path:
    """The bundle of a run on generated data."""
    row = SuiteModel(model, (f"model/{model}",), words)
    trained = run_cell(Cell("tiny", 1, SuiteDataset("synthetic", PROTOCOL), row, 0, draws), folder / "runs")
    path = write_result(trained.result, rank_files.to_parquet(trained.ranks), folder / "results")
    lists = lists_behind(trained.result, trained.ranks, trained.model, trained.dataset, None)
    contents = {RECORD: path.read_bytes(), RANKS: ranks_path(path).read_bytes(), LISTS: lists_to_parquet(lists)}
    write_bundle(folder / "bundle", contents, "run")
    return folder / "bundle"


@pytest.fixture(scope="module")
def dataset():
    """200 users, 100 items."""
    return synthetic()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A trained model whose lists depend on noise, two draws."""
    words = ("--model.dims=[8]", "--model.stochastic=true", "--model.noise_scale=0.5", "--trainer.max_epochs=1")
    return made(tmp_path_factory.mktemp("diffrec"), "diffrec", words, 2)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """Markov, most of whose scores are equal."""
    return made(tmp_path_factory.mktemp("markov"), "markov", (), 1)


@pytest.fixture
def bundle(original, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def problems(folder: Path, dataset) -> list[str]:
    """What is found, in sentences."""
    try:
        return findings(read_bundle(folder), dataset)
    except IntegrityError as error:
        return [str(error)]


# How a forger seals what he changed


def seal(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_bytes(to_json(manifest))


def seal_record(folder: Path, change: Callable[[dict], object] = lambda record: None, ranks: bool = True) -> None:
    record = json.loads((folder / RECORD).read_text())
    del record["record_sha256"]
    if ranks:
        record["ranks_sha256"] = hashlib.sha256((folder / RANKS).read_bytes()).hexdigest()
    change(record)
    record["record_sha256"] = sha256_of(record)
    (folder / RECORD).write_text(json.dumps(record))
    seal(folder)


def seal_ranks(folder: Path, change: Callable[[UserRanks], UserRanks]) -> None:
    ranks = rank_files.from_parquet((folder / RANKS).read_bytes(), "")
    copied = UserRanks(ranks.users.copy(), tuple(Ragged(draw.values.copy(), draw.offsets) for draw in ranks.draws))
    (folder / RANKS).write_bytes(rank_files.to_parquet(change(copied)))
    seal_record(folder)


def seal_lists(folder: Path, change: Callable[[UserLists], UserLists]) -> None:
    lists = lists_from_parquet((folder / LISTS).read_bytes(), "")
    draws = tuple(Lists(draw.items.copy(), draw.scores.copy(), draw.ties.copy()) for draw in lists.draws)
    (folder / LISTS).write_bytes(lists_to_parquet(change(UserLists(lists.users.copy(), draws))))
    seal(folder)


def seal_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        pq.write_table(change(pq.read_table(folder / name)), folder / name)
        seal_record(folder)

    return apply


def no_parquet(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(b"PAR1")
        seal_record(folder)

    return apply


# The mutations: what is done, and a word that the sentence about it must hold


@dataclass(frozen=True)
class Mutation:
    name: str
    apply: Callable[[Path], object]
    told: str


def of_record(name: str, change: Callable[[dict], object], told: str = "", ranks: bool = True) -> Mutation:
    return Mutation(f"record: {name}", lambda folder: seal_record(folder, change, ranks), told or re.escape(name))


def shifted(name: str) -> Callable[[dict], None]:
    """A metric a millionth higher, in every draw alike."""

    def change(record: dict) -> None:
        for values in (record["metrics"], *record["draw_metrics"]):
            values[name] += 1e-6

    return change


def traded(name: str) -> Callable[[dict], None]:
    """A metric higher in one draw and lower in the other, so that the mean stays."""

    def change(record: dict) -> None:
        record["draw_metrics"][0][name] += 2e-6
        record["draw_metrics"][1][name] -= 2e-6

    return change


def put(*path: str, to: object) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to(record[path[-1]]) if callable(to) else to

    return change


def both(*changes: Callable[[dict], object]) -> Callable[[dict], None]:
    return lambda record: [change(record) for change in changes] and None


def rehashed(*changes: Callable[[dict], object]) -> Callable[[dict], None]:
    """With the hash of the configuration as it is then."""
    from diffrec.bench.provenance import config_sha256

    return both(*changes, lambda record: record.update(config_sha256=config_sha256(record["config"])))


def without(*path: str) -> Callable[[dict], None]:
    def change(record: dict) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return change


def record_mutations() -> list[Mutation]:
    names = metric_names(PROTOCOLS[PROTOCOL].cutoffs)
    metric_in_all = lambda change: lambda record: [change(v) for v in (record["metrics"], *record["draw_metrics"])]  # noqa: E731
    return [
        *(of_record(f"{name} a millionth higher", shifted(name), re.escape(name)) for name in names),
        *(of_record(f"{name} traded between draws", traded(name), f"draw 0: {re.escape(name)}") for name in names),
        *(of_record(f"{name} higher", put("beyond_accuracy", name, to=lambda v: v + 1e-6), name) for name in BEYOND),
        *(of_record(f"{name} one more", put("split_counts", name, to=lambda v: v + 1), name) for name in COUNTS),
        of_record("a count less", without("split_counts", "items"), "'items' is missing"),
        of_record("a count more", put("split_counts", to=lambda v: {**v, "bots": 3}), "bots"),
        of_record("a metric less", metric_in_all(lambda v: v.pop("mrr")), "mrr is missing"),
        of_record("a metric more", metric_in_all(lambda v: v.update({"recall@7": 0.5})), "recall@7"),
        of_record("beyond accuracy less", without("beyond_accuracy", "gini@10"), "gini@10 is missing"),
        of_record("beyond accuracy more", put("beyond_accuracy", to=lambda v: {**v, "joy@10": 1.0}), "joy@10"),
        of_record("bounds", put("bounds", "optimistic", to=lambda v: v + 1e-6), "optimistic"),
        of_record("bounds", put("bounds", "pessimistic", to=lambda v: v - 1e-6), "pessimistic"),
        of_record("dataset_sha256", put("dataset_sha256", to="0" * 64)),
        of_record("headline", both(put("headline", to="recall@10"), put("bounds", to=WIDE))),
        of_record("protocol", put("protocol", to="loo-full-masked@2")),
        of_record("protocol, everywhere", rehashed(
            put("protocol", to=OTHER), put("config", "data", "protocol", to=OTHER)), "split_counts|test cases"),
        of_record("protocol without the configuration", put("protocol", to="loo-full-unmasked@1"), r"data\.protocol"),
        of_record("seed", put("seed", to=1), "seed"),
        of_record("seed of the data", rehashed(put("config", "data", "seed", to=1)), r"data\.seed"),
        of_record("seed_everything", rehashed(put("config", "seed_everything", to=1))),
        of_record("dataset of config", rehashed(put("config", "data", "dataset", to="ml-100k")), r"data\.dataset"),
        of_record("config_sha256", put("config_sha256", to="0" * 64)),
        of_record("config", put("config", "model", "init_args", "lr", to=1.0), "config_sha256"),
        of_record("no data in config", without("config", "data"), "lacks its part"),
        of_record("no model in config", without("config", "model"), "lacks its part"),
        of_record("class", rehashed(put("config", "model", "class_path", to="diffrec.models.Oracle")), "Oracle"),
        of_record("class from elsewhere", rehashed(put("config", "model", "class_path", to="os.system")), "os.system"),
        of_record("baseline", rehashed(put("config", "model", "class_path", to="diffrec.baselines.EASE")), "role"),
        of_record("role", put("role", to="training-free")),
        of_record("role of a control", put("role", to="control"), "control"),
        of_record("control_of", put("control_of", to="sasrec"), "control"),
        of_record("role and control_of", both(
            put("role", to="training-free"), put("control_of", to="sasrec")), "control"),
        of_record("selection.metric", put("selection", "metric", to="luck")),
        of_record("selection.value", put("selection", "value", to=lambda v: v + 1e-4)),
        of_record("selection.epoch", put("selection", "epoch", to=0)),
        of_record("selection.epoch", put("selection", "epoch", to=2)),
        of_record("epochs", put("epochs", to=0), "epochs"),
        of_record("validation", put("validation", "ndcg@10", to=lambda v: v + 1e-3), "validation"),
        of_record("validation", without("validation", "mrr"), "mrr"),
        of_record("validation", put("validation", to=lambda v: {**v, "recall@7": 0.5}), "recall@7"),
        of_record("ranks_sha256", put("ranks_sha256", to="0" * 64), ranks=False),
        *(of_record(f"rests_on.{name}", put("rests_on", name, to="0" * 64), name) for name in ("items", "split")),
        of_record("rests_on.read", put("rests_on", "read", to={"model.codes": "0" * 64}), "the configuration names"),
        of_record("rests_on no mapping", put("rests_on", to="0" * 64), "rests_on must be|rests_on"),
        of_record("no ranks", put("ranks_sha256", to=None), "ranks_sha256", ranks=False),
        of_record("a draw less", put("draw_metrics", to=lambda v: v[:1]), "mean of its draws|draws"),
        of_record("a draw more", lambda record: record["draw_metrics"].append(record["metrics"]), "3"),
        of_record("draws exchanged", put("draw_metrics", to=lambda v: v[::-1]), "draw 0"),
        of_record("schema_version", put("schema_version", to=3)),
        of_record("another field", put("votes", to=1), "votes"),
        of_record("a name that leads elsewhere", put("dataset", to="../ml-100k"), "name"),
    ]  # fmt: skip


TRICKS = (
    "../result.json", "/etc/passwd", "~/result.json", "a\0b", "a\\b", "C:/result.json", "./result.json", "model//x",
    "model/../result.json", "result.json/", "RESULT.json", "model", "model/result.json", ".hidden", "", " result.json",
    "model/manifest.json/", "result.json ", "\u202egnp.nosj", "lists.parquet.exe",
)  # fmt: skip


def of_manifest(name: str, change: Callable[[dict], object], told: str) -> Mutation:
    def apply(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        change(manifest)
        (folder / MANIFEST).write_bytes(to_json(manifest))

    return Mutation(f"manifest: {name}", apply, told)


def text_of_manifest(name: str, change: Callable[[str], str], told: str) -> Mutation:
    def apply(folder: Path) -> None:
        path = folder / MANIFEST
        path.write_text(change(path.read_text()))

    return Mutation(f"manifest: {name}", apply, told)


def manifest_mutations() -> list[Mutation]:
    entry = {"size": 1, "sha256": "0" * 64}
    return [
        *(of_manifest(f"lists {name!r}", lambda m, name=name: m["files"].update({name: entry}), "nothing was opened")
          for name in TRICKS),
        *(of_manifest(f"renames to {name!r}", lambda m, name=name: m["files"].update({name: m["files"].pop(LISTS)}),
                      "nothing was opened") for name in TRICKS[:6]),
        *(of_manifest(f"does not list {name}", lambda m, name=name: m["files"].pop(name), name)
          for name in (RECORD, RANKS, LISTS)),
        of_manifest("lists a model in part", lambda m: m["files"].update({"model/config.json": entry}), "missing"),
        of_manifest("version", lambda m: m.update(schema_version=2), "schema_version"),
        of_manifest("kind", lambda m: m.update(kind="lists"), "schema_version|record"),
        of_manifest("unknown kind", lambda m: m.update(kind="zip"), "kind"),
        of_manifest("another key", lambda m: m.update(note="hello"), "note"),
        of_manifest("files is a list", lambda m: m.update(files=[]), "files"),
        of_manifest("size", lambda m: m["files"][RANKS].update(size=m["files"][RANKS]["size"] + 1), "bytes"),
        of_manifest("size below zero", lambda m: m["files"][RANKS].update(size=-1), "impossible"),
        of_manifest("size above what is read", lambda m: m["files"][RECORD].update(size=1 << 40), "more than"),
        of_manifest("hash", lambda m: m["files"][LISTS].update(sha256="0" * 64), "sha256 differs"),
        of_manifest("hash in capitals", lambda m: m["files"][LISTS].update(sha256="A" * 64), "impossible"),
        of_manifest("a hash too short", lambda m: m["files"][LISTS].update(sha256="0"), "impossible"),
        text_of_manifest("other spaces", lambda text: text.replace(" ", "  "), "not in the form"),
        text_of_manifest("a key twice", lambda text: text.replace('"kind"', '"kind": "run",\n "kind"', 1), "twice"),
        text_of_manifest("NaN", lambda text: text.replace('"kind": "run"', '"kind": NaN'), "not valid JSON"),
        text_of_manifest("an array", lambda text: f"[{text}]", "object"),
    ]  # fmt: skip


def of_file(name: str, what: str, change: Callable[[Path], object], told: str) -> Mutation:
    return Mutation(f"file: {name} {what}", lambda folder: change(folder / name), told)


def flipped(place: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return change


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_mutations() -> list[Mutation]:
    def changed(name: str, told: str) -> list[Mutation]:
        return [
            *(of_file(name, f"flipped at {place}", flipped(place), told) for place in (0, 0.3, 0.7, 1)),
            of_file(name, "cut", lambda path: path.write_bytes(path.read_bytes()[:-1]), told),
            of_file(name, "emptied", lambda path: path.write_bytes(b""), told),
            of_file(name, "made longer", lambda path: path.write_bytes(path.read_bytes() + b"\n"), told),
            of_file(name, "removed", Path.unlink, "missing|cannot be read"),
            of_file(
                name, "renamed", lambda path: path.rename(path.with_name("x")), "not in the manifest|cannot be read"
            ),
            of_file(name, "linked", linked, "not a regular file"),
            of_file(name, "made a folder", made_a_folder, "not a regular file"),
        ]

    return [
        *(
            mutation
            for name in (RECORD, RANKS, LISTS)
            for mutation in changed(name, f"{re.escape(name)} (is not the|has)")
        ),
        *changed(MANIFEST, "manifest"),
        of_file("notes.txt", "added", lambda path: path.write_text("hello"), "not in the manifest"),
        of_file(".hidden", "added", lambda path: path.write_text("hello"), "not in the manifest"),
        of_file("folder", "added", Path.mkdir, "not a regular file"),
        of_file("model", "added", Path.mkdir, "not in the manifest"),
        of_file("model.pkl", "added", lambda path: path.write_bytes(b"\x80\x04."), "not in the manifest"),
        of_file("pipe", "added", os.mkfifo, "not a regular file"),
        of_file("link", "added", lambda path: path.symlink_to("/etc"), "not a regular file"),
    ]


def of_lists(name: str, change: Callable[[Lists], Lists | None], told: str) -> Mutation:
    """In the first draw; a change in place, or other lists."""

    def apply(lists: UserLists) -> UserLists:
        return replace(lists, draws=(change(lists.draws[0]) or lists.draws[0], *lists.draws[1:]))

    return Mutation(f"lists: {name}", lambda folder: seal_lists(folder, apply), told)


def of_users(name: str, change: Callable[[np.ndarray], np.ndarray], told: str) -> list[Mutation]:
    """Rows of lists, of ranks."""

    def lists(there: UserLists) -> UserLists:
        rows = change(np.arange(len(there.users)))
        return UserLists(
            there.users[rows], tuple(Lists(*(part[rows] for part in vars(d).values())) for d in there.draws)
        )

    def ranks(there: UserRanks) -> UserRanks:
        rows = change(np.arange(len(there.users)))
        return UserRanks(there.users[rows], tuple(draw.take(rows) for draw in there.draws))

    return [
        Mutation(f"lists: {name}", lambda folder: seal_lists(folder, lists), told),
        Mutation(f"ranks: {name}", lambda folder: seal_ranks(folder, ranks), told),
    ]


def of_draws(name: str, change: Callable[[tuple], tuple], told: str) -> list[Mutation]:
    def apply(there):
        return replace(there, draws=change(there.draws))

    return [
        Mutation(f"lists: {name}", lambda folder: seal_lists(folder, apply), told),
        Mutation(f"ranks: {name}", lambda folder: seal_ranks(folder, apply), told),
    ]


def assign(part: str, row: int, slot: int, value: Callable[[Lists], object]) -> Callable[[Lists], None]:
    def change(lists: Lists) -> None:
        array = getattr(lists, part)
        array[(row, slot) if array.ndim > 1 else row] = value(lists)

    return change


def swapped(lists: Lists) -> None:
    """The fifth item and the sixth; only what changes a number can be found without the model."""
    lists.items[0, [4, 5]] = lists.items[0, [5, 4]]


def target_tied(lists: Lists) -> None:
    """The true item of a user with the score of the item before it."""
    row, slot = (
        part[0] for part in np.nonzero((lists.items == SPLIT.test.target.values[:, None]) & (np.arange(50) > 5))
    )
    lists.scores[row, slot] = lists.scores[row, slot - 1]


def target_first(lists: Lists) -> None:
    """The true items of users who have them in their lists, without their scores."""
    target = SPLIT.test.target.values
    row, slot = (part[0] for part in np.nonzero((lists.items == target[:, None]) & (np.arange(50) > 5)))
    lists.items[row, [0, slot]] = lists.items[row, [slot, 0]]


def target_gone(lists: Lists) -> None:
    """The true item of a user replaced by one that was not listed."""
    row, slot = (part[0] for part in np.nonzero(lists.items == SPLIT.test.target.values[:, None]))
    free = np.setdiff1d(np.arange(1, 101), np.concatenate([lists.items[row], SPLIT.test.seen[int(row)]]))
    lists.items[row, slot] = free[0]


def target_put_in(lists: Lists) -> None:
    """The true item of a user at the end of a list that lacked it."""
    target = SPLIT.test.target.values
    row = np.flatnonzero(~(lists.items == target[:, None]).any(1))[0]
    lists.items[row, -1] = target[row]


def shorter(lists: Lists) -> None:
    lists.items[0, -1], lists.scores[0, -1] = 0, -np.inf


def exchanged(lists: Lists) -> None:
    """The lists of two users, masked items left out of account."""
    for array in vars(lists).values():
        array[[0, 1]] = array[[1, 0]]


def list_mutations() -> list[Mutation]:
    return [
        of_lists("two items exchanged", swapped, "beyond_accuracy|rank"),
        of_lists("true item first", target_first, "rank of item"),
        of_lists("true item gone", target_gone, "rank of item"),
        of_lists("true item put in", target_put_in, "rank of item"),
        of_lists("an item twice", assign("items", 0, 1, lambda d: d.items[0, 0]), "twice"),
        of_lists("an item twice, at the end", assign("items", 7, 49, lambda d: d.items[7, 0]), "twice"),
        of_lists("a seen item", assign("items", 0, 5, lambda d: SPLIT.test.seen[0][0]), "masks"),
        of_lists("a seen item, last user", assign("items", 199, 49, lambda d: SPLIT.test.seen[199][-1]), "masks"),
        of_lists("an unknown item", assign("items", 0, 5, lambda d: 101), "above 100"),
        of_lists("item number below 0", assign("items", 0, 5, lambda d: -1), ""),
        of_lists("a shorter list", shorter, "another length"),
        of_lists("all lists shorter", lambda d: Lists(d.items[:, :20], d.scores[:, :20], d.ties), "another length"),
        of_lists("an empty list", lambda d: d.items.__setitem__(0, 0), "another length"),
        of_lists("a score too high", assign("scores", 0, 3, lambda d: 1e6), "above the one before"),
        of_lists("a score too low", assign("scores", 0, 3, lambda d: -1e6), "above the one before"),
        of_lists("a score equal to the one before", target_tied, "order of item|rank of item"),
        of_lists("scores reversed", lambda d: replace(d, scores=d.scores[:, ::-1]), "above the one before"),
        of_lists("a score that is NaN", assign("scores", 0, 3, lambda d: np.nan), "not finite"),
        of_lists("a score that is infinite", assign("scores", 0, 0, lambda d: np.inf), "not finite"),
        of_lists("ties below 0", assign("ties", 0, 0, lambda d: -1), "ties"),
        of_lists("more ties than items", assign("ties", 0, 0, lambda d: 90), "ties"),
        of_lists("lists of two users exchanged", exchanged, "masks|rank|length"),
        of_lists("lists of the true items", lambda d: d.items.__setitem__((slice(None), 0), SPLIT.test.target.values),
                 "twice|rank"),
        Mutation("lists: columns renamed", seal_table(LISTS, lambda t: t.rename_columns(
            ["user", *t.column_names[2:], "x"])), "columns"),
        Mutation("lists: a column less", seal_table(LISTS, lambda t: t.drop_columns(["ties1"])), "columns"),
        Mutation("lists: no rows", seal_table(LISTS, lambda t: t.slice(0, 0)), "0 users"),
        Mutation("lists: items as text", seal_table(LISTS, lambda t: t.set_column(
            1, "items0", pa.array(["1"] * 200))), "items0"),
        Mutation("lists: a list that is null", seal_table(LISTS, lambda t: t.set_column(
            1, "items0", pa.array([None, *t["items0"].to_pylist()[1:]], pa.list_(pa.int32())))), "items0"),
        Mutation("lists: an item that is null", seal_table(LISTS, lambda t: t.set_column(
            1, "items0", pa.array([[None] * 50, *t["items0"].to_pylist()[1:]], pa.list_(pa.int32())))), "null"),
        Mutation("lists: a score less", seal_table(LISTS, lambda t: t.set_column(
            2, "scores0", pa.array([[1.0], *t["scores0"].to_pylist()[1:]], pa.list_(pa.float32())))), "a score for"),
        Mutation("lists: no Parquet", no_parquet(LISTS), "no Parquet"),
    ]  # fmt: skip


def of_ranks(name: str, change: Callable[[np.ndarray, np.ndarray], object], told: str = "the rank of item") -> Mutation:
    """In the second draw; change(values, listed) in place."""

    def apply(ranks: UserRanks, folder: Path) -> UserRanks:
        shown = lists_from_parquet((folder / LISTS).read_bytes(), "").draws[1]
        change(ranks.draws[1].values, places(shown, SPLIT.test.target).listed)
        return ranks

    return Mutation(f"ranks: {name}", lambda folder: seal_ranks(folder, lambda ranks: apply(ranks, folder)), told)


def shift(by: float, listed: bool) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, there: np.ndarray) -> None:
        values[np.flatnonzero(there == listed)[0]] += by

    return change


def set_to(value: float, listed: bool) -> Callable[[np.ndarray, np.ndarray], None]:
    def change(values: np.ndarray, there: np.ndarray) -> None:
        values[np.flatnonzero(there == listed)[0]] = value

    return change


def rank_mutations() -> list[Mutation]:
    def first_draw(change: Callable[[Ragged], Ragged]) -> Callable[[UserRanks], UserRanks]:
        return lambda ranks: replace(ranks, draws=(change(ranks.draws[0]), ranks.draws[1]))

    def more(draw: Ragged) -> Ragged:
        return Ragged.from_lengths(np.append(draw.values, np.float32(1)), np.append(draw.lengths[:-1], 2))

    def none(draw: Ragged) -> Ragged:
        return Ragged.from_lengths(draw.values[1:], np.append([0], draw.lengths[1:]))

    return [
        *(of_ranks(f"off by {by}", shift(by, listed=True)) for by in (1, -1, 0.5, -0.5, 10)),
        *(of_ranks(f"of an item not listed is {value:g}", set_to(value, listed=False))
          for value in (1, 10, 50, 50.5, 99, np.inf)),
        *(of_ranks(f"of a listed item is {value:g}", set_to(value, listed=True)) for value in (51, np.inf, np.nan)),
        of_ranks("all one", lambda values, there: values.fill(1)),
        of_ranks("of four users exchanged", lambda values, there: values.__setitem__(range(4), values[[1, 2, 3, 0]])),
        Mutation("ranks: one more of a user", lambda folder: seal_ranks(folder, first_draw(more)), "2 ranks of user"),
        Mutation("ranks: none of a user", lambda folder: seal_ranks(folder, first_draw(none)), "0 ranks of user"),
        Mutation("ranks: as floats", seal_table(RANKS, lambda t: t.set_column(
            1, "draw0", t["user"].cast(pa.float64()))), "holds no ranks"),
        Mutation("ranks: a user that is null", seal_table(RANKS, lambda t: t.set_column(
            0, "user", pa.array([None, *range(1, 200)], pa.int64()))), "user"),
        Mutation("ranks: no Parquet", no_parquet(RANKS), "no Parquet"),
        *of_users("a user less", lambda rows: rows[:-1], "199 users"),
        *of_users("the first user less", lambda rows: rows[1:], "199 users"),
        *of_users("a user twice", lambda rows: np.append(rows, 5), "201 users"),
        *of_users("a user in place of another", lambda rows: np.where(rows == 3, 4, rows), "user 4 in row 3"),
        *of_users("two users exchanged", lambda rows: np.roll(rows, 1), "user 199 in row 0"),
        *of_draws("a draw less", lambda draws: draws[:1], "1 draws"),
        *of_draws("a draw more", lambda draws: (*draws, draws[0]), "3 draws"),
        *of_draws("draws exchanged", lambda draws: draws[::-1], "rank of item"),
        *of_draws("a draw twice", lambda draws: (draws[0], draws[0]), "lists of draw 0|rank of item"),
    ]  # fmt: skip


MUTATIONS = [
    *record_mutations(),
    *manifest_mutations(),
    *file_mutations(),
    *list_mutations(),
    *rank_mutations(),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{n}-{m.name}" for n, m in enumerate(MUTATIONS)])
def test_a_change_is_found(mutation, bundle, dataset):
    mutation.apply(bundle)
    found = problems(bundle, dataset)
    assert found, "not found"
    assert any(re.search(mutation.told, sentence) for sentence in found), found
    assert all("\n" not in sentence and len(sentence) > 30 for sentence in found), found


def test_there_are_two_hundred_kinds():
    assert len({mutation.name for mutation in MUTATIONS}) >= 200


def test_an_honest_bundle_passes_and_so_does_one_that_is_only_sealed_again(bundle, dataset):
    assert problems(bundle, dataset) == []
    seal_lists(bundle, lambda lists: lists)
    seal_ranks(bundle, lambda ranks: ranks)
    assert problems(bundle, dataset) == []


def test_ties_leave_no_freedom(tied, tmp_path, dataset):
    assert problems(tied, dataset) == []
    read = read_bundle(tied)
    ties = read.lists.draws[0].ties
    known = places(read.lists.draws[0], SPLIT.test.target)
    at_end = np.flatnonzero(~known.listed & known.may_tie & (read.ranks.draws[0].values < known.below))
    assert len(at_end) >= 3, "the case that this test is about"

    def forged(number: int, values: Callable[[np.ndarray], object]) -> list[str]:
        folder = Path(shutil.copytree(tied, tmp_path / str(number)))

        def change(ranks: UserRanks) -> UserRanks:
            values(ranks.draws[0].values)
            return ranks

        seal_ranks(folder, change)
        return problems(folder, dataset)

    for number, better in enumerate((-0.5, 0.5, -5)):
        found = forged(number, lambda values, by=better: values.__setitem__(at_end[0], values[at_end[0]] + by))
        assert "the rank of item" in found[0]
    fewer = Path(shutil.copytree(tied, tmp_path / "fewer"))
    seal_lists(fewer, lambda lists: replace(lists, draws=(replace(lists.draws[0], ties=np.maximum(ties - 1, 0)),)))
    assert "the rank of item" in problems(fewer, dataset)[0]
    order = Path(shutil.copytree(tied, tmp_path / "order"))
    seal_lists(order, lambda lists: replace(lists, draws=(_last_two_exchanged(lists.draws[0]),)))
    assert "in the order of item numbers" in problems(order, dataset)[0]


def _last_two_exchanged(lists: Lists) -> Lists:
    row = int(np.flatnonzero(lists.scores[:, -1] == lists.scores[:, -2])[0])
    lists.items[row, [-1, -2]] = lists.items[row, [-2, -1]]
    return lists


def test_another_dataset_of_that_name_is_told(bundle):
    assert "dataset_sha256" in problems(bundle, synthetic(seed=1))[0]


def test_every_field_of_a_record_is_recomputed_from_some_level_on_or_named_as_never_verified():
    assert sorted([*LEVEL_OF, *NOT_VERIFIED]) == sorted(field.name for field in fields(Result))


@pytest.mark.parametrize("name", sorted({*NOT_VERIFIED} - {"control_of", "ms_per_user", "packages", "reported"}))
def test_what_is_named_as_not_verified_is_not(name, bundle, dataset):
    kinds = {str: "other", int: 7, float: 7.5}
    seal_record(bundle, lambda record: record.update({name: kinds[type(record[name])]}))
    assert problems(bundle, dataset) == []


def test_places_agree_with_the_kernel():
    import torch

    from diffrec.bench.rerun import list_and_rank
    from diffrec.recommender import Recommender

    class Few(Recommender):
        """Scores of only four values."""

        def score(self, history, *, noise=None):
            return torch.randint(0, 4, (len(history), self.num_items)).float()

    torch.manual_seed(0)
    data = synthetic(300, 60)
    for cases in (by_user(data).test, PROTOCOLS["temporal-811@1"].apply(data).test):
        lists, ranks = list_and_rank(Few(60).eval(), cases, 20, 64, seed=0)
        found = places(lists, cases.target)
        exact = 1 + found.greater + found.equal / 2
        np.testing.assert_array_equal(ranks.values[found.listed], exact[found.listed])
        behind = ranks.values[~found.listed]
        tied = found.may_tie[~found.listed] & (behind == exact[~found.listed])
        assert tied.any()
        assert (behind[~tied] >= found.below[~found.listed][~tied]).all()
