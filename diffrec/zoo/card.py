"""card.md: what somebody should know before using an entry, generated from the facts it was saved with."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.nn.known_users import KnownUsers
from diffrec.recommender import Recommender
from diffrec.zoo.benchmark import Benchmark, Score
from diffrec.zoo.benchmark import K as LISTED
from diffrec.zoo.config import Config, Evaluation, Measured
from diffrec.zoo.golden import LENGTHS, SEED, K
from diffrec.zoo.headings import DATA, LICENCE, NONE, NOT_MEASURED, NOT_STATED, TERMS, TIME, fact

_CUTOFF = re.compile(r"(.+)@(\d+)")
_NO_TIMES = "the source has none"
_OF_LISTS = {
    "coverage": "items of the catalogue that are shown to anybody (coverage)",
    "gini": "how unequally items are shown, 0 equally to 1 a single one (Gini)",
    "popularity": "training interactions of a shown item",
    "novelty": "bits that a shown item tells (novelty)",
}


def card(name: str, model: Recommender, config: Config, measured: Measured, data: str) -> str:
    """The card in Markdown; the same facts give the same text. data: as of `about_data`."""
    about, paper = inspect.getdoc(type(model)), inspect.getdoc(inspect.getmodule(type(model)))
    benchmark = measured.benchmark
    sections = {
        "What it is": f"{about}\n\n{config.parameters:,} parameters, {model.num_items:,} items.",
        "Paper": paper or NONE,
        DATA: data,
        "Training": _training(measured),
        "Protocol": _protocol(config.protocol, benchmark),
        "Metrics": _metrics(measured, config),
        "Popular items": _popular_items(benchmark),
        "Steps": _steps(config, benchmark),
        "Evidence": _evidence(name, measured),
        "Limits": _limits(model, config.dataset and config.dataset.name, benchmark, data),
        "Licence": f"{LICENCE}, as diffrec. The data it was learnt from is not part of it and keeps its own terms.",
    }
    use = f'# {name}\n\n```python\nimport diffrec\n\nmodel = diffrec.load("{name}")\n```'
    return "\n\n".join([use, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def about_data(dataset: Dataset | None) -> str:
    """What a model was learnt from, with its terms."""
    if dataset is None:
        return NOT_STATED
    info = dataset.info
    counts = f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"
    lines = [f"{info.title} (`{dataset.name}`): {counts}.", f"{TIME}: {_time(dataset)}", f"{TERMS}: {info.licence}",
             info.homepage, info.citation]  # fmt: skip
    lines.append(f"sha256 of the content: `{dataset.sha256}`")
    return "\n".join(_filled(line, "- ") for line in lines if line)


def _time(dataset: Dataset) -> str:
    """The first and the last day (UTC) of its interactions."""
    times = [part.timestamps.values for part in dataset.parts.values() if part.timestamps is not None]
    if not (times := [values for values in times if len(values)]):
        return _NO_TIMES
    ends = min(int(values.min()) for values in times), max(int(values.max()) for values in times)
    try:
        first, last = (datetime.fromtimestamp(end, UTC).date().isoformat() for end in ends)
    except (ValueError, OverflowError, OSError):
        return "not that of a calendar"
    return f"{first} to {last}"


def _training(measured: Measured) -> str:
    facts = {name: value for name, value in vars(measured.training).items() if value is not None}
    command = facts.pop("command", None)
    shown = [f"```\n{command}\n```"] if command else []
    shown += ["\n".join(f"- {name}: {value}" for name, value in facts.items())] if facts else []
    return "\n\n".join(shown) or NOT_STATED


def _protocol(protocol: str | None, benchmark: Benchmark | None) -> str:
    if protocol is None:
        return NOT_MEASURED
    said = get_protocol(protocol)
    text = f"`{said.id}`: {said.summary}. It ranks by {said.headline}."
    if benchmark is not None and "test_users" in benchmark.counts:
        text += f" {benchmark.counts['test_users']:,} test users with {benchmark.counts['test_targets']:,} true items."
    return _filled(text)


def _metrics(measured: Measured, config: Config) -> str:
    """How it does beside its other seeds, its controls and popularity; then all metrics."""
    if not measured.metrics:
        return NONE
    parts = [_comparison(measured, config)] if config.protocol else []
    sd = measured.benchmark.sd if measured.benchmark else {}
    if sd:
        assert measured.benchmark is not None
        seeds = measured.benchmark.row.seeds
        parts.append(f"All metrics of this model, each ± its standard deviation over the {seeds} seeds:")
    return "\n\n".join([*parts, _matrix(measured.metrics, sd)])


def _comparison(measured: Measured, config: Config) -> str:
    """The headline metric of the entry, its row and what there is to hold it against."""
    assert config.protocol is not None
    benchmark = measured.benchmark
    metric = benchmark.headline if benchmark else get_protocol(config.protocol).headline
    if metric not in measured.metrics:
        return "No other seeds, and no controls, are known."
    seed = "" if measured.training.seed is None else f", seed {measured.training.seed}"
    stored = f", weights in {config.dtype}" if config.dtype else ""
    rows = [[f"this model{seed}{stored}", "1", f"{measured.metrics[metric]:.4f}"]]
    if measured.float32 is not None:
        rows.append(["the same before rounding, in float32", "1", f"{measured.float32[metric]:.4f}"])
    notes = "It comes from no record of a suite: no other seeds and no controls are known."
    if benchmark is not None:
        rows.append([f"its row in the suite {benchmark.suite}", *_cells(benchmark.row)])
        for name, score in sorted(benchmark.controls.items()):
            rows.append([f"control {name}{': ' if score.about else ''}{score.about}", *_cells(score)])
        if benchmark.popularity is not None and config.class_path != "diffrec.baselines.Popularity":
            rows.append(["popularity, the same list for everybody", *_cells(benchmark.popularity)])
        notes = _notes(benchmark)
    return f"{_table([metric, 'seeds', 'value'], rows)}\n\n{_filled(notes)}"


def _notes(benchmark: Benchmark) -> str:
    spread = "± is the standard deviation over seeds"
    if benchmark.row.sd is None:
        spread = "one seed was run, so the standard deviation over seeds is not known"
    if benchmark.draw_sd is not None:
        spread += f"; over draws of the sampling noise it is {benchmark.draw_sd:.4f}"
    return f"{spread[0].upper()}{spread[1:]}.{'' if benchmark.controls else ' No control of this row was measured.'}"


def _cells(score: Score) -> list[str]:
    return [str(score.seeds), f"{score.mean:.4f}" + ("" if score.sd is None else f" ± {score.sd:.4f}")]


def _matrix(metrics: Mapping[str, float], sd: Mapping[str, float]) -> str:
    """All metrics: a line for each, a column for each length of list."""
    places = {name: (found[1], int(found[2])) if (found := _CUTOFF.fullmatch(name)) else (name, 0) for name in metrics}
    names = {place: name for name, place in places.items()}
    cutoffs = sorted({cutoff for _, cutoff in places.values()}, key=lambda cutoff: (cutoff == 0, cutoff))

    def cell(place: tuple[str, int]) -> str:
        if (name := names.get(place)) is None:
            return ""
        return f"{metrics[name]:.4f}" + (f" ± {sd[name]:.4f}" if name in sd else "")

    lines: dict[tuple[str, ...], list[str]] = {}  # metrics that are the same here share one, as with one true item
    for family in sorted({family for family, _ in places.values()}):
        lines.setdefault(tuple(cell((family, cutoff)) for cutoff in cutoffs), []).append(family)
    head = ["metric", *(f"@{cutoff}" if cutoff else "all" for cutoff in cutoffs)]
    return _table(head, [[", ".join(families), *cells] for cells, families in lines.items()])


def _popular_items(benchmark: Benchmark | None) -> str:
    """How far the lists lean to popular items, beside lists that hold nothing else."""
    if benchmark is None or not benchmark.lists:
        return "How far its lists lean to popular items was not measured."
    beside = [benchmark.lists, *([benchmark.popular_lists] if benchmark.popular_lists else [])]
    rows = [[text, *(_of_lists(kind, of[kind]) for of in beside)] for kind, text in _OF_LISTS.items()]
    table = _table([f"test lists of {LISTED}", "this model", "popularity"][: 1 + len(beside)], rows)
    mean = benchmark.counts["train_interactions"] / benchmark.counts["items"]
    times = [f"{of['popularity'] / mean:.1f} times" for of in beside]
    text = f"An item of the catalogue has {mean:.1f} training interactions on average, a shown one {times[0]} as many"
    text += f", and {times[1]} in the lists of the popularity baseline." if len(times) > 1 else "."
    return f"{table}\n\n{_filled(text)}"


def _of_lists(kind: str, value: float) -> str:
    return f"{value:.1%}".replace("%", " %") if kind == "coverage" else f"{value:.{3 if kind == 'gini' else 1}f}"


def _steps(config: Config, benchmark: Benchmark | None) -> str:
    calls = config.denoiser_calls
    text = f"{calls} network evaluation{'s' * (calls != 1)} for one request."
    if benchmark is None or not benchmark.ms_per_user:
        return f"{text} Its latency was not measured."
    times = [(int(size), f"{ms:#.2g}" if ms < 9.95 else f"{ms:.0f}") for size, ms in benchmark.ms_per_user.items()]
    told = [f"{ms} ms alone" if size == 1 else f"{ms} ms a user in a batch of {size:,}" for size, ms in sorted(times)]
    on = _machine(benchmark)
    return _filled(f"{text} A list of {LISTED} takes {' and '.join(told)} (medians), on {on}.")


def _machine(on: Benchmark | Evaluation) -> str:
    device = on.processor if on.device == "cpu" else f"{on.device} ({on.processor})"
    return f"{device or 'a processor without a name'}, {on.threads} thread{'s' * (on.threads > 1)}"


def _evidence(name: str, measured: Measured) -> str:
    text = (
        f"`golden.json` holds the {K} best items of this model, with their scores, for {len(LENGTHS)} fixed "
        f"histories; noise seed {SEED}. `diffrec zoo verify {name}` compares them."
    )
    if (on := measured.evaluation) is not None:
        draws = "" if on.draws == 1 else f", the mean of {on.draws} draws of the sampling noise"
        versions = ", ".join(f"{package} {version}" for package, version in sorted(on.packages.items()))
        text += (
            f" The metrics were measured with seed {on.seed}{draws}, on {_machine(on)}: {versions}. "
            "`--evaluate` measures them again."
        )
    return _filled(text)


def _limits(model: Recommender, dataset: str | None, benchmark: Benchmark | None, data: str) -> str:
    """Who is not served, and what the numbers do not say."""
    window = model.max_history_length
    reads = "all items" if window is None else f"the last {window} items"
    items = (
        f"Items: it knows its {model.num_items:,} and no other; what came later or is not in its data is never shown."
    )
    if benchmark is not None and (cold := benchmark.counts.get("cold_test_targets")) is not None:
        share = 100 * cold / max(benchmark.counts["test_targets"], 1)
        told = f"Of the true items of the test {cold:,} ({share:.1f} %) have no training interaction."
        items += f" {told if cold else 'All true items of the test have training interactions.'}"
    users = f"Users: it reads {reads} of a history. Who has none gets a list that rests on nothing of theirs."
    if any(isinstance(part, KnownUsers) for part in model.modules()):
        users += " It holds vectors of its training users; for others it makes one of the items of their history."
    points = [items, users]
    if dataset is not None:
        numbers = f"Numbers: they say how it does on {dataset} under the protocol above, and nothing about other data."
        if " to " in (time := fact(data, TIME) or ""):
            numbers += f" Its data is of {time}: nothing that happened later is in it."
        points.append(numbers)
    return "\n".join(_filled(point, "- ") for point in points)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _filled(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, 100, initial_indent=bullet, subsequent_indent=" " * len(bullet),
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip
