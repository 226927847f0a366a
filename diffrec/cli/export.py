"""`diffrec export MODEL`: the model and its sampler as one graph, compared with the model before it is written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.sampling import add_sampling_arguments, loaded
from diffrec.errors import UsageError

if TYPE_CHECKING:
    from diffrec.inference.exporting import Format

HELP = (
    "write a model with its sampler as a graph, for torch.export or ONNX: (history, state) -> scores. history: item "
    "numbers, which are places in the vocabulary from 1, with 0 behind the last; state: of the noise, as "
    "RequestNoise.from_history(history, seed).state of diffrec.diffusion.noise gives it, any number for a model "
    "without; scores: column j is item j + 1, seen items too. A graph has one way of scoring, whatever the values that "
    "it meets: models over semantic IDs whose lists come from a beam search (TIGER, its decoder, MaskGR, LC-Rec) "
    "cannot be exported, nor LightGCN"
)

_FORMATS: dict[str, Format] = {".pt2": "pt2", ".onnx": "onnx"}  # by ending


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, the file, its shape, how to sample."""
    parser.add_argument("model", metavar="MODEL", help="a name of 'diffrec zoo list', or the folder of an entry")
    text = "(default: as FILE ends, else pt2, of torch.export)"
    parser.add_argument("--format", choices=list(_FORMATS.values()), help=text)
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: NAME.pt2 or NAME.onnx)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="histories at a time (default: 1)")
    parser.add_argument("--window", type=int, metavar="N", help="items of a history (default: those the model reads)")
    add_sampling_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="take the model from this machine or not at all")


def run(args: argparse.Namespace) -> int:
    """Export, compare, write, tell."""
    form = _form(args.format, args.output)
    model = loaded(args)
    from diffrec.inference.exporting import export

    path = args.output or Path(f"{Path(args.model).name}.{form}")
    done = export(model, path, form=form, batch=args.batch, window=args.window)
    parity = done.parity
    if args.window is not None and args.window > done.window:
        sys.stderr.write(f"a window of {done.window}, not {args.window:,}: the model reads no more items\n")
    sys.stdout.write(
        f"{done.path}: {done.bytes:,} bytes; (history ({done.batch}, {done.window}), state ({done.batch},)) -> scores "
        f"({done.batch}, {model.num_items})\n"
        f"parity with the model on {parity.requests} histories: scores {parity.difference:.1e} of the largest apart, "
        f"{100 * parity.equal:.1f} % of places equal\n"
    )
    return 0


def _form(asked: Format | None, output: Path | None) -> Format:
    """The format that is asked for, else that of the ending; UsageError where the ending says another one."""
    meant = _FORMATS.get("" if output is None else output.suffix.lower())
    if asked is not None and meant is not None and asked != meant:
        raise UsageError(f"--output {output} ends as {meant} does, and --format says {asked}: leave one of them out")
    return asked or meant or "pt2"
