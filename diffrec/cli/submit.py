"""`diffrec submit`: a result, or the lists of another system, as a bundle that `diffrec verify` recomputes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrec.errors import IntegrityError, NotFoundError, UsageError

if TYPE_CHECKING:
    from diffrec.bench.result import Result
    from diffrec.data.dataset import Dataset
    from diffrec.recommender import Recommender

HELP = "bundle a result with the lists it rests on, so that 'diffrec verify' can recompute it"
_BUNDLES = Path("bundles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to bundle, and where to."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN",
                        help="a record: benchmarks/results/<suite>/<dataset>/<model>/seed<k>.json")  # fmt: skip
    parser.add_argument("--entry", metavar="ENTRY",
                        help="its trained model: a name of 'diffrec zoo list', or the folder of an entry; "
                             "rows that need no training are solved again")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="(default: a new folder in bundles/)")
    parser.add_argument("--run-file", type=Path, metavar="FILE",
                        help="instead of RUN: lists of any system, CSV or Parquet with the columns user_id (of the "
                             "dataset; the number of the case, from 0, where users have several), item_id and score, "
                             "rows of a user together and best first; what a list lacks is a miss")  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="with --run-file: the dataset it answers")
    parser.add_argument("--protocol", metavar="ID", help="with --run-file: the protocol whose test users it answers")
    parser.add_argument("--name", metavar="SYSTEM", help="with --run-file: what the system is called")


def run(args: argparse.Namespace) -> int:
    """Write the bundle and say where it is; nothing is written where a number does not come out again."""
    _check(args)
    folder = _submit_lists(args) if args.run_file is not None else _submit_run(args)
    sys.stdout.write(f"{folder}\n'diffrec verify {folder}' recomputes it\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Which arguments go together, before anything heavy is loaded."""
    of_lists = {"--dataset": args.dataset, "--protocol": args.protocol, "--name": args.name}
    if args.run_file is None:
        if args.run is None:
            raise UsageError("give a record to bundle, or lists with --run-file; see 'diffrec submit --help'")
        if given := [option for option, value in of_lists.items() if value is not None]:
            raise UsageError(f"{given[0]} goes with --run-file; a record says it by itself")
        return
    if args.run is not None or args.entry is not None:
        raise UsageError("--run-file stands for itself; it takes neither a record nor --entry")
    if missing := [option for option, value in of_lists.items() if value is None]:
        raise UsageError(f"--run-file needs {', '.join(missing)}, too")


def _submit_run(args: argparse.Namespace) -> Path:
    from diffrec.bench.bundle import LISTS, MODEL, RANKS, RECORD, check_new, lists_to_parquet, write_bundle
    from diffrec.bench.ranks import read_ranks
    from diffrec.bench.rerun import device_of, lists_behind
    from diffrec.bench.result import ranks_path, read_result

    if not args.run.is_file():
        raise NotFoundError(f"there is no record {args.run}; 'diffrec bench run SUITE' makes some")
    result = read_result(args.run)
    if result.ranks_sha256 is None:
        raise UsageError(f"{args.run} is from before ranks were kept; run its suite again with --force")
    folder = args.output or _BUNDLES / f"{result.suite}.{result.dataset}.{result.model}.seed{result.seed}"
    check_new(folder)
    ranks = read_ranks(ranks_path(args.run), result.ranks_sha256)
    dataset = local_dataset(result.dataset)
    if dataset.sha256 != result.dataset_sha256:
        told = f"{args.run} rests on {result.dataset_sha256[:12]}"
        raise IntegrityError(f"the dataset {dataset.name} here has sha256 {dataset.sha256[:12]}, {told}")
    model, arguments, files = _model(result, args.entry, args.run)
    lists = lists_behind(result, ranks, model.to(device_of(result.device)), dataset, arguments)
    contents = {
        RECORD: args.run.read_bytes(),
        RANKS: ranks_path(args.run).read_bytes(),
        LISTS: lists_to_parquet(lists),
        **{f"{MODEL}/{name}": data for name, data in files.items()},
    }
    write_bundle(folder, contents, "run", check=lambda copy: _refuse_findings(copy, dataset))
    return folder


