"""`diffrec zoo save`: a trained run as an entry, to be used by folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from diffrec.cli.entries import measured_now
from diffrec.cli.printable import as_path, print_line

HELP = "make an entry of a run of 'diffrec fit'; recommend, serve and export take its folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and what goes into the entry."""
    parser.add_argument("run", type=Path, metavar="RUN", help="its folder, whose best.ckpt is taken, or a checkpoint")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the folder of the entry (default: RUN/entry)")
    parser.add_argument("--test", action="store_true",
                        help="measure on the test cases too, and keep the metrics in the entry")  # fmt: skip
    parser.add_argument("--include-titles", action="store_true",
                        help="keep the titles of the items in the entry; look at the terms of your data "
                             "first")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="in the place of an entry that is there")


def run(args: argparse.Namespace) -> int:
    """Save the entry and say how it is used."""
    from diffrec.cli.subjects import subject_of_checkpoint
    from diffrec.errors import NotFoundError
    from diffrec.training.resume import best_of, newest_checkpoint, run_of
    from diffrec.zoo.saving import save

    checkpoint = best_of(args.run) if args.run.is_dir() else args.run
    if checkpoint is None:
        newest = newest_checkpoint(args.run.glob("version_*"), "best.ckpt")
        where = (
            f"the newest run with one is {run_of(newest)}" if newest else "'diffrec fit' prints the folder of its run"
        )
        raise NotFoundError(f"{args.run} holds no checkpoints/best.ckpt; {where}")
    subject = subject_of_checkpoint(checkpoint, None, None, None, 512)
    folder = args.output or run_of(checkpoint) / "entry"
    metrics, evaluation = None, None
    if args.test:
        cutoffs = subject.protocol.cutoffs
        metrics, evaluation = measured_now(subject.model, subject.split.test, cutoffs, subject.seed, draws=1)
    save(
        subject.model,
        folder,
        dataset=subject.dataset,
        protocol=subject.protocol.id,
        metrics=metrics,
        training={"seed": subject.seed},
        evaluation=evaluation,
        include_titles=args.include_titles,
        overwrite=args.overwrite,
    )
    if metrics is not None:
        headline = subject.protocol.headline
        asked = f"{subject.dataset.name}, {subject.protocol.id}"
        print_line(f"{headline} {metrics[headline]:.4f} on the test cases of {asked}")
    ids = ",".join(subject.dataset.vocabulary.item_ids[:2])
    print_line(f"{folder}\n{shlex.join(['diffrec', 'recommend', as_path(folder), f'--history={ids}'])}")
    return 0
