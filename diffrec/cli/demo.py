"""`diffrec demo`: train, compare and recommend on real data, in minutes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec.cli.bench import training_progress
from diffrec.cli.entries import save_entry
from diffrec.cli.leaderboard import show
from diffrec.cli.printable import print_line

if TYPE_CHECKING:
    from diffrec.bench.leaderboard import Table
    from diffrec.bench.page import Example, Picture
    from diffrec.bench.result import Result
    from diffrec.bench.runner import Trained
    from diffrec.bench.suite import Suite
    from diffrec.data.dataset import Dataset

HELP = "train a diffusion and an autoregressive recommender on MovieLens 100K, compare them, recommend ten films"
SHOWN = "dreamrec"
HISTORY = "Alien (1979), Aliens (1986), Terminator, The (1984)"


@dataclass(frozen=True)
class Output:
    """The files of a demo, below one folder."""

    folder: Path
    dataset: str

    @property
    def entry(self) -> Path:
        """The trained model that recommends."""
        return self.folder / "zoo" / f"{SHOWN}.{self.dataset}"

    def log(self, model: str) -> Path:
        """The training curve of a model."""
        return self.folder / "logs" / f"{model}.csv"

    def finished(self, model: str) -> bool:
        """Whether everything that training leaves behind is there."""
        return self.log(model).exists() and (model != SHOWN or self.entry.exists())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    text = "folder for results, model, plots and page (default: demo); what is in it already is used again"
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help=text)
    parser.add_argument("--history", default=HISTORY, metavar="ITEMS", help=f"titles or ids (default: {HISTORY})")
    parser.add_argument("--suite", default="demo", metavar="SUITE", help=f"a suite on one dataset, with a {SHOWN}")


def run(args: argparse.Namespace) -> int:
    """The whole line; 1 where a model could not be trained."""
    from diffrec.bench.comparison import compare_rows
    from diffrec.bench.leaderboard import comparable, table, with_comparison, with_suite
    from diffrec.bench.suite import find_suite, load_suite
    from diffrec.bench.tuning import shipped, tuned

    suite = tuned(load_suite(find_suite(args.suite)), shipped(), args.suite)
    output = Output(args.output, suite.datasets[0].name)
    dataset = _say_where_data_comes_from(output.dataset)
    dataset.vocabulary.parse_history(args.history)  # wrong titles are told before the training
    results = _train(suite, output)
    if results is None:
        return 1
    [group] = comparable(results)
    compared = with_comparison(table(group), compare_rows(group, output.folder / "results"))
    tables = [with_suite(compared, suite)]
    show(tables)
    example = _recommend(output, args.history)
    pictures = _draw(tables[0], results, output)
    written = [*_write_texts(suite, tables, example, pictures, output), *(picture.path for picture in pictures)]
    print_line(f"\nwritten to {output.folder}:")
    for path in [*written, output.entry, args.output / "results", args.output / "runs"]:
        print_line(f"  {path}")
    return 0


def _say_where_data_comes_from(name: str) -> Dataset:
    """The dataset, loaded for its download to be seen."""
    from diffrec.data.catalogue import find
    from diffrec.data.sources import load_dataset

    if not find(name).is_here:
        print_line(f"fetching {name} from its publisher, or from a mirror; a checksum decides what is taken")
    dataset = load_dataset(name)
    facts = [f"{dataset.num_users:,} users", f"{dataset.num_items:,} items", dataset.info.homepage]
    print_line(f"{dataset.info.title}: {', '.join(fact for fact in facts if fact)}")
    print_line(f"licence: {dataset.info.licence}\n")
    return dataset


def _train(suite: Suite, output: Output) -> list[Result] | None:
    """The results of all cells, None where one failed."""
    from diffrec.bench.runner import Folders, run_suite

    def keep(trained: Trained) -> None:
        if trained.cell.model.name == SHOWN:
            save_entry(trained, output.entry)
        output.log(trained.cell.model.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.log, output.log(trained.cell.model.name))

    outcomes = run_suite(
        suite,
        Folders(output.folder / "results", output.folder / "runs"),
        force=lambda cell: not output.finished(cell.model.name),
        report=print_line,
        progress=training_progress(),
        keep=keep,
    )
    print_line("")
    for outcome in outcomes:
        if outcome.error is not None:
            sys.stderr.write(f"failed: {outcome.cell}: {outcome.error}\n")
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    return results if len(results) == len(outcomes) else None


def _recommend(output: Output, text: str) -> Example:
    """Ten items for the history in `text`, from the saved model as anybody would load it."""
    import torch

    from diffrec.bench.page import Example
    from diffrec.cli.printable import printable
    from diffrec.zoo import load

    model = load(output.entry)
    assert model.vocabulary is not None
    history = model.vocabulary.parse_history(text)
    best = model.recommend(torch.tensor([history]), k=10).items[0].tolist()
    titles = model.vocabulary.label
    example = Example(SHOWN, tuple(map(titles, history)), tuple(map(titles, best)))
    print_line(f"\n{SHOWN} recommends after {printable(', '.join(example.history))}:")
    for place, title in enumerate(example.items, start=1):
        print_line(f"{place:4}  {printable(title)}")
    return example


def _draw(table: Table, results: Sequence[Result], output: Output) -> list[Picture]:
    """Accuracy, accuracy against cost, training; each PNG has its CSV beside it."""
    from diffrec.bench.page import Picture
    from diffrec.bench.plots import accuracy_chart, cost_chart, read_curve, training_chart

    plots, metric = output.folder / "plots", table.headline
    trained = [result for result in results if result.role != "training-free"]
    reference = max(result.validation[metric] for result in results if result.role == "training-free")
    curves = [read_curve(r.model, output.log(r.model), metric, r.selection.epoch) for r in trained]
    accuracy_chart(table, plots / "accuracy.png")
    cost_chart(table, plots / "cost.png")
    training_chart(table, curves, reference, plots / "training.png")
    return [
        Picture(plots / "accuracy.png", "Accuracy of every row; hollow squares need no training."),
        Picture(plots / "cost.png", "Accuracy against what a request costs."),
        Picture(plots / "training.png", "Validation metric while training; the star is the epoch that was tested."),
    ]


def _write_texts(
    suite: Suite, tables: Sequence[Table], example: Example, pictures: Sequence[Picture], output: Output
) -> list[Path]:
    """The page and the table as Markdown."""
    from diffrec.bench.page import page
    from diffrec.bench.render import markdown
    from diffrec.files import write_file

    note = f"Made by diffrec demo. Every number is in {output.folder / 'results'}, every picture has its CSV beside it."
    html = page(suite.title, tables, example, pictures, [note])
    write_file(output.folder / "index.html", html.encode())
    write_file(output.folder / "leaderboard.md", markdown(tables).encode())
    return [output.folder / "index.html", output.folder / "leaderboard.md"]
