"""`diffrec fit`, `validate`, `test` and `predict`: training and measuring from configuration files."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrec.cli.printable import print_line
from diffrec.errors import DiffrecError, UsageError

if TYPE_CHECKING:
    from diffrec.training.build import Run

HELP = "train a model from a recipe"

_ABOUT = {
    "fit": HELP,
    "validate": "measure a checkpoint on the validation cases",
    "test": "measure a checkpoint on the test cases",
    "predict": "write the lists of a checkpoint for all test users",
}
_NEEDED = ("--ckpt PATH [-c CONFIG ...]", "-c CONFIG [-c CONFIG ...]")


def run_stage(stage: str, words: Sequence[str]) -> int:
    """Run one stage with the words of the command line; words that are no option here are overrides."""
    parser = _parser(stage)
    try:
        args, overrides = parser.parse_known_args(list(words))
    except SystemExit as stop:  # argparse has printed the help
        return int(stop.code or 0)
    if stage == "fit" and not args.config:
        raise UsageError("diffrec fit needs a recipe, as in 'diffrec fit -c dreamrec-ml-100k'; --help lists them")
    if stage != "fit":
        _complete_from_checkpoint(args)
    if stage == "fit" and args.resume is not None and args.init_from is not None:
        raise UsageError("--resume goes on with a run, --init-from begins one; give one of the two")
    from diffrec.training.config import compose

    config = compose(args.config, overrides, with_values=True)  # what is wrong is told at once, before data are read
    if args.print_config:
        return _print_config(config)
    return _fit(args, overrides, config) if stage == "fit" else _measure(stage, args, overrides)


def _parser(stage: str) -> argparse.ArgumentParser:
    from diffrec.cli.main import Parser

    parser = Parser(
        prog=f"diffrec {stage}",
        usage=f"diffrec {stage} {_NEEDED[stage == 'fit']} [options] [--model.x=1] [--data.x=1] [--trainer.x=1]",
        description=_ABOUT[stage] + ". Any key of the configuration can be overridden: --model.lr=1e-3.",
        epilog=_recipes() if stage == "fit" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "a recipe by name, or a YAML file; repeat to put one over another"
    parser.add_argument("-c", "--config", action="append", default=[], metavar="CONFIG", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--print-config", action="store_true", help="print the merged configuration and stop")
    if stage == "fit":
        parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where to write (runs/<model>-<dataset>/...)")
        text = "continue: 'auto' finds the newest run of this recipe (or that of --run-dir), or give a checkpoint"
        parser.add_argument("--resume", metavar="auto|CKPT", help=text)
        text = "start from the weights of a zoo entry, by name or folder; its items are matched with those of the data"
        parser.add_argument("--init-from", metavar="NAME", help=text)
        text = "by what (default: ids within one dataset, else titles; for ids that are numbers, 'id' has to be said)"
        parser.add_argument("--init-match", choices=("id", "title"), help=text)
        text = "vectors for items that are new, of 'diffrec data embed' (default: the newest of this dataset, if any)"
        parser.add_argument("--init-vectors", metavar="NAME", help=text)
    else:
        text = "the weights; without -c, the configuration is that of the run they belong to"
        parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help=text)
    if stage == "predict":
        parser.add_argument("--output", type=Path, metavar="PARQUET", help="(predictions.parquet in the run folder)")
        parser.add_argument("-k", "--k", type=int, default=10, help="how many items a user (default 10)")
    return parser


def _recipes() -> str:
    from diffrec.paths import resource_dir
    from diffrec.plugins import plugins

    folder = resource_dir("configs")
    names = {
        kind: [path.stem for path in (folder / kind).glob("*.yaml")] for kind in ("recipe", "model", "data", "logger")
    }
    names["beside"] = [path.stem for path in folder.glob("*.yaml") if path.stem != "trainer"]
    if others := plugins():
        names["plug-ins"] = [f"model/{name} ({plugin.package})" for name, plugin in others.items()]
    rows = [
        textwrap.fill(", ".join(sorted(found)), 100, initial_indent=f"  {kind:9} ", subsequent_indent=" " * 12,
                      break_on_hyphens=False)
        for kind, found in names.items()
    ]  # fmt: skip
    together = (
        "\n\nA recipe is used by its name, the others with their folder: -c model/ease -c data/ml-100k; what stands "
        "beside\ngoes over any: -c dreamrec-ml-100k -c averaged-weights\n"
    )
    return "shipped configurations:\n" + "\n".join(rows) + together


def _print_config(config: Mapping[str, Any]) -> int:
    import yaml

    sys.stdout.write(yaml.safe_dump(config, sort_keys=False))
    return 0


def _fit(args: argparse.Namespace, overrides: Sequence[str], config: Mapping[str, Any]) -> int:
    from diffrec.training.build import build, give_up_run_dir
    from diffrec.training.fit import fit, monitored
    from diffrec.training.progress import hush_lightning, memory_told_to, progress_for

    hush_lightning()
    if "decoding" in config:
        raise UsageError(
            "decoding has no part in training; set it below model, or give it to 'diffrec test' or a suite"
        )
    _refuse_to_choose_by_what_was_trained_on(config)
    run_dir, checkpoint = _resume_from(args, overrides)
    run = build(args.config, overrides, run_dir)
    try:
        if not args.quiet:
            told = "".join(f"{line}\n" for line in (_summary(run), *_left_out(run)))
            sys.stderr.write(f"{told}{'continuing' if checkpoint else 'writing to'} {run.run_dir}\n")
            run.trainer.callbacks.append(progress_for(sys.stderr, monitored(run)))  # pyright: ignore
        if args.init_from is not None:
            _start_from(run, args)
        with nullcontext() if args.quiet else memory_told_to(sys.stderr):
            result = fit(run, checkpoint)
    except DiffrecError:
        if args.run_dir is None:
            give_up_run_dir(run.run_dir)
        raise
    except KeyboardInterrupt:
        if (kept := run.run_dir / "checkpoints" / "last.ckpt").is_file():
            sys.stderr.write(f"the same command goes on from {kept} with --resume auto\n")
        raise
    if checkpoint is not None and not result.steps:
        sys.stdout.write(
            f"nothing is left to train after epoch {result.epochs}; the best weights are in {result.checkpoint}\n"
        )
    value = "nothing was validated" if result.best is None else f"best {result.metric} {result.best:.4f}"
    sys.stdout.write(
        f"{value} (epoch {result.epoch} of {result.epochs}, {result.seconds:.0f} s), "
        f"{run.data.dataset_name}, {run.data.protocol.id}\nrun {run.run_dir}\n"
        f"'diffrec zoo save {run.run_dir}' makes an entry of it for recommend, serve and export\n"
    )
    return 0


def _start_from(run: Run, args: argparse.Namespace) -> None:
    """Add the callback that puts the weights of another model in. UsageError where they do not fit."""
    from diffrec.data.protocol import refuse_other_part
    from diffrec.zoo.config import Config
    from diffrec.zoo.entry import CONFIG
    from diffrec.zoo.finding import find_entry
    from diffrec.zoo.loading import load
    from diffrec.zoo.starting import StartFrom, match_of, refuse_another_model, vectors_for

    entry = find_entry(args.init_from)
    config, source = Config.parse(entry.read(CONFIG), str(entry.folder / CONFIG)), load(entry.folder, offline=True)
    dataset = run.data.dataset
    refuse_another_model(run.model, source, args.init_from)
    refuse_other_part(args.init_from, source.trained_on, run.data.split.part)
    match = match_of(source, config.dataset and config.dataset.name, dataset, args.init_match)
    vectors = args.init_vectors or vectors_for(dataset)
    start = StartFrom(source, args.init_from, dataset, match, vectors, run.run_dir, tell=print_line)
    run.trainer.callbacks.append(start)  # pyright: ignore[reportAttributeAccessIssue]


def _refuse_to_choose_by_what_was_trained_on(config: Mapping[str, Any]) -> None:
    from diffrec.data.protocol import get_protocol

    protocol = config["data"].get("protocol")
    by = None if protocol is None else get_protocol(protocol).selected_by
    if by is not None and not config["model"]["class_path"].startswith("diffrec.baselines."):  # these have no epochs
        raise UsageError(
            f"{protocol} trains on its validation items, which then choose nothing; train with --data.protocol={by}, "
            f"or with 'diffrec bench run', which trains once more, for as many epochs as {by} chose"
        )


def _summary(run: Run) -> str:
    from diffrec.recommender import ClosedFormRecommender

    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    solved = isinstance(run.model, ClosedFormRecommender)
    how = "solved without gradients" if solved else f"{parameters:,} parameters"
    return (
        f"{type(run.model).__name__}, {how}; {run.data.dataset_name} under {run.data.protocol.id}: "
        f"{len(run.data.split.train):,} training sequences, {run.data.num_items:,} items"
    )


def _left_out(run: Run) -> list[str]:
    """A line of who is not trained on or not asked, where there is anybody."""
    from diffrec.data.datamodule import fewest_items

    dataset, split = run.data.dataset, run.data.split
    fewest = fewest_items(run.data.examples or run.model.examples)
    unlearnt = int((split.train.lengths < fewest).sum())
    asked = (len(split.valid), len(split.test))
    if not split.too_short and not unlearnt and min(asked) == dataset.num_users:
        return []
    facts = [
        *[f"{split.too_short:,} left out with fewer than three items"] * (split.too_short > 0),
        *[f"{unlearnt:,} training sequences of fewer than {fewest} items, not learnt from"] * (unlearnt > 0),
        f"{asked[0]:,} asked for validation, {asked[1]:,} for test",
    ]
    return [f"{dataset.num_users:,} {'users' if dataset.aligned else 'rows'}: {'; '.join(facts)}"]


def _resume_from(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[Path | None, Path | None]:
    """The run folder (None: a new one) and the checkpoint to continue from (None: from the start)."""
    from diffrec.training.build import last_checkpoint
    from diffrec.training.checkpoint_io import check_there
    from diffrec.training.config import compose
    from diffrec.training.resume import run_of

    if args.resume is None:
        return args.run_dir, None
    if args.resume != "auto":
        check_there(checkpoint := Path(args.resume))
        return args.run_dir or run_of(checkpoint), checkpoint
    checkpoint = last_checkpoint(compose(args.config, overrides), args.run_dir)
    return (args.run_dir, None) if checkpoint is None else (run_of(checkpoint), checkpoint)


def _complete_from_checkpoint(args: argparse.Namespace) -> None:
    """Take the configuration of the run where none is named. NotFoundError for a checkpoint that is not there."""
    from diffrec.training.checkpoint_io import check_there
    from diffrec.training.resume import run_of

    check_there(args.ckpt)
    if args.config:
        return
    beside = run_of(args.ckpt) / "config.yaml"
    if not beside.is_file():
        raise UsageError(f"there is no {beside}; name the configuration of {args.ckpt} with -c")
    args.config = [beside]


def _measure(stage: str, args: argparse.Namespace, overrides: Sequence[str]) -> int:
    from diffrec.training.build import build, decoded
    from diffrec.training.checkpoint_io import load_weights, read_checkpoint
    from diffrec.training.learnt_from import refuse_other_data
    from diffrec.training.progress import hush_lightning
    from diffrec.training.resume import run_of

    hush_lightning()
    if stage == "predict" and args.output is not None:
        from diffrec.data.list_table import check_parquet_name

        check_parquet_name(args.output)
    checkpoint = read_checkpoint(args.ckpt)
    bar = str(not args.quiet and sys.stderr.isatty()).lower()
    screen = ["--trainer.logger=false", f"--trainer.enable_progress_bar={bar}"]
    run = build(args.config, [*screen, *overrides], run_of(args.ckpt))
    refuse_other_data(checkpoint, run.data, args.ckpt)
    load_weights(run.model, checkpoint, args.ckpt)
    run = replace(run, model=decoded(run.model, run.config))
    if stage == "predict":
        return _predict(run, args.output or run.run_dir / "predictions.parquet", args.k)
    measure = run.trainer.validate if stage == "validate" else run.trainer.test
    _print_metrics(run, stage, measure(run.model, run.data, verbose=False)[0])
    return 0


def _print_metrics(run: Run, stage: str, metrics: Mapping[str, float]) -> None:
    cases = run.data.split.valid if stage == "validate" else run.data.split.test
    name, dataset, protocol = type(run.model).__name__, run.data.dataset_name, run.data.protocol.id
    title = f"{name} on {dataset}, {protocol}, {stage}: {len(cases):,} cases"
    width = max(len(name.partition("/")[2]) for name in metrics)
    rows = [f"  {name.partition('/')[2]:{width}}  {value:.4f}" for name, value in metrics.items()]
    sys.stdout.write("\n".join([title, *rows]) + "\n")


def _predict(run: Run, output: Path, k: int) -> int:
    from diffrec.training.predict import predict

    rows = predict(run, output, k)
    sys.stdout.write(f"{rows:,} rows (user_id, rank, item_id, score) in {output}\n")
    return 0
