"""What one trained model is worth: accuracy over draws, ranks of every user, latency, and what they rest on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from diffrec.bench.evaluate import Evaluation, evaluate, seed_of
from diffrec.bench.provenance import (
    PeakMemory,
    code_version,
    config_sha256,
    deviations,
    device_name,
    packages,
    processor_name,
    split_counts,
    weights_sha256,
)
from diffrec.bench.ranks import UserRanks
from diffrec.bench.result import Beams, Bounds, Decoding, RestsOn, Result, Role, Selection
from diffrec.bench.suite import Cell
from diffrec.coded_items import CodedRecommender
from diffrec.data.datamodule import EvaluationBatches
from diffrec.errors import UsageError
from diffrec.nn.item_codes import BeamCounts
from diffrec.recommender import ClosedFormRecommender, DiffusionRecommender, Recommender, count_parameters
from diffrec.training.build import Run
from diffrec.training.fit import FitResult
from diffrec.training.learnt_from import items_sha256, read_by

REQUESTS, BATCHES = 15, 3  # how many are timed, after one that is not


def measure(
    cell: Cell, run: Run, config: dict[str, Any], fitted: FitResult, memory: PeakMemory
) -> tuple[Result, UserRanks]:
    """Validate and test a trained model in evaluation mode.

    config: that of the cell, which the run may have been given more words than. Draw d of the sampling noise has the
    seed `cell.seed + 2^32 d`; a model whose lists do not depend on noise is tested once. Raises UsageError where no
    epoch was validated.
    """
    if fitted.best is None:
        raise UsageError(f"no epoch of {cell} was validated; lower trainer.check_val_every_n_epoch")
    model, protocol, split = run.model, run.data.protocol, run.data.split
    size, counts = run.data.eval_batch_size, np.bincount(split.train.values, minlength=model.num_items + 1)[1:]
    valid = evaluate(model, split.valid, protocol.cutoffs, batch_size=size, seed=cell.seed)
    seeds = [seed_of(cell.seed, draw) for draw in range(cell.draws if model.uses_noise else 1)]
    with model.item_codes.counting() if isinstance(model, CodedRecommender) else nullcontext() as beams:
        tests = [
            evaluate(model, split.test, protocol.cutoffs, batch_size=size, seed=seed, item_counts=counts)
            for seed in seeds
        ]
    result = Result(
        suite=cell.suite,
        suite_version=cell.suite_version,
        dataset=cell.dataset.name,
        dataset_sha256=run.data.dataset.sha256,
        split_counts=split_counts(run.data.dataset, split),
        protocol=protocol.id,
        headline=protocol.headline,
        model=cell.model.name,
        role=_role(cell, model),
        control_of=cell.model.control_of,
        seed=cell.seed,
        config=config,
        config_sha256=config_sha256(config),
        code_version=code_version(),
        packages=packages(),
        selection=_selection(fitted, model),
        metrics=_mean(tests, lambda test: test.metrics),
        draw_metrics=tuple(dict(test.metrics) for test in tests),
        bounds=Bounds(*_bounds(tests, protocol.headline)),
        ranks_sha256=None,  # known when they are written
        weights_sha256=weights_sha256(model),
        deviations=deviations(type(model)),
        tuning_trials=cell.model.trials_on(cell.dataset.name),
        reported=cell.model.reported_on(cell.dataset.name),
        validation=dict(valid.metrics),
        beyond_accuracy=_mean(tests, lambda test: test.beyond_accuracy),
        parameters=count_parameters(model),
        denoiser_calls=model.denoiser_calls,
        epochs=fitted.epochs,
        train_seconds=fitted.seconds,
        evaluate_seconds=statistics.fmean(test.seconds for test in tests),
        ms_per_user=_latency(run),
        peak_memory_mib=memory.mebibytes(),
        device=device_name(model.device),
        processor=processor_name(),
        threads=torch.get_num_threads(),
        decoding=_decoding(model, beams, tests, protocol.cutoffs) if isinstance(model, CodedRecommender) else None,
        rests_on=RestsOn(
            items=items_sha256(run.data.dataset),
            split=split.sha256,
            read={key: read.sha256() for key, read in read_by(type(model), config).items()},
        ),
    )
    return result, UserRanks(split.test.key, tuple(test.ranks for test in tests))


def _mean(tests: Sequence[Evaluation], of: Callable[[Evaluation], Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(of(test)[name] for test in tests) for name in of(tests[0])}


def _bounds(tests: Sequence[Evaluation], headline: str) -> tuple[float, float]:
    """Optimistic and pessimistic."""
    return (
        statistics.fmean(test.optimistic[headline] for test in tests),
        statistics.fmean(test.pessimistic[headline] for test in tests),
    )


def _selection(fitted: FitResult, model: Recommender) -> Selection:
    assert fitted.best is not None
    iterates = isinstance(model, DiffusionRecommender)
    return Selection(
        metric=fitted.metric.removeprefix("valid/"),
        value=fitted.best,
        epoch=fitted.epoch,
        num_inference_steps=model.process.num_steps(model.num_inference_steps) if iterates else None,
        guidance_scale=float(model.guidance_scale) if iterates and model.takes_guidance else None,
    )


def _decoding(
    model: CodedRecommender, counts: BeamCounts | None, tests: Sequence[Evaluation], cutoffs: Sequence[int]
) -> Decoding:
    """counts: of the beams of all `tests`."""
    trie, several = model.item_codes.trie, model.item_codes.shared()
    colliding = float(several[trie.leaf_of_item].float().mean())
    if counts is None or not counts.requests:
        return Decoding(colliding, None)
    asked = counts.requests * model.num_beams
    told_apart = np.concatenate([test.told_apart for test in tests])
    return Decoding(
        colliding,
        Beams(
            num_beams=model.num_beams,
            constrained=model.constrained,
            invalid=counts.invalid / asked,
            repeated=counts.repeated / asked,
            lost=1 - (counts.found + counts.repeated) / asked,
            shared=counts.shared / asked,
            short={str(cutoff): float((told_apart < cutoff).mean()) for cutoff in cutoffs},
        ),
    )


def _role(cell: Cell, model: Recommender) -> Role:
    if cell.model.control_of is not None:
        return "control"
    return "training-free" if isinstance(model, ClosedFormRecommender) else "model"


def _latency(run: Run) -> dict[str, float]:
    """Milliseconds per user for ten items, for one user at a time and for a whole batch; medians."""
    one = EvaluationBatches(run.data.split.test, 1, run.model.max_history_length)
    spread = np.linspace(0, len(one) - 1, min(REQUESTS, len(one))).astype(int).tolist()
    many = EvaluationBatches(run.data.split.test, run.data.eval_batch_size, run.model.max_history_length)
    middle = (len(many) - 1) // 2  # the first batch has the longest histories
    return {
        "1": statistics.median(_timed(run.model, one, [spread[0], *spread])[1:]),
        str(len(many.rows(middle))): statistics.median(_timed(run.model, many, [middle] * (BATCHES + 1))[1:]),
    }


def _timed(model: Recommender, batches: EvaluationBatches, numbers: list[int]) -> list[float]:
    """Milliseconds per user of each of the batches."""
    times = []
    for number in numbers:
        batch = batches[number]
        start = time.perf_counter()
        model.recommend(batch.history, k=10, times=batch.times).items.cpu()
        times.append(1000 * (time.perf_counter() - start) / len(batch.history))
    return times
