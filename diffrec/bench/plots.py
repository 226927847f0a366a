"""Pictures of a table, each written with the CSV of what it shows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffrec.bench.leaderboard import Row, Table
from diffrec.bench.render import accuracy


@dataclass(frozen=True)
class Style:
    """How the rows of one role are drawn: colours of Okabe and Ito, and a shape of their own."""

    label: str
    colour: str
    marker: str
    filled: bool


STYLES = {
    "model": Style("trained model", "#0072B2", "o", True),
    "control": Style("control of a model", "#D55E00", "D", False),
    "training-free": Style("needs no training", "#555555", "s", False),
}
_FONT = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
_NAMES = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "Hit rate", "mrr": "MRR"}


@dataclass(frozen=True)
class Curve:
    """A validation metric over the epochs of one run; best: the epoch that was kept."""

    model: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]
    best: int


def read_curve(model: str, log: Path, metric: str, best: int) -> Curve:
    """The rows of a CSV log that hold `valid/<metric>`."""
    with open(log, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"valid/{metric}")]
    return Curve(model, tuple(int(r["epoch"]) for r in rows), tuple(float(r[f"valid/{metric}"]) for r in rows), best)


def accuracy_chart(table: Table, path: Path) -> list[Path]:
    """Every row's headline metric with its spread over seeds, in the order of the table."""
    rows, metric = table.rows, table.headline
    with matplotlib.rc_context(_FONT):
        figure, axes = _figure(8, 1.6 + 0.34 * len(rows))
        for place, row in enumerate(rows):
            _point(axes, row.metrics[metric].mean, place, row, spread=row.metrics[metric].spread)
            axes.annotate(
                accuracy(row.metrics[metric]),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
            )
        axes.set_yticks(range(len(rows)), [("└ " if row.role == "control" else "") + row.model for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{_metric_name(metric)} on the test set, mean ± standard deviation over seeds")
        axes.grid(axis="x", color="#DDDDDD", zorder=0)
        axes.set_title(f"{table.dataset} · {table.protocol}", loc="left")
        _legend(figure, rows)
        _save(figure, path)
    columns = ("model", "role", "seeds", metric, f"{metric}_sd")
    values = [(r.model, r.role, len(r.seeds), r.metrics[metric].mean, r.metrics[metric].spread) for r in rows]
    return [path, _write_csv(path, columns, values)]


def cost_chart(table: Table, path: Path) -> list[Path]:
    """The headline metric against denoiser calls per request and against milliseconds per request."""
    rows, metric = table.rows, table.headline
    with matplotlib.rc_context(_FONT):
        figure, (calls, latency) = _figure(11, 5.2, panels=2)
        _scatter(calls, rows, [row.denoiser_calls for row in rows], metric)
        _scatter(latency, rows, [row.ms_per_user for row in rows], metric)
        calls.set_xlabel("denoiser calls per request")
        latency.set_xlabel("milliseconds per request (one user, ten items)")
        calls.set_ylabel(f"{_metric_name(metric)} on the test set")
        calls.set_title(f"{table.dataset} · {table.protocol}", loc="left")
        _legend(figure, rows)
        _save(figure, path)
    columns = ("model", "role", metric, "denoiser_calls", "ms_per_user")
    values = [(r.model, r.role, r.metrics[metric].mean, r.denoiser_calls, r.ms_per_user) for r in rows]
    return [path, _write_csv(path, columns, values)]


def training_chart(table: Table, curves: Sequence[Curve], reference: float, path: Path) -> list[Path]:
    """One panel a model: its validation metric over the epochs, the epoch that was kept, and a reference.

    reference: the best validation value of the rows without training.
    """
    with matplotlib.rc_context(_FONT):
        figure, panels = _figure(3.2 * len(curves) + 0.8, 3.6, panels=len(curves))
        for axes, curve in zip(panels, curves, strict=True):
            axes.axhline(reference, color=STYLES["training-free"].colour, linestyle="--", linewidth=1)
            axes.plot(curve.epochs, curve.values, color=STYLES["model"].colour, marker=".")
            kept = curve.values[curve.epochs.index(curve.best)]
            axes.plot(curve.best, kept, marker="*", markersize=14, color="#D55E00", linestyle="none")
            axes.set_title(curve.model, loc="left")
            axes.set_xlabel("epoch")
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel(f"validation {_metric_name(table.headline)}")
        kept = Line2D([], [], marker="*", markersize=11, color="#D55E00", linestyle="none", label="epoch kept")
        line = Line2D([], [], color=STYLES["training-free"].colour, linestyle="--", label="best row without training")
        figure.legend(handles=[kept, line], loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{table.dataset} · {table.protocol}", x=0.01, ha="left", fontsize=11)
        _save(figure, path)
    values = [(c.model, epoch, value) for c in curves for epoch, value in zip(c.epochs, c.values, strict=True)]
    return [path, _write_csv(path, ("model", "epoch", f"valid/{table.headline}"), values)]


def _figure(width: float, height: float, panels: int = 1):
    """A figure and its axes (a list, where there are several panels); no window system is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    return figure, (axes[0] if panels == 1 else list(axes))


def _point(axes: Axes, x: float, y: float, row: Row, spread: float | None = None) -> None:
    style = STYLES[row.role]
    axes.errorbar(
        x,
        y,
        xerr=spread,
        color=style.colour,
        marker=style.marker,
        markersize=8,
        markerfacecolor=style.colour if style.filled else "white",
        markeredgewidth=1.6,
        capsize=3,
        zorder=3,
    )


def _scatter(axes: Axes, rows: Sequence[Row], x: Sequence[float], metric: str) -> None:
    """Points on a logarithmic axis, labelled; labels are pushed apart vertically."""
    y = [row.metrics[metric].mean for row in rows]
    for row, at_x, at_y in zip(rows, x, y, strict=True):
        _point(axes, at_x, at_y, row)
    axes.set_xscale("log")
    axes.set_xlim(min(x) / 1.6, max(x) * 6)
    axes.set_ylim(0, max(y) * 1.12)
    axes.grid(color="#DDDDDD", zorder=0)
    places = _apart(y, gap=max(y) * 0.045)
    for row, at_x, at_y, place in zip(rows, x, y, places, strict=True):
        axes.annotate(
            row.model,
            (at_x, at_y),
            xytext=(at_x * 1.35, place),
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Nearly the same values, but no two closer than `gap`."""
    places = list(values)
    for _ in range(100):
        order = sorted(range(len(places)), key=places.__getitem__)
        for low, high in zip(order, order[1:], strict=False):
            short = gap - (places[high] - places[low])
            if short > 1e-9:
                places[low], places[high] = places[low] - short / 2, places[high] + short / 2
    return places


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    used = [style for role, style in STYLES.items() if any(row.role == role for row in rows)]
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle="none", markersize=8, label=s.label,
               markerfacecolor=s.colour if s.filled else "white", markeredgewidth=1.6)
        for s in used
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _metric_name(metric: str) -> str:
    name, _, cutoff = metric.partition("@")
    return _NAMES.get(name, name) + (f"@{cutoff}" if cutoff else "")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _write_csv(picture: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path = picture.with_suffix(".csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path
