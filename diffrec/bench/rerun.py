"""Levels 2 and 3 of `diffrec verify`: the model scores again, and is trained again; how `diffrec submit` scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from diffrec.bench.bundle import Lists, UserLists
from diffrec.bench.evaluate import evaluate, seed_of
from diffrec.bench.provenance import (
    code_version,
    deviations,
    setup,
    weights_sha256,
)
from diffrec.bench.ranks import UserRanks
from diffrec.bench.result import Result
from diffrec.bench.runner import run_cell
from diffrec.bench.same_settings import resolved
from diffrec.bench.suite import Cell, SuiteDataset, SuiteModel
from diffrec.bench.verify import differences
from diffrec.data.batch import Batch
from diffrec.data.datamodule import EvaluationBatches
from diffrec.data.dataset import Dataset
from diffrec.data.protocol import get_protocol
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Cases
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, IntegrityError, check_sizes
from diffrec.lists import top_k
from diffrec.metrics.functional import hide, target_ranks
from diffrec.recommender import DiffusionRecommender, Recommender, count_parameters
from diffrec.strict_json import short
from diffrec.training.build import build, decoded, sampling_changes
from diffrec.training.config import compose
from diffrec.training.fit import fit

SCORE_TOLERANCE = 1e-4  # of the largest score of a list, between machines
METRIC_TOLERANCE = 1e-3  # between machines, for the same weights
TRAINING_TOLERANCE = 0.05  # of the value, between machines: what counts as a successful reproduction
_EVAL_BATCH_SIZE = 512  # of InteractionDataModule

Scored = tuple[UserRanks, UserLists]


def setup_differences(result: Result) -> list[str]:
    """In what this machine and its packages are not those of the record; where in nothing, numbers are equal.

    The device is that on which `device_of` lets its model run.
    """
    there = {name: getattr(result, name) for name in ("code_version", "device", "processor", "threads")}
    return unlike({"code_version": code_version(), **setup(device_of(result.device))}, {**there, **result.packages})


def unlike(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """What differs, in words."""
    return [f"{name} {here[name]} instead of {there.get(name)}" for name in here if here[name] != there.get(name)]


def device_of(name: str) -> torch.device:
    """The accelerator, for what was made on one (any name but `cpu`) where there is one, else the CPU."""
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def scored(result: Result, model: Recommender, cases: Cases, draws: int) -> Scored:
    """Ranks and lists of some cases, draw by draw, from the seeds that `measure` takes."""
    k, size = max(get_protocol(result.protocol).cutoffs), _eval_batch_size(result)
    parts = [list_and_rank(model, cases, k, size, seed_of(result.seed, draw)) for draw in range(draws)]
    lists, ranks = zip(*parts, strict=True)
    return UserRanks(cases.key, ranks), UserLists(cases.key, lists)


def lists_behind(
    result: Result, ranks: UserRanks, model: Recommender, dataset: Dataset, arguments: Mapping[str, Any] | None
) -> UserLists:
    """The lists of a record, from its model; `arguments` as in `model_findings`.

    Raises IntegrityError where the model is another one, or its ranks are not those of the record.
    """
    found = [*_about_the_class(result, model, dataset)] or [*_about_the_model(result, model, arguments, exact=True)]
    if not found:
        split = get_protocol(result.protocol).apply(dataset)
        again, lists = scored(result, model, split.test, len(result.draw_metrics))
        if [draw.lengths.tolist() for draw in ranks.draws] != [draw.lengths.tolist() for draw in again.draws]:
            found = [f"the ranks are of {len(ranks.users)} users, expected {len(split.test)} and all their true items"]
        else:
            found = [line for number in range(len(ranks.draws)) for line in _other_ranks(number, ranks, again)]
        if not found:
            return lists
    other = setup_differences(result)
    why = f"\nhere is {'; '.join(other)}, and a bundle is exact" if other else ""
    raise IntegrityError(f"nothing was written, for the model does not give the numbers of the record: {found[0]}{why}")


def list_and_rank(model: Recommender, cases: Cases, k: int, batch_size: int, seed: int) -> tuple[Lists, Ragged]:
    """The k best items of every case and the float32 mean ranks of its true items, as `evaluate` finds them."""
    batches = EvaluationBatches(cases, batch_size, model.max_history_length)
    with torch.inference_mode():
        parts = [_batch(model, batches[number].to(model.device), k, seed) for number in range(len(batches))]
    place = np.argsort(batches.order)
    ranks, items, scores, ties = zip(*parts, strict=True)
    wanted = cases.target.take(batches.order)
    rows = np.concatenate([np.pad(part, ((0, 0), (0, _widest(ranks) - part.shape[1]))) for part in ranks])
    in_order = Ragged(rows[wanted.row_of_entry, wanted.position_of_entry].astype(np.float32), wanted.offsets)
    lists = Lists(*(np.concatenate(column)[place] for column in (items, scores, ties)))
    return lists, in_order.take(place)


def solved(result: Result, folder: Path) -> Recommender:
    """The model of a record trained again from its configuration, without measuring it; writes below `folder`."""
    torch.manual_seed(result.seed)
    run = build([config_file(result, folder)], run_dir=folder / "run")
    fit(run)
    return decoded(run.model.to(run.trainer.strategy.root_device).eval(), result.config)


def trained_again(result: Result, folder: Path) -> Result:
    """The record of another run of the same configuration; writes below `folder`."""
    row = SuiteModel(
        result.model,
        (str(config_file(result, folder)),),
        seeds=(result.seed,),
        control_of=result.control_of,
        tuning_trials=result.tuning_trials,
    )
    where = SuiteDataset(result.dataset, result.protocol)
    cell = Cell(result.suite, result.suite_version, where, row, result.seed, len(result.draw_metrics))
    return replace(run_cell(cell, folder / "runs").result, reported=result.reported)


def config_file(result: Result, folder: Path) -> Path:
    """The configuration of a record as a file that has passed the guard; IntegrityError where it became another."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(result.config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    composed = compose([path])
    if composed != result.config:
        wrong = [
            name for name in composed.keys() | result.config.keys() if composed.get(name) != result.config.get(name)
        ]
        raise IntegrityError(f"config: {', '.join(sorted(wrong))} is not complete, expected what this diffrec composes")
    return path


