"""`diffrec zoo verify`: entries against what they say of themselves, and with --evaluate against their dataset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffrec.cli.printable import print_line, printable

if TYPE_CHECKING:
    from diffrec.recommender import Recommender
    from diffrec.zoo.config import Evaluation
    from diffrec.zoo.verifying import Verified

HELP = "check every byte, the weights, the card and the golden lists; exit code 3 where one is not as it should be"
SAME_MACHINE, ELSEWHERE = 1e-6, 1e-3  # how far a metric may be from the stated one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which entries, and how far to go."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="all models on this machine if none is given")
    parser.add_argument("--evaluate", action="store_true",
                        help="also measure again on the dataset of the model, if that is here: metrics within "
                             f"{SAME_MACHINE:g} on a machine like the one that measured, "
                             f"{ELSEWHERE:g} on others")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Every model is looked at; the exit code is that of the first one that fails."""
    from diffrec.errors import DiffrecError
    from diffrec.zoo.finding import find_entry
    from diffrec.zoo.index import on_this_machine, read_index
    from diffrec.zoo.verifying import verify

    rows = read_index()
    here = on_this_machine(rows)
    code = 0
    for name in args.names or rows:
        if not args.names and not here[name]:
            print_line(f"{name}: not on this machine")
            continue
        try:
            verified = verify(find_entry(name, offline=True))
            print_line(f"{name}: ok, {_what_was_checked(verified)}")
            if args.evaluate:
                _evaluate(name, verified)
        except DiffrecError as error:
            code = code or error.exit_code
            print_line(f"{name}: {printable(str(error))}")
    return code


def _what_was_checked(verified: Verified) -> str:
    lists = f"{verified.lists} lists" if verified.lists else "no lists to compare"
    return f"{verified.config.parameters:,} parameters, {lists}"


def _evaluate(name: str, verified: Verified) -> None:
    """Measure again and show both numbers; IntegrityError where one is not what the entry says."""
    from diffrec.errors import IntegrityError

    again, other = measured_again(verified)
    stated, tolerance = verified.measured.metrics, ELSEWHERE if other else SAME_MACHINE
    why = ", for here is" if other else ", as on the machine that measured"
    print_line(f"{verified.config.protocol}: within {tolerance:g}{why}")
    for line in other:
        print_line(f"  {printable(line)}")
    print_line(f"  {'metric':18} {'stated':>9} {'again':>9} {'difference':>11}")
    for metric, value in sorted(stated.items()):
        told = f"{value:9.6f} {again[metric]:9.6f} {again[metric] - value:11.1e}"
        print_line(f"  {printable(metric):18} {told}{'' if abs(again[metric] - value) <= tolerance else ' !'}")
    wrong = [metric for metric, value in stated.items() if abs(again[metric] - value) > tolerance]
    if wrong:
        raise IntegrityError(f"{', '.join(wrong)} did not come out again within {tolerance:g}")
    print_line(f"{name}: {len(stated)} metrics come out again")


def measured_again(verified: Verified) -> tuple[Mapping[str, float], list[str]]:
    """The metrics of an entry, from its dataset; and in what this machine differs from the one that measured."""
    from diffrec.bench.rerun import unlike

    again, here = measured_here(verified, verified.model)
    on = verified.measured.evaluation
    if on is None:
        return again, ["an entry that does not say on what it was measured"]
    machine = {name: getattr(here, name) for name in ("device", "processor", "threads")}
    return again, unlike({**machine, **here.packages}, {**vars(on), **on.packages})


def measured_here(verified: Verified, model: Recommender) -> tuple[Mapping[str, float], Evaluation]:
    """The metrics of a model as those of an entry were measured, from its dataset, and on what that was now.

    Raises UsageError for an entry that states no metrics, IntegrityError where the dataset is another one by now.
    """
    import torch

    from diffrec.bench.rerun import device_of
    from diffrec.cli.entries import measured_now
    from diffrec.cli.submit import local_dataset
    from diffrec.data.protocol import get_protocol
    from diffrec.errors import IntegrityError, UsageError

    config, measured = verified.config, verified.measured
    if config.dataset is None or config.protocol is None or not measured.metrics:
        raise UsageError("it states no metrics under a protocol, so there is nothing to measure again")
    dataset, protocol, on = local_dataset(config.dataset.name), get_protocol(config.protocol), measured.evaluation
    if dataset.sha256 != config.dataset.sha256:
        told = f"the entry was trained on {config.dataset.sha256[:12]}"
        raise IntegrityError(f"the dataset {dataset.name} here has sha256 {dataset.sha256[:12]}, {told}")
    threads, seed = torch.get_num_threads(), measured.training.seed or 0
    try:
        if on is not None:
            torch.set_num_threads(on.threads)
        model = model.to(device_of(on.device if on else "cpu"))
        seed, draws = (on.seed, on.draws) if on else (seed, 1)
        metrics, here = measured_now(model, protocol.apply(dataset).test, protocol.cutoffs, seed, draws)
    finally:
        torch.set_num_threads(threads)
    if unknown := measured.metrics.keys() - metrics.keys():
        raise UsageError(f"{protocol.id} does not measure {', '.join(sorted(unknown))}, which the entry states")
    return metrics, here
