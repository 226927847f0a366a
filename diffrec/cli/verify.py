"""`diffrec verify BUNDLE`: recompute a result from its lists, from its weights, or from its configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrec.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from diffrec.bench.bundle import Bundle
    from diffrec.bench.result import Result
    from diffrec.data.dataset import Dataset
    from diffrec.recommender import Recommender

HELP = "recompute the numbers of a bundle that 'diffrec submit' wrote; exit code 3 where one does not come out"
_SHOWN_FINDINGS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundle, and how far to go."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder written by 'diffrec submit'")
    parser.add_argument("--level", type=int, choices=(1, 2, 3), default=1,
                        help="1: files, and all numbers from the lists; 2: the model scores again; "
                             "3: it is trained again (default: 1)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check level by level and tell what was checked; IntegrityError with one sentence for everything that is wrong."""
    from diffrec.bench.bundle import OutsideResult, read_bundle
    from diffrec.bench.verify import findings
    from diffrec.cli.submit import local_dataset

    bundle = read_bundle(args.bundle)
    result = bundle.result
    dataset = local_dataset(result.dataset)
    _refuse(findings(bundle, dataset))
    _tell(_level_1(bundle))
    if isinstance(result, OutsideResult):
        if args.level > 1:
            raise UsageError("a bundle of lists has no model; only level 1 can be checked")
        return 0
    if args.level > 1:
        _level_2(bundle, result, dataset)
    if args.level > 2:
        _level_3(result)
    _tell(_not_verified(args.level))
    return 0


def _level_1(bundle: Bundle) -> str:
    from diffrec.bench.bundle import OutsideResult

    result, users, draws = bundle.result, len(bundle.lists.users), len(bundle.lists.draws)
    count = (1 + draws) * len(result.metrics) + 2 + len(result.beyond_accuracy)
    what = result.system if isinstance(result, OutsideResult) else f"{result.model} seed {result.seed}"
    return (
        f"{what} on {result.dataset}, {result.protocol}: {result.headline} {result.metrics[result.headline]:.4f}\n"
        f"level 1 ok: manifest, every file, the record; dataset sha256 and split counts; the lists of {users:,} "
        f"users in {draws} draw{'s' * (draws > 1)}; their ranks; {count} numbers recomputed from both\n"
        f"level 1 proves that the numbers follow from the lists; it proves nothing about the model"
    )


def _level_2(bundle: Bundle, result: Result, dataset: Dataset) -> None:
    from diffrec.bench.rerun import METRIC_TOLERANCE, SCORE_TOLERANCE, device_of, model_findings, setup_differences

    model, arguments = _model(bundle, result)
    other = setup_differences(result)
    claimed = (bundle.ranks, bundle.lists)
    _refuse(list(model_findings(result, model.to(device_of(result.device)), dataset, claimed, not other, arguments)))
    within = f"within {SCORE_TOLERANCE:g} of the best score of a list, metrics within {METRIC_TOLERANCE:g}"
    source = "solved again from the configuration" if arguments is None else "loaded from the bundle"
    _tell(f"level 2 ok: the model, {source}, gives these lists and metrics, {_agreement(other, within)}")


def _model(bundle: Bundle, result: Result) -> tuple[Recommender, Mapping[str, Any] | None]:
    """The model of a bundle, and the arguments that its entry builds it with, None where it is solved again."""
    from diffrec.bench.claims import is_training_free
    from diffrec.cli.submit import solve

    if not bundle.has_model:
        if not is_training_free(result):
            raise IntegrityError(f"{bundle.folder} holds no model, expected the weights of a model that was trained")
        return solve(result), None
    from diffrec.zoo import load
    from diffrec.zoo.config import Config
    from diffrec.zoo.entry import CONFIG, Entry

    model = load(bundle.model, offline=True)
    entry = Entry.open(bundle.model)
    return model, Config.parse(entry.read(CONFIG), str(bundle.model / CONFIG)).init


def _level_3(result: Result) -> None:
    from tempfile import TemporaryDirectory

    from diffrec.bench.rerun import TRAINING_TOLERANCE, setup_differences, trained_again, training_findings
    from diffrec.training.progress import hush_lightning

    hush_lightning()
    other = setup_differences(result)
    with TemporaryDirectory(prefix="diffrec-") as folder:
        again = trained_again(result, Path(folder))
    _refuse(list(training_findings(result, again, not other)))
    seen = again.metrics[result.headline]
    within = f"every metric within {TRAINING_TOLERANCE:.0%} of its value"
    _tell(f"level 3 ok: trained again, {result.headline} is {seen:.4f}, {_agreement(other, within)}")


def _agreement(other: list[str], within: str) -> str:
    """How numbers were compared, and why."""
    if not other:
        return "exactly (same code, packages, processor and threads)"
    return f"{within} (not exactly, for here is {'; '.join(other[:3])})"


def _not_verified(level: int) -> str:
    from diffrec.bench.verify import LEVEL_OF, NOT_VERIFIED

    later = [name for name, least in LEVEL_OF.items() if least > level]
    open_ones = f"not recomputed before a higher level: {', '.join(later)}\n" if later else ""
    return f"{open_ones}never verified: {', '.join(NOT_VERIFIED)}"


def _refuse(found: list[str]) -> None:
    if found:
        more = [f"and {len(found) - _SHOWN_FINDINGS} more"] if len(found) > _SHOWN_FINDINGS else []
        raise IntegrityError("\n".join([*found[:_SHOWN_FINDINGS], *more]))


def _tell(line: str) -> None:
    from diffrec.cli.printable import printable_lines

    sys.stdout.write(printable_lines(line) + "\n")
    sys.stdout.flush()
