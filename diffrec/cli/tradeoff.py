"""`diffrec tradeoff MODEL`: what a model that takes steps is worth for what it costs, sampled in many ways."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.device import chosen_device
from diffrec.errors import UsageError, check_sizes

if TYPE_CHECKING:
    from diffrec.bench.tradeoff import Setting, Tradeoff

HELP = "accuracy against cost: samplers x steps x guidance, on the validation cases"
SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which grid, on which cases."""
    parser.add_argument("model", metavar="MODEL", help="a name of 'diffrec zoo list', the folder of an entry, or a "
                        "checkpoint (.ckpt) of a run")  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="(default: that of the model)")
    parser.add_argument("--protocol", metavar="ID", help="(default: that of the model)")
    text = (
        "of ddpm,ddim,dpm-solver++,unipc,euler,heun,posterior-mean,lcm; a flow has euler,heun,lcm "
        "(default: all but posterior-mean and lcm)"
    )
    parser.add_argument("--samplers", type=_words, metavar="NAMES", help=text)
    text = "numbers of steps (default: 1,4,16 and the model's own; of a model with steps of its own 1,2,4,8,16 and all)"
    parser.add_argument("--steps", type=_whole_numbers, metavar="N,N,...", help=text)
    text = "guidance scales (default: 1 and the model's own)"
    parser.add_argument("--guidance", type=_numbers, metavar="W,W,...", help=text)
    parser.add_argument("--samples", type=int, metavar="N", help="average so many samples (default: the model's own)")
    parser.add_argument("--metric", default="ndcg@10", metavar="NAME", help="(default: ndcg@10)")
    parser.add_argument("--test", action="store_true", help="ask the test cases, after the setting has been chosen")
    parser.add_argument("--max-cases", type=int, metavar="N", help="ask only so many, evenly spread (default: all)")
    parser.add_argument("--seed", type=int, help="of the noise (default: that of the training)")
    parser.add_argument("--batch-size", type=int, default=512, metavar="N", help="(default: 512)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tradeoff.json, .csv and .png go (default: "
                        "runs/tradeoff/<model>-<dataset>)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Measure, write three files, print the table."""
    check_sizes(batch_size=args.batch_size)
    for name, value in (("--samples", args.samples), ("--max-cases", args.max_cases)):
        if value is not None:
            check_sizes(**{name: value})
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out is a folder, and {args.out} is a file")
    device = chosen_device(args.device)
    from diffrec.bench.plots import tradeoff_chart
    from diffrec.bench.tradeoff import tradeoff
    from diffrec.cli.subjects import subject_of
    from diffrec.files import write_file
    from diffrec.strict_json import to_json

    subject = subject_of(args.model, args.dataset, args.protocol, args.seed, args.batch_size)
    subject.model.to(device)
    if args.samples is not None:
        if not hasattr(subject.model, "num_samples"):
            raise UsageError(f"{type(subject.model).__name__} averages no samples, so leave --samples out")
        subject.model.num_samples = args.samples  # pyright: ignore[reportAttributeAccessIssue]
    result = tradeoff(
        subject,
        samplers=args.samplers,
        steps=args.steps,
        guidance_scales=args.guidance,
        metric=args.metric,
        test=args.test,
        max_cases=args.max_cases,
        report=_telling(args.quiet),
    )
    folder = args.out or Path("runs/tradeoff") / f"{result.model.lower()}-{result.dataset}"
    about = {"schema_version": SCHEMA_VERSION, "source": args.model}
    write_file(folder / "tradeoff.json", to_json({**about, **asdict(result)}))
    tradeoff_chart(result, folder / "tradeoff.png")
    _print_table(result)
    sys.stdout.write(f"tradeoff.json, .csv and .png are in {folder}\n")
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 1,4,16") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,3.0") from None


def _telling(quiet: bool) -> Callable[[Setting, int, int], None]:
    """What writes a line before each setting, with the time that is left if the others take as long."""
    started = time.monotonic()

    def tell(setting: Setting, number: int, count: int) -> None:
        guidance = "" if setting.guidance_scale is None else f", guidance {setting.guidance_scale:g}"
        steps = f"{setting.num_inference_steps} step{'s' * (setting.num_inference_steps != 1)}"
        seconds = (time.monotonic() - started) / max(number - 1, 1) * (count - number + 1)
        left = f"; about {seconds:.0f} s left" if number > 1 else ""
        sys.stderr.write(f"{number}/{count} {setting.sampler}, {steps}{guidance}{left}\n")
        sys.stderr.flush()

    return (lambda setting, number, count: None) if quiet else tell


def _print_table(result: Tradeoff) -> None:
    from rich.table import Table
    from rich.text import Text

    from diffrec.bench.render import metric_name
    from diffrec.cli.printable import page_console, printable

    console = page_console()
    about = f"{result.dataset}, {result.protocol}, {result.cases:,} {result.split} cases, seed {result.seed}"
    console.print(Text(printable(f"{result.model} · {about}"), style="bold"))
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(Text("sampler", style="bold"), overflow="fold")
    for heading in ("steps", "guidance", "calls", metric_name(result.metric), "±", "ms/user"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("")
    for point in result.points:
        remarks = ["frontier"] * point.frontier + ["as set"] * point.own
        grid.add_row(
            point.sampler,
            str(point.num_inference_steps),
            "-" if point.guidance_scale is None else f"{point.guidance_scale:g}",
            f"{point.denoiser_calls:,}",
            f"{point.value:.4f}".removeprefix("0"),
            f"{point.standard_error:.4f}".removeprefix("0"),
            f"{point.ms_per_user:#.3g}" if point.ms_per_user < 99.95 else f"{point.ms_per_user:,.0f}",
            ", ".join(remarks),
        )
    console.print(grid)
    machine = f"{result.device}, {result.threads} thread{'s' * (result.threads > 1)}"
    note = "frontier: as few calls reach no more. "
    note += f"±: standard error over the cases. ms/user: {result.asked_at_once} at a time; {machine}."
    if result.num_samples > 1:
        note += f" Scores are means over {result.num_samples} samples, which multiplies the calls."
    console.print(Text(note, style="dim"))
