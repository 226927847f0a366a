from __future__ import annotations

import csv
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from diffrec.bench.leaderboard import leaderboard, table
from diffrec.bench.page import Example, Picture, page
from diffrec.bench.plots import (
    STYLES,
    Curve,
    _label_offsets,
    _overlap,
    accuracy_chart,
    cost_chart,
    metric_name,
    read_curve,
    reported_chart,
    training_chart,
)
from diffrec.bench.result import Reported
from diffrec.errors import UsageError


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def size(png: Path):
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_no_cell_beside_a_picture_begins_as_a_formula(board, tmp_path):
    rows = [replace(row, model=f"={row.model}") for row in table(board).rows]
    _, data = accuracy_chart(replace(table(board), rows=tuple(rows)), tmp_path / "accuracy.png")
    assert [row["model"] for row in rows_of(data)] == [f"'{row.model}" for row in rows]


def test_every_picture_has_the_numbers_it_shows_beside_it(board, tmp_path):
    board_table = table(board)
    curve = Curve("diffrec", (5, 10), (0.03, 0.05), best=10)
    written = [
        accuracy_chart(board_table, tmp_path / "new" / "accuracy.png"),
        cost_chart(board_table, tmp_path / "new" / "cost.png"),
        training_chart(board_table, [curve], 0.04, tmp_path / "new" / "training.png"),
    ]
    for png, data in written:
        assert (png.suffix, data) == (".png", png.with_suffix(".csv"))
        assert min(size(png)) > 400
    accuracy, cost, training = (rows_of(data) for _, data in written)
    assert [row["model"] for row in accuracy] == [row.model for row in board_table.rows]
    assert float(accuracy[1]["ndcg@10_sd"]) == pytest.approx(0.001)
    assert accuracy[0]["ndcg@10_sd"] == ""
    assert (cost[1]["denoiser_calls"], cost[1]["role"]) == ("40", "model")
    assert float(cost[1]["ms_per_user"]) == pytest.approx(123.4)
    assert training == [
        {"model": "diffrec", "epoch": "5", "valid/ndcg@10": "0.03"},
        {"model": "diffrec", "epoch": "10", "valid/ndcg@10": "0.05"},
    ]


def test_a_picture_says_how_many_names_it_has_no_room_for(board, tmp_path, monkeypatch):
    (crowd,) = [row for row in table(board).rows if row.model == "popularity"]
    rows = [replace(crowd, model=f"another-row-{number}") for number in range(40)]
    crowded = replace(table(board), rows=(*table(board).rows, *rows))
    panel = drawn_by(cost_chart, crowded, monkeypatch, tmp_path).axes[0]
    shown = {text.get_text() for text in panel.texts}
    unnamed = sum(row.model not in shown for row in crowded.rows)
    assert unnamed > 1
    assert panel.get_title("right") == f"{unnamed} points without room for a name: see the CSV"
    least = min(row.metrics[crowded.headline].mean for row in crowded.rows)
    assert 0 < panel.get_ylim()[0] < least
    assert least - panel.get_ylim()[0] < least / 2


def test_a_spread_over_seeds_is_named_where_there_are_several(board, tmp_path, monkeypatch):
    label = drawn_by(accuracy_chart, table(board), monkeypatch, tmp_path).axes[0].get_xlabel()
    assert label == "NDCG@10 on the test set, mean ± standard deviation over seeds"
    one = replace(table(board), rows=tuple(row for row in table(board).rows if len(row.seeds) == 1))
    assert drawn_by(accuracy_chart, one, monkeypatch, tmp_path).axes[0].get_xlabel() == "NDCG@10 on the test set"