def model_findings(
    result: Result,
    model: Recommender,
    dataset: Dataset,
    claimed: Scored,
    exact: bool,
    arguments: Mapping[str, Any] | None,
) -> Iterator[str]:
    """What a model that was loaded, and scores the same cases, contradicts.

    arguments: what built it, as JSON, None where that was `result.config`; exact: whether its scores are to be the
    same bit for bit, else within SCORE_TOLERANCE and METRIC_TOLERANCE.
    """
    if other := list(_about_the_class(result, model, dataset)):
        yield from other
        return
    yield from _about_the_model(result, model, arguments, exact)
    split, draws = get_protocol(result.protocol).apply(dataset), len(result.draw_metrics)
    again = scored(result, model, split.test, draws)
    for number in range(draws):
        yield from _about_draw(number, claimed, again, exact)
    cutoffs, size = get_protocol(result.protocol).cutoffs, _eval_batch_size(result)
    valid = evaluate(model, split.valid, cutoffs, batch_size=size, seed=result.seed).metrics
    yield from _unequal("validation: ", result.validation, valid, exact)


def training_findings(result: Result, again: Result, exact: bool) -> Iterator[str]:
    """What another training contradicts: exact, else accuracy within TRAINING_TOLERANCE of its value."""
    if not exact:
        for name, value in result.metrics.items():
            if abs(value - again.metrics[name]) > TRAINING_TOLERANCE * max(value, again.metrics[name]):
                yield f"{name} is {value}, trained again it is {again.metrics[name]}, more than 5 % apart"
        return
    for name in ("config", "epochs", "selection", "weights_sha256", "parameters", "denoiser_calls", "role"):
        if getattr(result, name) != getattr(again, name):
            yield f"{name} is {short(getattr(result, name))}, trained again it is {short(getattr(again, name))}"
    for name in ("decoding", "rests_on"):
        if getattr(result, name) not in (None, getattr(again, name)):
            yield f"{name} is {getattr(result, name)}, trained again it is {getattr(again, name)}"
    for name in ("metrics", "validation", "beyond_accuracy"):
        yield from differences(f"{name}, trained again: ", getattr(result, name), getattr(again, name))


