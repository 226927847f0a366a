"""card.md: what somebody should know before using an entry, generated from the facts it was saved with."""

from __future__ import annotations

import inspect
import textwrap

from diffrec.data.dataset import Dataset
from diffrec.recommender import Recommender
from diffrec.zoo.config import Config, Measured


def card(name: str, model: Recommender, config: Config, measured: Measured, dataset: Dataset | None) -> str:
    """The card in Markdown; the same facts give the same text."""
    about, paper = inspect.getdoc(type(model)), inspect.getdoc(inspect.getmodule(type(model)))
    sections = {
        "What it is": f"{about}\n\n{config.parameters:,} parameters, {model.num_items:,} items.",
        "Paper": paper or "None.",
        "Data and terms": _data(dataset),
        "Training": _training(measured),
        "Protocol": config.protocol or "Not measured under a protocol of diffrec.",
        "Metrics": _metrics(measured),
        "Steps": f"{config.denoiser_calls} network evaluations for one request.",
        "Limits": _limits(model, dataset),
        "Licence": "Apache-2.0, as diffrec. The data it was learnt from is not part of it and keeps its own terms.",
    }
    use = f'# {name}\n\n```python\nimport diffrec\n\nmodel = diffrec.load("{name}")\n```'
    return "\n\n".join([use, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _data(dataset: Dataset | None) -> str:
    if dataset is None:
        return "Not stated."
    info = dataset.info
    counts = f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"
    lines = [f"{info.title} (`{dataset.name}`): {counts}.", f"Terms: {info.licence}", info.homepage, info.citation]
    return "\n".join(f"- {line}" for line in (*lines, f"sha256 of the content: `{dataset.sha256}`") if line)


def _training(measured: Measured) -> str:
    facts = {name: value for name, value in vars(measured.training).items() if value is not None}
    command = facts.pop("command", None)
    shown = [f"```\n{command}\n```"] if command else []
    shown += ["\n".join(f"- {name}: {value}" for name, value in facts.items())] if facts else []
    return "\n\n".join(shown) or "Not stated."


def _metrics(measured: Measured) -> str:
    if not measured.metrics:
        return "None."
    rows = [f"| {name} | {value:.4f} |" for name, value in sorted(measured.metrics.items())]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _limits(model: Recommender, dataset: Dataset | None) -> str:
    window = model.max_history_length
    reads = "all items of a history" if window is None else f"the last {window} items of a history"
    text = f"It knows its {model.num_items:,} items and no other, and reads {reads}."
    if dataset is not None:
        text += (
            f" The metrics say how it does on {dataset.name} under the protocol above, and nothing about other data."
        )
    return textwrap.fill(text, 100)
