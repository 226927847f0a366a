"""A model with its whole sampler as one graph: torch.export, and ONNX where that extra is installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import tempfile
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from diffrec.coded_items import CodedRecommender
from diffrec.diffusion.linear_steps import LinearSteps
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, UsageError, check_sizes
from diffrec.files import write_file
from diffrec.lists import top_k
from diffrec.nn.vector_mlp import VectorMLP
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.typing import History, Int, Scores, Tensor

Format = Literal["pt2", "onnx"]
_WINDOW = 50  # for models that read a history of any length
_TOLERANCE = 1e-4  # of the largest score
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ROWS = 4  # batches that parity is looked at with


@dataclass(frozen=True)
class Parity:
    """How far the graph and the model are apart, over `requests` random ones. difference: the largest of scores, as a
    share of the largest score; equal: share of places of the lists of ten that hold the same item."""

    requests: int
    difference: float
    equal: float


@dataclass(frozen=True)
class Exported:
    """batch, window: the shape of the histories that the graph takes."""

    path: Path
    bytes: int
    batch: int
    window: int
    parity: Parity


class Graph(nn.Module):
    """(history (batch, window) item numbers right-padded with 0, state (batch,) int64) -> scores (batch, N).

    state: of the noise of each request, `RequestNoise.from_history(history, seed).state`; models that draw none
    ignore it.
    """

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, state: Tensor) -> Tensor:
        """The scores that `Recommender.score` gives."""
        return self.model.score(history, noise=RequestNoise(state))


def export(
    model: Recommender, path: Path, *, form: Format = "pt2", batch: int = 1, window: int | None = None
) -> Exported:
    """Write the graph and return how near it is to the model.

    The file appears only where the graph, read back, gives the model's scores on random histories. Raises UsageError
    for a model whose way of scoring depends on the values that it meets, and for ONNX without its extra; DiffrecError
    where the graph is not near enough.
    """
    check_sizes(batch=batch, **({"window": window} if window is not None else {}))
    if form == "onnx" and (missing := [n for n in ("onnx", "onnxscript", "onnxruntime") if not _is_there(n)]):
        raise UsageError(f"ONNX needs {', '.join(missing)}: pip install 'diffrec[onnx]'; --format pt2 needs nothing")
    window = min(window or model.max_history_length or _WINDOW, model.max_history_length or 1 << 30)
    asked = [_requests(model, batch, window, seed) for seed in range(_ROWS)]
    with torch.inference_mode():
        expected = [Graph(model.eval())(*one).clone() for one in asked]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"graph.{form}"
        with _exportable(model), _quiet():
            try:
                _write(Graph(model), asked[0], copy, form)
            except Exception as error:  # torch has many kinds for what it cannot follow
                raise UsageError(f"{type(model).__name__} cannot be exported, for {_reason(model, error)}") from error
        run = _reader(copy, form)
        parity = _parity([run(*one) for one in asked], expected, [history for history, _ in asked])
        if not parity.difference <= _TOLERANCE:
            raise DiffrecError(f"the graph is {parity.difference:.1e} of the largest score away from the model")
        write_file(path, copy.read_bytes())
    return Exported(path, path.stat().st_size, batch, window, parity)


def _reason(model: Recommender, error: Exception) -> str:
    """Why it cannot be followed: its kind, else what torch says."""
    told = "a graph has one way of scoring, whatever the values that it meets"
    if isinstance(model, CodedRecommender) and model.num_beams:
        return f"its lists come from a beam search over semantic IDs, and {told}"
    said = textwrap.shorten(_COLOURS.sub("", str(error)).partition("\n")[0], 200, placeholder=" ...")
    return f"{told} (torch: {said})"


def _requests(model: Recommender, batch: int, window: int, seed: int) -> tuple[History, Int[Tensor, " batch"]]:
    """Random histories of all lengths up to the window, and the states of their noise."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, window + 1, batch)
    lengths[0] = window if seed == 0 else lengths[0]
    items = rng.integers(1, model.num_items + 1, (batch, window))
    history = torch.from_numpy(np.where(np.arange(window) < lengths[:, None], items, 0))
    return history, RequestNoise.from_history(history, seed).state


@contextmanager
def _exportable(model: Recommender) -> Iterator[None]:
    """The scheduler as plain numbers, and networks over the catalogue step by step: their products are kept by
    addresses, which a graph does not have."""
    changed: list[dict[str, Any]] = []
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learnt:
            parameter.requires_grad_(False)
        if isinstance(model, DiffusionRecommender) and model.scheduler is not None:
            number, process = model.num_inference_steps, model.process
            steps = LinearSteps.of(lambda: process.reverse_steps(number), noisy=model.noisy_steps)
            process.__dict__["reverse_steps"] = lambda num_inference_steps=None: steps
            changed.append(process.__dict__)
        for module in model.modules():
            if isinstance(module, VectorMLP):
                module.__dict__["compact"] = lambda x, noisy: None
                changed.append(module.__dict__)
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)
        for attributes in changed:
            attributes.pop("reverse_steps", None)
            attributes.pop("compact", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters say much that is of no use to a reader."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _write(graph: Graph, example: tuple[Tensor, Tensor], path: Path, form: Format) -> None:
    program = torch.export.export(graph, example, strict=False)
    if form == "pt2":
        torch.export.save(program, path, extra_files={"diffrec.json": json.dumps({"shape": list(example[0].shape)})})
        return
    torch.onnx.export(
        program, (), str(path), input_names=["history", "state"], output_names=["scores"], dynamo=True,
        external_data=False, verbose=False,
    )  # fmt: skip


def _reader(path: Path, form: Format) -> Any:
    """The graph as it will be used, read back from the file."""
    if form == "pt2":
        return torch.export.load(path).module()
    import onnxruntime  # pyright: ignore[reportMissingImports] # an extra

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(history: Tensor, state: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in (("history", history), ("state", state)) if name in names}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _parity(got: list[Scores], expected: list[Scores], histories: list[History]) -> Parity:
    ours, theirs, history = torch.cat(expected), torch.cat(got).detach(), torch.cat(histories)
    lists = [top_k(scores, history, 10).items for scores in (ours, theirs)]
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))
    return Parity(len(history), difference, float((lists[0] == lists[1]).float().mean()))


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