def test_equal_tables_give_equal_pictures(board, tmp_path):
    first, second = (cost_chart(table(board), tmp_path / f"{name}.png")[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_roles_differ_in_colour_and_in_shape():
    assert len({style.colour for style in STYLES.values()}) == len({style.marker for style in STYLES.values()}) == 3


def test_a_curve_is_read_from_the_log_of_lightning(tmp_path):
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/loss,valid/ndcg@10\n4,9,,0.25\n4,9,1.5,\n9,19,,0.5\n9,19,1.25,\n")
    assert read_curve("m", log, "ndcg@10", best=10) == Curve("m", (5, 10), (0.25, 0.5), best=10)


def boxes_of(points, widths, offsets):
    return [
        (x + dx, y + dy - 6, x + dx + width, y + dy + 6)
        for (x, y), (dx, dy), width in zip(points, offsets, widths, strict=True)
    ]


def test_labels_of_crowded_points_do_not_cover_one_another(board):
    widths = [5.6 * len(row.model) for row in table(board).rows]
    points = [(100.0 + i, 100.0 + 3 * i) for i in range(len(widths))]
    frame = (0.0, 0.0, 400.0, 300.0)
    boxes = boxes_of(points, widths, _label_offsets(points, widths, frame, [True] * len(widths)))
    assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in points)
    assert all(box[0] > 0 and box[2] < 400 for box in boxes)


def test_labels_that_are_not_needed_give_way():
    points, widths = [(200.0, 100.0 + i) for i in range(12)], [80.0] * 12
    needed = [i % 2 == 1 for i in range(12)]
    offsets = _label_offsets(points, widths, (0.0, 0.0, 400.0, 300.0), needed)
    assert all(offset is not None for offset, need in zip(offsets, needed, strict=True) if need)
    assert None in offsets
    there = [i for i, offset in enumerate(offsets) if offset is not None]
    boxes = boxes_of([points[i] for i in there], [80.0] * len(there), [offsets[i] for i in there])
    assert not any(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def drawn_by(chart, shown, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr("diffrec.bench.plots._save", lambda figure, path: figures.append(figure))
    chart(shown, tmp_path / "drawn.png")
    figures[0].draw_without_rendering()
    return figures[0]


def test_crowded_trained_rows_keep_their_names_and_names_lie_apart(result, monkeypatch, tmp_path):
    trained = [result(f"trained-{i}", 0.05 + i / 2000, role="model") for i in range(8)]
    free = [result(f"needs-no-training-{i}", 0.05 + i / 8000) for i in range(64)]
    figure = drawn_by(cost_chart, table([*trained, *free]), monkeypatch, tmp_path)
    for axes in figure.axes:
        names = {text.get_text() for text in axes.texts}
        assert {run.model for run in trained} <= names != {run.model for run in [*trained, *free]}
        boxes = [Text.get_window_extent(text) for text in axes.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_metrics_have_the_names_people_write():
    assert [metric_name(m) for m in ("ndcg@10", "recall@20", "mrr", "gini@5")] == [
        "NDCG@10", "Recall@20", "MRR", "gini@5",
    ]  # fmt: skip


# the page


class Tags(HTMLParser):
    """All tags with their attributes, and all text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    return path


def test_the_page_holds_the_table_the_list_and_the_pictures(board, picture):
    example = Example("dreamrec", ("Alien (1979)",), ("Aliens (1986)", "Blade Runner (1982)"))
    html = page("A title", leaderboard(board), example, [Picture(picture, "What it shows")], ["A note"])
    tags = Tags(html)
    text = "\n".join(tags.text)
    for expected in ("A title", "quick · ml-100k · loo-full-masked@1", "└ noise-off", ".0540 ±.0010",
                     "Blade Runner (1982)", "What it shows", "A note"):  # fmt: skip
        assert expected in text
    assert len([tag for tag, _ in tags.tags if tag == "tr"]) == 7
    (image,) = [attrs for tag, attrs in tags.tags if tag == "img"]
    assert (image["src"] or "").startswith("data:image/png;base64,")


def test_the_page_loads_and_runs_nothing(board, picture):
    html = page("t", leaderboard(board), Example("m", ("a",), ("b",)), [Picture(picture, "p")], [])
    tags = Tags(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    (policy,) = [a["content"] or "" for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http:" not in html
    assert "https:" not in html


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><script>alert(1)</script>",
    "</style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "<!--",
    "]]><b>",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_stay_text(board, result, picture, hostile):
    harmless = Tags(page("t", leaderboard([*board, result("m", 0.9, role="model")]), Example("m", ("h",), ("i",)),
                         [Picture(picture, "p")], ["n"]))  # fmt: skip
    rows = [result(r.model, r.metrics["ndcg@10"], role=r.role, control_of=r.control_of, seed=r.seed, dataset=hostile,
                   config_sha256=r.config_sha256) for r in board]  # fmt: skip
    rows.append(result(hostile, 0.9, role="model", dataset=hostile, device=hostile))
    html = page(
        hostile, leaderboard(rows), Example(hostile, (hostile,), (hostile,)), [Picture(picture, hostile)], [hostile]
    )
    tags = Tags(html)
    assert [tag for tag, _ in tags.tags] == [tag for tag, _ in harmless.tags]
    assert [set(attrs) for _, attrs in tags.tags] == [set(attrs) for _, attrs in harmless.tags]
    # title, heading, two headings of sections, a cell, the caption, the history, an item, a figure, a note
    assert sum(hostile in text for text in tags.text) == 10


def test_reported_against_reproduced(board, result, tmp_path, monkeypatch):
    said = (Reported("ndcg@10", 0.05, "log", "a log"), Reported("recall@10", 0.2, "source", "a paper"))
    seeds = [result("said", 0.055, role="model", reported=said, seed=seed) for seed in (0, 1)]
    tables = leaderboard([*board, *seeds])
    png, data = reported_chart(tables, tmp_path / "reported.png")
    assert min(size(png)) > 400
    assert [(row["status"], float(row["reported"]), float(row["measured"])) for row in rows_of(data)] == [
        ("log", 0.05, 0.055),
        ("source", 0.2, 0.11),
    ]
    (axes,) = drawn_by(reported_chart, tables, monkeypatch, tmp_path).axes
    lines = [tuple(colour) for bars in axes.containers for part in bars.lines[2] for colour in part.get_edgecolor()]
    assert set(lines) == {to_rgba(STYLES["model"].colour)}
    with pytest.raises(UsageError, match="no row of these tables has a number that a paper reports"):
        reported_chart(leaderboard(board), tmp_path / "none.png")
