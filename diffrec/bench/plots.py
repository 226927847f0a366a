"""Pictures of a table, each written with the CSV of what it shows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from diffrec.bench.leaderboard import Row, Table
from diffrec.bench.render import accuracy, csv_cell, metric_name, shown_name
from diffrec.bench.tradeoff import Point, Tradeoff, frontier
from diffrec.errors import UsageError
from diffrec.paths import naming


@dataclass(frozen=True)
class Style:
    """How the rows of one role are drawn: a colour of Okabe and Ito's palette, and a shape of their own."""

    label: str
    colour: str
    marker: str
    filled: bool

    def marks(self) -> dict[str, Any]:
        """The same as keywords of matplotlib."""
        face = self.colour if self.filled else "white"
        shape = {"marker": self.marker, "markersize": 8, "markerfacecolor": face, "markeredgecolor": self.colour}
        return {"linestyle": "none", "markeredgewidth": 1.6, **shape}


STYLES = {
    "model": Style("trained model", "#0072B2", "o", True),
    "control": Style("control of a model", "#D55E00", "D", False),
    "training-free": Style("needs no training", "#555555", "s", False),
}
_STAR: dict[str, Any] = {"marker": "*", "markersize": 13, "color": "#D55E00", "linestyle": "none"}
_SAMPLER_MARKS = {
    "ddpm": ("#0072B2", "o"), "ddim": ("#D55E00", "D"), "dpm-solver++": ("#009E73", "s"), "unipc": ("#CC79A7", "^"),
    "euler": ("#E69F00", "v"), "heun": ("#56B4E9", "P"), "posterior-mean": ("#555555", "X"),
    "lcm": ("#000000", "<"),
}  # fmt: skip
_OTHER_MARK = ("#000000", "p")
_FRONTIER: dict[str, Any] = {"color": "#999999", "linewidth": 4, "alpha": 0.4}
_HEIGHTS = (0.0, *(float(sign * height) for height in range(12, 121, 12) for sign in (1, -1)))
_NEAR = 24.0


@dataclass(frozen=True)
class Curve:
    """A validation metric over the epochs of one run; best: the epoch that was kept."""

    model: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]
    best: int


def read_curve(model: str, log: Path, metric: str, best: int) -> Curve:
    """The rows of a CSV log that hold `valid/<metric>`; Lightning counts epochs from 0, a curve from 1."""
    with open(log, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"valid/{metric}")]
    return Curve(
        model, tuple(int(r["epoch"]) + 1 for r in rows), tuple(float(r[f"valid/{metric}"]) for r in rows), best
    )


