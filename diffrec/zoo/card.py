"""card.md: what somebody should know before using an entry, generated from the facts it was saved with."""

from __future__ import annotations

import inspect
import re
import textwrap

from diffrec.data.dataset import Dataset
from diffrec.recommender import Recommender
from diffrec.zoo.config import Config, Measured
from diffrec.zoo.golden import Golden, K

DATA = "Data and terms"
_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)
_HEADINGS = ("What it is", "Paper", DATA, "Training", "Protocol", "Metrics", "Steps", "Limits", "Licence")
_NOT_STATED, _NONE = "Not stated.", "None."
_NOT_MEASURED = "Not measured under a protocol of diffrec."


def card(name: str, model: Recommender, config: Config, measured: Measured, golden: Golden, data: str) -> str:
    """The card in Markdown; the same facts give the same text. data: as of `about_data`."""
    about, paper = inspect.getdoc(type(model)), inspect.getdoc(inspect.getmodule(type(model)))
    sections = {
        "What it is": f"{about}\n\n{config.parameters:,} parameters, {model.num_items:,} items.",
        "Paper": paper or _NONE,
        DATA: data,
        "Training": _training(measured),
        "Protocol": config.protocol or _NOT_MEASURED,
        "Metrics": _metrics(measured, config.dtype),
        "Evidence": _evidence(name, measured, golden),
        "Steps": f"{config.denoiser_calls} network evaluations for one request.",
        "Limits": _limits(model, config.dataset and config.dataset.name),
        "Licence": "Apache-2.0, as diffrec. The data it was learnt from is not part of it and keeps its own terms.",
    }
    use = f'# {name}\n\n```python\nimport diffrec\n\nmodel = diffrec.load("{name}")\n```'
    return "\n\n".join([use, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def sections(text: str) -> dict[str, str]:
    """The texts of a card by their headings."""
    parts = _HEADING.split(text)[1:]
    return {heading: content.strip() for heading, content in zip(parts[::2], parts[1::2], strict=True)}


def missing(text: str) -> list[str]:
    """The headings that a card lacks, or has with nothing below."""
    there = sections(text)
    return [heading for heading in _HEADINGS if not there.get(heading)]


def unknown(text: str) -> list[str]:
    """The headings of a card that say that nothing is known."""
    return [heading for heading, content in sections(text).items() if content in (_NOT_STATED, _NONE, _NOT_MEASURED)]


def about_data(dataset: Dataset | None) -> str:
    """What a model was learnt from, with its terms."""
    if dataset is None:
        return _NOT_STATED
    info = dataset.info
    counts = f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"
    lines = [f"{info.title} (`{dataset.name}`): {counts}.", f"Terms: {info.licence}", info.homepage, info.citation]
    return "\n".join(f"- {line}" for line in (*lines, f"sha256 of the content: `{dataset.sha256}`") if line)


def _training(measured: Measured) -> str:
    facts = {name: value for name, value in vars(measured.training).items() if value is not None}
    command = facts.pop("command", None)
    shown = [f"```\n{command}\n```"] if command else []
    shown += ["\n".join(f"- {name}: {value}" for name, value in facts.items())] if facts else []
    return "\n\n".join(shown) or _NOT_STATED


def _metrics(measured: Measured, dtype: str | None) -> str:
    if not measured.metrics:
        return _NONE
    before = measured.float32 or {}
    cells = {name: [value, *([before[name]] if name in before else [])] for name, value in measured.metrics.items()}
    head = ["| metric | value | in float32 |", "|---|---|---|"] if before else ["| metric | value |", "|---|---|"]
    rows = (f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |" for name, row in sorted(cells.items()))
    table = "\n".join([*head, *rows])
    return table if dtype is None else f"Weights are stored in {dtype}, and the values are theirs.\n\n{table}"


def _evidence(name: str, measured: Measured, golden: Golden) -> str:
    text = (
        f"`golden.json` holds the {K} best items of this model, with their scores, for {len(golden.histories)} fixed "
        f"histories; noise seed {golden.seed}. `diffrec zoo verify {name}` compares them."
    )
    if (on := measured.evaluation) is not None:
        draws = "" if on.draws == 1 else f", the mean of {on.draws} draws of the sampling noise"
        device = on.processor if on.device == "cpu" else f"{on.device} ({on.processor})"
        versions = ", ".join(f"{package} {version}" for package, version in sorted(on.packages.items()))
        text += (
            f" The metrics were measured with seed {on.seed}{draws}, on {device or 'a processor without a name'}, "
            f"{on.threads} thread{'s' * (on.threads > 1)}: {versions}. `--evaluate` measures them again."
        )
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _limits(model: Recommender, dataset: str | None) -> str:
    window = model.max_history_length
    reads = "all items of a history" if window is None else f"the last {window} items of a history"
    text = f"It knows its {model.num_items:,} items and no other, and reads {reads}."
    if dataset is not None:
        text += f" The metrics say how it does on {dataset} under the protocol above, and nothing about other data."
    return textwrap.fill(text, 100)