def _model(
    result: Result, entry_name: str | None, where: Path
) -> tuple[Recommender, Mapping[str, Any] | None, dict[str, bytes]]:
    """The model of a record, what its entry builds it with, and the entry's files; for one solved again, neither."""
    from diffrec.bench.claims import is_training_free
    from diffrec.bench.provenance import weights_sha256

    if entry_name is None:
        if not is_training_free(result):
            raise UsageError(f"{where} is of a trained model; give its weights with --entry ZOO_ENTRY")
        return solve(result), None, {}
    from diffrec.zoo import load
    from diffrec.zoo.config import Config
    from diffrec.zoo.entry import CONFIG, MANIFEST, manifest_bytes
    from diffrec.zoo.finding import find_entry

    entry = find_entry(entry_name)
    model, files = load(entry.folder, offline=True), entry.read_all()
    config = Config.parse(files[CONFIG], str(entry.folder / CONFIG))
    if (seen := weights_sha256(model)) != result.weights_sha256:
        rounded = "" if config.dtype is None else f" rounded to {config.dtype}"
        raise IntegrityError(
            f"{entry_name} holds the weights {seen[:12]}{rounded}, {where} rests on {str(result.weights_sha256)[:12]}"
        )
    return model, config.init, {**files, MANIFEST: manifest_bytes(files)}


def solve(result: Result) -> Recommender:
    """The model of a row that needs no training, from its configuration."""
    from tempfile import TemporaryDirectory

    from diffrec.bench.rerun import solved
    from diffrec.training.progress import hush_lightning

    hush_lightning()
    with TemporaryDirectory(prefix="diffrec-") as folder:
        return solved(result, Path(folder))


def local_dataset(name: str) -> Dataset:
    """The dataset of that name, if it is on this machine: nothing is fetched because a file names it."""
    from diffrec.data.catalogue import find
    from diffrec.data.sources import load_dataset

    if find(name).folder is None and name != "synthetic":  # which is generated
        raise NotFoundError(f"the dataset {name} is not on this machine; 'diffrec data fetch {name}' gets it")
    return load_dataset(name)


def _refuse_findings(copy: Path, dataset: Dataset) -> None:
    from diffrec.bench.bundle import read_bundle
    from diffrec.bench.verify import findings

    if found := findings(read_bundle(copy), dataset):
        raise IntegrityError(f"nothing was written, for the numbers do not come out again: {found[0]}")


def _submit_lists(args: argparse.Namespace) -> Path:
    from diffrec.bench.bundle import check_new, sealed_lists, write_bundle
    from diffrec.bench.result import NAME
    from diffrec.bench.run_file import outside_result
    from diffrec.data.protocol import get_protocol

    if not NAME.fullmatch(args.name):
        raise UsageError(f"--name {args.name[:60]!r} must be made of a-z, 0-9, '.', '_' and '-'")
    protocol, dataset = get_protocol(args.protocol), local_dataset(args.dataset)
    folder = args.output or _BUNDLES / f"lists.{dataset.name}.{args.name}"
    check_new(folder)
    result, ranks, lists = outside_result(args.run_file, args.name, dataset, protocol)
    write_bundle(folder, sealed_lists(result, ranks, lists), "lists", lambda copy: _refuse_findings(copy, dataset))
    users = f"of {result.split_counts['test_users']} test users"
    sys.stdout.write(
        f"{args.name} on {dataset.name}, {protocol.id}: {result.headline} {result.metrics[result.headline]:.4f}\n"
    )
    if result.without_list or result.short_lists:
        short = f"{result.short_lists} have fewer than {max(protocol.cutoffs)} items"
        sys.stdout.write(f"{result.without_list} {users} have no list and {short}: what is missing counts as misses\n")
    return folder