def _batch(model: Recommender, batch: Batch, k: int, seed: int) -> tuple[np.ndarray, ...]:
    """Ranks, items, scores and ties of one batch."""
    assert batch.seen is not None  # evaluation batches hold both
    assert batch.key is not None
    scores = model.checked_scores(batch.history, RequestNoise.from_keys(batch.key, seed), batch.times)
    ranks, best = target_ranks(scores, batch.target, batch.seen).mean, top_k(scores, batch.seen, k)
    last = best.scores[:, -1:]
    more = (hide(scores, batch.seen) == last).sum(1) - (best.scores == last).sum(1)
    ties = more.masked_fill(torch.isneginf(last[:, 0]), 0)
    return tuple(part.cpu().numpy() for part in (ranks, best.items.int(), best.scores, ties.int()))


def _widest(parts: Sequence[np.ndarray]) -> int:
    return max(part.shape[1] for part in parts)


def _eval_batch_size(result: Result) -> int:
    """On which the last bits of scores may depend."""
    size = result.config["data"].get("eval_batch_size", _EVAL_BATCH_SIZE)
    check_sizes(eval_batch_size=size)
    return min(size, 1 << 16)


def _about_the_class(result: Result, model: Recommender, dataset: Dataset) -> Iterator[str]:
    """What has to be right before the model can be asked."""
    class_path, draws = result.config["model"]["class_path"], len(result.draw_metrics)
    if type(model) is not resolved(class_path):
        yield f"the model is a {type(model).__name__}, config says {short(class_path)}"
    if model.num_items != dataset.num_items:
        yield f"the model ranks {model.num_items} items, expected the {dataset.num_items} of {result.dataset}"
    if draws > 1 and not model.uses_noise:
        yield f"the record has {draws} draws, expected 1 of a model whose lists do not depend on noise"


def _about_the_model(
    result: Result, model: Recommender, arguments: Mapping[str, Any] | None, exact: bool
) -> Iterator[str]:
    """The fields of a record that a model has by itself."""
    stated = {**result.config["model"].get("init_args", {}), **result.config.get("decoding", {})}
    built = stated if arguments is None else arguments
    later = sampling_changes(model, result.config)
    yield from _about_sampling(model, later)
    for name, value in stated.items():
        if name in later:
            continue
        if name not in built or built[name] != value:
            yield f"config: {name} is {short(value)}, the model was built with {short(built.get(name))}"
    iterates = isinstance(model, DiffusionRecommender)
    steps = model.process.num_steps(model.num_inference_steps) if iterates else None
    guidance = float(model.guidance_scale) if iterates and model.takes_guidance else None
    weights = weights_sha256(model) if exact or arguments is not None else result.weights_sha256  # else solved here
    for name, seen, expected in (
        ("weights_sha256", result.weights_sha256, weights),
        ("parameters", result.parameters, count_parameters(model)),
        ("denoiser_calls", result.denoiser_calls, model.denoiser_calls),
        ("selection.num_inference_steps", result.selection.num_inference_steps, steps),
        ("selection.guidance_scale", result.selection.guidance_scale, guidance),
    ):
        if seen != expected:
            yield f"{name} is {short(seen)}, the model has {short(expected)}"
    if result.code_version == code_version() and result.deviations != (listed := deviations(type(model))):
        yield f"deviations are {short(result.deviations)}, the file of the model lists {short(listed)}"


