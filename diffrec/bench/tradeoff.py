"""Accuracy against cost: one trained model that takes steps, sampled in many ways."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffrec.bench.evaluate import Evaluation, evaluate, per_user
from diffrec.bench.provenance import code_version, device_name
from diffrec.bench.subject import Subject
from diffrec.data.splits import Cases
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.schedulers import with_settings
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.recommender.sampling import restored

STEPS = (1, 4, 16)  # beside the number that the model itself takes
FEW_STEPS = (1, 2, 4, 8, 16)  # of a model with steps of its own, which takes few; beside all of them


@dataclass(frozen=True)
class Sampler:
    """A way to go back: a scheduler of diffusers, of a Gaussian process its eta, and whether steps draw noise."""

    scheduler: str
    eta: float = 1.0
    stochastic: bool = False


SAMPLERS: Mapping[str, Sampler] = {
    "ddpm": Sampler("DDIMScheduler", 1.0, stochastic=True),
    "ddim": Sampler("DDIMScheduler", 0.0),
    "dpm-solver++": Sampler("DPMSolverMultistepScheduler"),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler"),
    "posterior-mean": Sampler("DDIMScheduler", 1.0),
    "lcm": Sampler("LCMScheduler", stochastic=True),
}
FLOW_SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
    "heun": Sampler("FlowMatchHeunDiscreteScheduler"),
    "lcm": Sampler("FlowMatchLCMScheduler", stochastic=True),
}
_ASKED_FOR = ("posterior-mean", "lcm")  # measured where they are named; the steps of "lcm" are for students
AS_SET = "as set"  # the sampler of a model that has none of these


@dataclass(frozen=True)
class Setting:
    """One way to sample. guidance_scale: None for a model that takes none."""

    sampler: str
    num_inference_steps: int
    guidance_scale: float | None


@dataclass(frozen=True)
class Point:
    """What a setting costs and is worth.

    value, standard_error: mean of the metric over the cases, and how far that mean is off by their choice;
    denoiser_calls: network evaluations a request; ms_per_user: scoring and ranking, in batches; own: whether the
    model samples so by itself; frontier: whether no other point reaches more with as few calls.
    """

    sampler: str
    num_inference_steps: int
    guidance_scale: float | None
    denoiser_calls: int
    ms_per_user: float
    value: float
    standard_error: float
    own: bool
    frontier: bool = False


@dataclass(frozen=True)
class Tradeoff:
    """All points of one model, with what they rest on. split: "validation" or "test"; cases: how many were asked."""

    model: str
    dataset: str
    dataset_sha256: str
    protocol: str
    split: str
    cases: int
    metric: str
    seed: int
    num_samples: int
    batch_size: int
    code_version: str
    device: str
    threads: int
    points: tuple[Point, ...]

    @property
    def asked_at_once(self) -> int:
        """The users of the largest batch."""
        return min(self.batch_size, self.cases)


def tradeoff(
    subject: Subject,
    *,
    samplers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    guidance_scales: Sequence[float] | None = None,
    metric: str = "ndcg@10",
    test: bool = False,
    max_cases: int | None = None,
    report: Callable[[Setting, int, int], None] = lambda setting, number, count: None,
) -> Tradeoff:
    """Measure every sampler x number of steps x guidance scale, and the model as it is, on validation or test cases.

    By default all samplers of `SAMPLERS` but the last two, of a flow those of `FLOW_SAMPLERS` but the last, `STEPS` and
    the model's own number of them, and its own guidance scale beside 1; of a model with steps of its own `FEW_STEPS`
    and all. max_cases: of all cases, evenly spread; None for all. report: gets each setting before it is measured,
    and which of how many it is, from 1. The model is left as it was.
    Raises UsageError for a model that takes no steps, NotFoundError for a sampler or metric that there is not.
    """
    model, (_, every) = subject.model, subject.steps
    settings = _settings(model, every, samplers, steps, guidance_scales)
    cases = _some(subject.split.test if test else subject.split.valid, max_cases)
    measured = []
    for number, setting in enumerate(_warm(subject, settings, cases), start=1):
        report(setting, number, len(settings))
        measured.append(_point(subject, model, setting, cases, metric))
    best = frontier([point.denoiser_calls for point in measured], [point.value for point in measured])
    return Tradeoff(
        model=type(model).__name__,
        dataset=subject.dataset.name,
        dataset_sha256=subject.dataset.sha256,
        protocol=subject.protocol.id,
        split="test" if test else "validation",
        cases=len(cases),
        metric=metric,
        seed=subject.seed,
        num_samples=getattr(model, "num_samples", 1),
        batch_size=subject.batch_size,
        code_version=code_version(),
        device=device_name(model.device),
        threads=torch.get_num_threads(),
        points=tuple(replace(point, frontier=on) for point, on in zip(measured, best, strict=True)),
    )


def frontier(costs: Sequence[int | float], values: Sequence[float]) -> list[bool]:
    """Whether no other point is worth more at the same or a lower cost, nor as much at a lower one."""
    points = list(zip(costs, values, strict=True))
    return [
        not any((c <= cost and v > value) or (c < cost and v == value) for c, v in points) for cost, value in points
    ]


def own_setting(model: Recommender) -> Setting:
    """How the model samples by itself."""
    assert model.num_steps is not None
    if not isinstance(model, DiffusionRecommender):
        return Setting(AS_SET, model.num_steps, float(model.guidance_scale) if _guided(model) else None)  # pyright: ignore
    scheduler, eta = type(model.scheduler).__name__, 1.0
    if scheduler == "DDIMScheduler" and model.eta is not None:  # elsewhere it means nothing
        eta = model.eta
    way = Sampler(scheduler, eta, model.noisy_steps)
    name = next((name for name, sampler in samplers_of(model).items() if sampler == way), AS_SET)
    return Setting(name, model.num_steps, float(model.guidance_scale) if model.takes_guidance else None)


def samplers_of(model: Recommender) -> Mapping[str, Sampler]:
    """The ways back of which a model can be asked for any; none for one with steps of its own."""
    if "scheduler" not in model.settings_that_may_change:
        return {}
    gaussian = isinstance(model, DiffusionRecommender) and isinstance(model.process, GaussianProcess)
    return SAMPLERS if gaussian else FLOW_SAMPLERS


def _guided(model: Recommender) -> bool:
    return "guidance_scale" in model.settings_that_may_change


def _settings(
    model: Recommender,
    every: int,
    samplers: Sequence[str] | None,
    steps: Sequence[int] | None,
    guidance_scales: Sequence[float] | None,
) -> list[Setting]:
    """The own setting first. every: how many steps are all of them."""
    own = own_setting(model)
    there = samplers_of(model)
    if not there and samplers is not None:
        raise UsageError(f"{type(model).__name__} has steps of its own and takes no sampler")
    for name in samplers or ():
        choose("sampler", name, {*there, own.sampler})
    if guidance_scales is not None and own.guidance_scale is None:
        raise UsageError(f"{type(model).__name__} takes no guidance scale")
    check_numbers(**{f"guidance scale {number}": scale for number, scale in enumerate(guidance_scales or (), 1)})
    if isinstance(model, DiffusionRecommender):
        usual = [number for number in STEPS if number < every]
    else:
        usual = [number for number in (*FEW_STEPS, every) if number <= every]
    numbers = steps or [*usual, own.num_inference_steps]
    for number in numbers:
        with sampling(model, replace(own, num_inference_steps=number)):
            _ = model.denoiser_calls  # refuses what cannot be
    scales = guidance_scales or ([None] if own.guidance_scale is None else [1.0, own.guidance_scale])
    names = samplers or [name for name in there if name not in _ASKED_FOR] or [own.sampler]
    grid = [Setting(*parts) for parts in itertools.product(names, sorted(set(numbers)), dict.fromkeys(scales))]
    return list(dict.fromkeys([own, *grid]))


def _some(cases: Cases, most: int | None) -> Cases:
    if most is None or most >= len(cases):
        return cases
    check_sizes(max_cases=most)
    return cases.take(np.linspace(0, len(cases) - 1, most).astype(np.int64))


def _warm(subject: Subject, settings: list[Setting], cases: Cases) -> list[Setting]:
    """The same, after one batch that nobody times: the first is slow."""
    _evaluate(subject, cases.take(np.arange(min(len(cases), subject.batch_size))))
    return settings


def _evaluate(subject: Subject, cases: Cases) -> Evaluation:
    cutoffs = subject.protocol.cutoffs
    return evaluate(subject.model, cases, cutoffs, batch_size=subject.batch_size, seed=subject.seed)


def _point(
    subject: Subject,
    model: Recommender,
    setting: Setting,
    cases: Cases,
    metric: str,
) -> Point:
    own = setting == own_setting(model)
    with sampling(model, setting):
        asked, calls = _evaluate(subject, cases), model.denoiser_calls
    values = per_user(asked, metric)
    values = values[~np.isnan(values)]
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Point(
        setting.sampler, setting.num_inference_steps, setting.guidance_scale, calls, asked.ms_per_user,
        float(values.mean()), error, own,
    )  # fmt: skip


@contextmanager
def sampling(model: Recommender, setting: Setting) -> Iterator[None]:
    """Let the model sample as `setting` says, and afterwards as before."""
    names = [name for name in ("num_inference_steps", "guidance_scale", "stochastic") if hasattr(model, name)]
    there = samplers_of(model)
    names += ["scheduler"] * bool(there) + ["eta"] * (there is SAMPLERS)
    with restored(model, names):
        if (sampler := there.get(setting.sampler)) is not None and isinstance(model, DiffusionRecommender):
            assert model.scheduler is not None
            if type(model.scheduler).__name__ != sampler.scheduler:  # its own keeps its settings
                model.scheduler = with_settings(sampler.scheduler, {}, model.scheduler)
            if there is SAMPLERS:
                model.eta, model.stochastic = sampler.eta, sampler.stochastic
        asked = {"num_inference_steps": setting.num_inference_steps, "guidance_scale": setting.guidance_scale}
        for name, value in asked.items():
            if value is not None:
                setattr(model, name, value)
        yield