def accuracy_chart(table: Table, path: Path) -> list[Path]:
    """Every row's headline metric with its spread over seeds, in the order of the table."""
    rows, metric = table.rows, table.headline
    with _style():
        figure, (axes,) = _figure(8.0, 1.7 + 0.34 * len(rows))
        for place, row in enumerate(rows):
            statistic = row.metrics[metric]
            _point(axes, statistic.mean, float(place), row, statistic.spread)
            at_right = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
            axes.annotate(accuracy(statistic), (1.01, place), **at_right)
        axes.set_yticks(range(len(rows)), [shown_name(row, table) for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{metric_name(metric)} on the test set{_over_seeds(rows)}")
        axes.grid(axis="x", color="#DDDDDD", zorder=0)
        _head(figure, f"Accuracy · {table.title}", rows)
        _save(figure, path)
    columns = ("model", "role", "seeds", metric, f"{metric}_sd")
    values = [(r.model, r.role, len(r.seeds), r.metrics[metric].mean, r.metrics[metric].spread) for r in rows]
    return [path, _write_csv(path, columns, values)]


def cost_chart(table: Table, path: Path) -> list[Path]:
    """The headline metric against denoiser calls per request and against milliseconds per request.

    Trained rows and those that no other reaches as cheaply have their name beside them, others where there is room;
    how many have none is said.
    """
    rows, metric = table.rows, table.headline
    with _style():
        figure, (calls, latency) = _figure(11.0, 5.6, panels=2)
        costs = {calls: [float(row.denoiser_calls) for row in rows], latency: [row.ms_per_user for row in rows]}
        for axes, cost in costs.items():
            _scatter(axes, rows, cost, metric)
        calls.set_xlabel("denoiser calls per request (logarithmic)")
        latency.set_xlabel("milliseconds per request: one user, ten items (logarithmic)")
        calls.set_ylabel(f"{metric_name(metric)} on the test set")
        _head(figure, f"Accuracy and cost · {table.title}", rows)
        values = [row.metrics[metric].mean for row in rows]
        for axes, cost in costs.items():
            best = frontier(cost, values)
            needed = [row.role == "model" or on for row, on in zip(rows, best, strict=True)]
            if unnamed := _name_points(figure, axes, [row.model for row in rows], cost, values, needed):
                _remark(axes, f"{unnamed} point{'s' * (unnamed > 1)} without room for a name: see the CSV")
        _save(figure, path)
    columns = ("model", "role", metric, "denoiser_calls", "ms_per_user")
    shown = [(r.model, r.role, r.metrics[metric].mean, r.denoiser_calls, r.ms_per_user) for r in rows]
    return [path, _write_csv(path, columns, shown)]


def tradeoff_chart(result: Tradeoff, path: Path) -> list[Path]:
    """The metric against denoiser calls and against milliseconds: a line a sampler and guidance scale, two frontiers.

    Filled marks are those of the model's own guidance scale; the star is how it samples by itself.
    """
    own = next(point for point in result.points if point.own)
    with _style():
        figure, panels = _figure(11.0, 5.6, panels=2)
        values = [point.value for point in result.points]
        for axes, cost in zip(panels, ("denoiser_calls", "ms_per_user"), strict=True):
            for (sampler, scale), points in _lines(result).items():
                colour, marker = _SAMPLER_MARKS.get(sampler, _OTHER_MARK)
                face = colour if scale == own.guidance_scale else "white"
                where = [getattr(point, cost) for point in points], [point.value for point in points]
                axes.plot(*where, color=colour, marker=marker, markerfacecolor=face, linewidth=0.8, alpha=0.9)
            costs = [float(getattr(point, cost)) for point in result.points]
            on = frontier(costs, values)
            best = sorted(pair for *pair, best in zip(costs, values, on, strict=True) if best)
            axes.plot(*zip(*best, strict=True), drawstyle="steps-post", zorder=0, **_FRONTIER)
            axes.plot(getattr(own, cost), own.value, zorder=4, **_STAR)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a range of less than ten has labels too
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(color="#DDDDDD", zorder=0)
        panels[0].set_xlabel("denoiser calls per request (logarithmic)")
        panels[1].set_xlabel(f"milliseconds per user, {result.asked_at_once} at a time (logarithmic)")
        panels[0].set_ylabel(f"{metric_name(result.metric)}, {result.split}")
        _finish_tradeoff(figure, result, path)
    columns = [field.name for field in fields(own)]
    return [path, _write_csv(path, columns, [[getattr(point, name) for name in columns] for point in result.points])]


def _lines(result: Tradeoff) -> dict[tuple[str, float | None], list[Point]]:
    """The points of each sampler and guidance scale, fewest calls first."""
    groups: dict[tuple[str, float | None], list[Point]] = {}
    for point in sorted(result.points, key=lambda point: point.denoiser_calls):
        groups.setdefault((point.sampler, point.guidance_scale), []).append(point)
    return groups


def _finish_tradeoff(figure: Figure, result: Tradeoff, path: Path) -> None:
    used = dict.fromkeys(point.sampler for point in result.points)
    marks = {name: _SAMPLER_MARKS.get(name, _OTHER_MARK) for name in used}
    handles = [Line2D([], [], color=colour, marker=marker, label=name) for name, (colour, marker) in marks.items()]
    handles += [Line2D([], [], label="as the model samples", **_STAR)]
    handles += [Line2D([], [], label="frontier", **_FRONTIER)]
    scales = sorted({point.guidance_scale for point in result.points if point.guidance_scale is not None})
    guidance = f" · guidance {scales[0]:g}" if len(scales) == 1 else ""
    if len(scales) > 1:
        own = next(point.guidance_scale for point in result.points if point.own)
        others = ", ".join(f"{scale:g}" for scale in scales if scale != own)
        handles += [_mark(f"guidance {own:g}", "#666666"), _mark(f"guidance {others}", "white")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    title = f"{result.model} · {result.dataset} · {result.protocol} · {result.cases:,} cases{guidance}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _save(figure, path)


def _mark(label: str, face: str) -> Line2D:
    """A grey mark of a legend."""
    return Line2D([], [], label=label, color="#666666", marker="o", markerfacecolor=face, linestyle="none")


def reported_chart(tables: Sequence[Table], path: Path) -> list[Path]:
    """What papers report against what was measured here: on the line they agree, in the band to five per cent.

    Raises UsageError where no row of the tables has a reported number.
    """
    points = [
        (f"{row.model} · {table.dataset} · {metric_name(said.metric)}", said, row, row.metrics[said.metric].mean)
        for table in tables
        for row in table.rows
        for said in row.reported
        if said.metric in row.metrics
    ]
    if not points:
        raise UsageError("no row of these tables has a number that a paper reports")
    with _style():
        figure, (axes,) = _figure(7.0, 6.0)
        most = 1.15 * max(max(said.value, ours) for _, said, _, ours in points)
        axes.fill_between([0, most], [0, 0.95 * most], [0, 1.05 * most], color="#DDDDDD", zorder=0)
        axes.plot([0, most], [0, most], color="#999999", linewidth=1, zorder=1)
        for _, said, row, ours in points:
            _point(axes, said.value, ours, row, above=row.metrics[said.metric].spread)
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        axes.set_xlabel("reported")
        axes.set_ylabel(f"measured here{_over_seeds([row for _, _, row, _ in points])}")
        _head(figure, "Reported and reproduced; grey: within five per cent", [row for _, _, row, _ in points])
        names, reported = [name for name, *_ in points], [said.value for _, said, *_ in points]
        _name_points(figure, axes, names, reported, [ours for *_, ours in points], [True] * len(points), size=8.0)
        _save(figure, path)
    columns = ("row", "status", "source", "reported", "measured")
    return [path, _write_csv(path, columns, [(name, s.status, s.source, s.value, ours) for name, s, _, ours in points])]


def training_chart(table: Table, curves: Sequence[Curve], reference: float, path: Path) -> list[Path]:
    """One panel a model: its validation metric over the epochs, the epoch that was kept, and a reference.

    reference: the best validation value of the rows without training.
    """
    with _style():
        figure, panels = _figure(3.0 * len(curves) + 1, 3.6, panels=len(curves))
        for axes, curve in zip(panels, curves, strict=True):
            axes.axhline(reference, color=STYLES["training-free"].colour, linestyle="--", linewidth=1)
            axes.plot(curve.epochs, curve.values, color=STYLES["model"].colour, marker=".")
            axes.plot(curve.best, curve.values[curve.epochs.index(curve.best)], zorder=3, **_STAR)
            axes.set_title(curve.model, loc="left")
            axes.set_xlabel("epoch")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(f"validation {metric_name(table.headline)}")
        line = Line2D([], [], color=STYLES["training-free"].colour, linestyle="--", label="best row without training")
        handles = [Line2D([], [], label="epoch kept", **_STAR), line]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"Training · {table.title}", x=0.01, ha="left", fontsize=11)
        _save(figure, path)
    values = [(c.model, epoch, value) for c in curves for epoch, value in zip(c.epochs, c.values, strict=True)]
    return [path, _write_csv(path, ("model", "epoch", f"valid/{table.headline}"), values)]


def _style() -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
    )


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side on one vertical axis; no window system is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def _point(axes: Axes, x: float, y: float, row: Row, beside: float | None = None, above: float | None = None) -> None:
    """beside, above: how far it spreads to both sides."""
    style = STYLES[row.role]
    spread: dict[str, Any] = {"xerr": beside, "yerr": above, "ecolor": style.colour, "elinewidth": 1.5, "capsize": 4}
    axes.errorbar(x, y, zorder=3, **spread, **style.marks())


def _over_seeds(rows: Sequence[Row]) -> str:
    """What an axis says of points and bars, where any row has a spread."""
    return ", mean ± standard deviation over seeds" if any(len(row.seeds) > 1 for row in rows) else ""


def _remark(axes: Axes, text: str) -> None:
    """A line above a panel, at its right."""
    axes.set_title(text, loc="right", fontsize=8, color="#555555")


def _scatter(axes: Axes, rows: Sequence[Row], x: Sequence[float], metric: str) -> None:
    """Points on a logarithmic axis."""
    y = [row.metrics[metric].mean for row in rows]
    for row, at_x, at_y in zip(rows, x, y, strict=True):
        _point(axes, at_x, at_y, row)
    axes.set_xscale("log")
    axes.set_xlim(min(x) / 8, max(x) * 8)  # room for names on both sides
    beyond = 0.12 * (max(y) - min(y) or max(y))
    axes.set_ylim(max(0, min(y) - beyond), max(y) + beyond)
    _remark(axes, " ")  # its height is part of the layout
    axes.grid(color="#DDDDDD", zorder=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name_points(
    figure: Figure,
    axes: Axes,
    names: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    needed: Sequence[bool],
    size: float = 9.0,
) -> int:
    """Write names beside points, those that are not needed where there is room; after all that changes the layout.
    Returns how many points have none."""
    figure.draw_without_rendering()  # fixes the layout, so that places on the paper are known
    points = (axes.transData.transform([*zip(x, y, strict=True)]) * 72 / figure.dpi).tolist()
    texts = [
        axes.annotate(
            name,
            (at_x, at_y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
        for name, at_x, at_y in zip(names, x, y, strict=True)
    ]
    widths = [float(Text.get_window_extent(text).width) * 72 / figure.dpi for text in texts]
    frame = [float(edge) * 72 / figure.dpi for edge in axes.bbox.extents]
    offsets = _label_offsets(points, widths, frame, needed)
    for text, offset in zip(texts, offsets, strict=True):
        if offset is None:
            text.remove()
        else:
            text.xyann = offset
    return offsets.count(None)


def _label_offsets(
    points: Sequence[Sequence[float]], widths: Sequence[float], frame: Sequence[float], needed: Sequence[bool]
) -> list[tuple[float, float] | None]:
    """For each point the nearest place in the frame for its name that covers no point and no other name.

    Names that are not needed come last, and have None where there is no such place near by. All in units of 1/72 inch;
    boxes and frame are (left, bottom, right, top).
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    offsets: list[tuple[float, float] | None] = [None] * len(points)
    for number in sorted(range(len(points)), key=lambda number: not needed[number]):
        (x, y), width = points[number], widths[number]
        heights = [dy for dy in _HEIGHTS if needed[number] or abs(dy) <= _NEAR]
        places = [(dx, dy) for dy in heights for dx in (14.0, -14 - width)]
        boxes = [(x + dx, y + dy - 6, x + dx + width, y + dy + 6) for dx, dy in places]
        outside = [
            not (frame[0] < box[0] and box[2] < frame[2] and frame[1] < box[1] and box[3] < frame[3]) for box in boxes
        ]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = min(range(len(places)), key=lambda i: (outside[i], covered[i], i))
        if needed[number] or not (outside[best] or covered[best]):
            taken.append(boxes[best])
            offsets[number] = places[best]
    return offsets


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _head(figure: Figure, title: str, rows: Sequence[Row]) -> None:
    """Title, and a legend of the roles that occur."""
    used = [style for role, style in STYLES.items() if any(row.role == role for row in rows)]
    handles = [Line2D([], [], label=style.label, **style.marks()) for style in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _write_csv(picture: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path = picture.with_suffix(".csv")
    with naming(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(csv_cell, row) for row in rows)
    return path