def _about_sampling(model: Recommender, asked: Mapping[str, Any]) -> Iterator[str]:
    """Does the model sample as these settings make a new one of its kind sample?"""
    if not asked:
        return
    other = model.remade()
    try:
        other.set_sampling(**asked)
    except DiffrecError as error:
        yield f"config: decoding cannot be: {error}"
        return
    for name in ("stochastic", *model.settings_that_may_change):
        seen, expected = (getattr(one, name, None) for one in (model, other))
        if name == "scheduler":
            seen, expected = type(seen).__name__, type(expected).__name__
        if seen != expected:
            yield f"config: {name} is {short(expected)} by decoding, the model has {short(seen)}"


def _about_draw(number: int, claimed: Scored, again: Scored, exact: bool) -> Iterator[str]:
    """Are lists and ranks those that the model gives?"""
    (ranks, lists), (new_ranks, new_lists) = claimed, again
    mine, theirs = new_lists.draws[number], lists.draws[number]
    keys, k = lists.users, mine.items.shape[1]
    if theirs.items.shape[1] < k:
        yield f"draw {number}: the lists hold {theirs.items.shape[1]} items, expected {k}"
        return
    wrong = _other_lists(theirs, mine, exact)
    if wrong.any():
        row = int(wrong.argmax())
        seen, given = theirs.items[row, :5].tolist(), mine.items[row, :5].tolist()
        yield (
            f"draw {number}: the list of user {keys[row]} begins with {seen}, the model gives {given}, or other scores "
            f"({wrong.sum()} lists)"
        )
    if exact:
        yield from _other_ranks(number, ranks, new_ranks)
    else:
        before, after = (_reciprocal(part.draws[number].values) for part in (ranks, new_ranks))
        if (moved := np.abs(before - after).mean()) > METRIC_TOLERANCE:
            yield f"draw {number}: 1 / rank moved by {moved:.2g} in the mean, expected at most {METRIC_TOLERANCE}"


def _other_ranks(number: int, ranks: UserRanks, again: UserRanks) -> Iterator[str]:
    """One sentence where the ranks of a draw are not those that the model gives."""
    before, after = ranks.draws[number].values, again.draws[number].values
    if (other := ~((before == after) | (np.isnan(before) & np.isnan(after)))).any():
        entry = int(other.argmax())
        user = ranks.users[ranks.draws[number].row_of_entry[entry]]
        seen = f"a rank of user {user} is {before[entry]:g}, the model gives {after[entry]:g}"
        yield f"draw {number}: {seen} ({other.sum()} ranks)"


def _reciprocal(ranks: np.ndarray) -> np.ndarray:
    return 1 / np.where(np.isnan(ranks), 1, ranks)


def _other_lists(lists: Lists, again: Lists, exact: bool) -> np.ndarray:
    """(cases,) bool: are these other lists? Unless `exact`, items may change places with others as good."""
    k = again.items.shape[1]
    items, scores = lists.items[:, :k], lists.scores[:, :k]
    if exact:
        ties = lists.ties != again.ties if lists.items.shape[1] == k else np.zeros(len(items), dtype=bool)
        return (items != again.items).any(1) | (scores != again.scores).any(1) | ties
    filled = again.items > 0
    old, new = (np.where(filled, part, 0.0).astype(np.float64) for part in (scores, again.scores))
    close = SCORE_TOLERANCE * np.abs(new).max(1, keepdims=True)
    gap = np.abs(np.diff(new, axis=1)) <= 2 * close
    movable = np.pad(gap, ((0, 0), (1, 0))) | np.pad(gap, ((0, 0), (0, 1)), constant_values=True)
    return ((np.abs(old - new) > close) | ((items != again.items) & ~movable)).any(1)


def _unequal(prefix: str, seen: Mapping[str, float], expected: Mapping[str, float], exact: bool) -> Iterator[str]:
    if exact:
        yield from differences(prefix, seen, expected)
        return
    for name, value in expected.items():
        if abs(seen[name] - value) > METRIC_TOLERANCE:
            yield f"{prefix}{name} is {seen[name]}, the model gives {value}"
