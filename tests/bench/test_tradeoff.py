"""Accuracy against cost: the grid, what each point measures, the frontier, and that the model stays as it was."""

from __future__ import annotations

import csv

import pytest
import torch

from diffrec.baselines import Popularity
from diffrec.bench.evaluate import evaluate
from diffrec.bench.plots import tradeoff_chart
from diffrec.bench.subject import Subject
from diffrec.bench.tradeoff import FLOW_SAMPLERS, SAMPLERS, Setting, frontier, own_setting, sampling, tradeoff
from diffrec.data.protocol import get_protocol
from diffrec.data.synthetic import synthetic
from diffrec.diffusion.schedulers import scheduler_class
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import DiffRec, DiffuRec, DreamRec, FlowCF, FMRec, MaskGR, PreferDiff, PreferGrow, RuleBridge

DATASET, PROTOCOL = synthetic(), get_protocol("loo-full-masked@1")


def subject_of(cls, **arguments):
    torch.manual_seed(0)
    return Subject(cls(DATASET.num_items, **arguments).eval(), DATASET, PROTOCOL, seed=3, batch_size=128)


@pytest.fixture(scope="module")
def dreamrec():
    return subject_of(DreamRec, embedding_size=8, num_train_timesteps=20, num_inference_steps=4)


@pytest.mark.parametrize(
    ("costs", "values", "expected"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], [True, True, True]),
        ([1, 2, 3], [0.3, 0.2, 0.1], [True, False, False]),
        ([2, 1, 3, 3], [0.2, 0.1, 0.3, 0.25], [True, True, True, False]),
        ([1, 2, 2], [0.1, 0.1, 0.2], [True, False, True]),
        ([1, 1], [0.1, 0.1], [True, True]),
    ],
)
def test_frontier(costs, values, expected):
    assert frontier(costs, values) == expected


def test_every_combination_and_the_own_setting_first(dreamrec):
    result = tradeoff(dreamrec, steps=[1, 2], guidance_scales=[1.0, 2.0], samplers=["ddim", "heun"])
    settings = [(p.sampler, p.num_inference_steps, p.guidance_scale) for p in result.points]
    grid = [(s, n, g) for s in ("ddim", "heun") for n in (1, 2) for g in (1.0, 2.0)]
    assert settings == [("ddpm", 4, 3.0), *grid]
    assert [p.own for p in result.points] == [True] + [False] * 8
    assert [p.denoiser_calls for p in result.points] == [8, 1, 2, 2, 4, 1, 2, 3, 6]
    assert all(p.ms_per_user > 0 for p in result.points)
    assert (result.split, result.cases, result.metric) == ("validation", 200, "ndcg@10")


def test_the_default_grid(dreamrec):
    result = tradeoff(dreamrec, max_cases=5)
    assert {p.sampler for p in result.points} == set(SAMPLERS) - {"posterior-mean", "lcm"}
    assert sorted({p.num_inference_steps for p in result.points}) == [1, 4, 16]
    assert {p.guidance_scale for p in result.points} == {1.0, 3.0}
    assert len(result.points) == 6 * 3 * 2
    assert sum(p.own for p in result.points) == 1
    assert result.cases == 5


def test_a_point_is_what_evaluation_says(dreamrec):
    for test in (False, True):
        cases = dreamrec.split.test if test else dreamrec.split.valid
        result = tradeoff(dreamrec, samplers=["ddim"], steps=[3], guidance_scales=[2.0], test=test, metric="recall@20")
        own, asked = result.points
        assert own.value == evaluate(dreamrec.model, cases, PROTOCOL.cutoffs, seed=3).metrics["recall@20"]
        with sampling(dreamrec.model, Setting("ddim", 3, 2.0)):
            values = evaluate(dreamrec.model, cases, PROTOCOL.cutoffs, seed=3).values["recall@20"]
        assert asked.value == pytest.approx(values.mean())
        assert asked.standard_error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5)
        assert result.split == ("test" if test else "validation")


def test_the_model_stays_as_it_was(dreamrec):
    model = dreamrec.model
    before = own_setting(model), model.scheduler, model.eta, model.stochastic
    with sampling(model, Setting("unipc", 2, 1.0)):
        assert own_setting(model) == Setting("unipc", 2, 1.0)
    assert (own_setting(model), model.scheduler, model.eta, model.stochastic) == before
    with pytest.raises(UsageError, match="num_inference_steps"), sampling(model, Setting("unipc", 99, 1.0)):
        model.process.reverse_steps(model.num_inference_steps)
    assert (own_setting(model), model.scheduler, model.eta, model.stochastic) == before


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("cls", [DreamRec, PreferDiff, DiffuRec])
def test_a_setting_is_recognised(cls, name):
    model = cls(9, embedding_size=8, num_train_timesteps=20)
    guidance = 2.0 if model.takes_guidance else None
    with sampling(model, Setting(name, 3, guidance)):
        assert own_setting(model) == Setting(name, 3, guidance)
        assert type(model.scheduler) is scheduler_class(SAMPLERS[name].scheduler)


def test_models_know_how_they_sample():
    assert own_setting(DreamRec(9)).sampler == "ddpm"
    assert own_setting(PreferDiff(9, embedding_size=8)) == Setting("ddim", 20, 3.0)
    assert own_setting(DiffuRec(9)) == Setting("ddpm", 32, None)
    assert own_setting(DiffRec(9)).sampler == "posterior-mean"
    model = DreamRec(9)
    model.eta = 0.5
    assert own_setting(model).sampler == "as set"


def test_a_process_with_steps_of_its_own():
    subject = subject_of(FlowCF, dims=(6,))
    result = tradeoff(subject, steps=[1, 2, 9])
    assert [(p.sampler, p.num_inference_steps, p.guidance_scale) for p in result.points] == [
        ("as set", 2, None), ("as set", 1, None), ("as set", 9, None),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="FlowCF has steps of its own and takes no sampler"):
        tradeoff(subject, samplers=["ddim"])


def test_a_flow_has_samplers_of_its_own(capfd):
    subject = subject_of(FMRec, embedding_size=8, num_blocks=1, num_heads=1, num_inference_steps=2, decoder_dims=[4])
    model, scheduler = subject.model, subject.model.scheduler
    result = tradeoff(subject, steps=[1, 4], max_cases=20)
    points = [(p.sampler, p.num_inference_steps, p.denoiser_calls, p.own) for p in result.points]
    calls = {"euler": [1, 4], "heun": [1, 7]}
    grid = [(name, *pair, False) for name in ("euler", "heun") for pair in zip([1, 4], calls[name], strict=True)]
    assert points == [("euler", 2, 2, True), *grid]
    assert (model.scheduler, model.stochastic, own_setting(model)) == (scheduler, True, Setting("euler", 2, None))
    with pytest.raises(NotFoundError, match="no sampler 'ddim'; there are: euler, heun, lcm"):
        tradeoff(subject, samplers=["ddim"])
    for name, sampler in FLOW_SAMPLERS.items():
        model.set_sampling(scheduler=sampler.scheduler)
        assert own_setting(model) == Setting(name, 2, None)
    assert capfd.readouterr().err == ""  # diffusers tells of attributes that a scheduler does not know
    original = subject_of(FMRec, embedding_size=8, num_blocks=1, num_heads=1, fidelity="original", decoder_dims=[4])
    assert own_setting(original.model).sampler == "as set"
    with pytest.raises(UsageError, match="FMRec has steps of its own and takes no sampler"):
        tradeoff(original, samplers=["euler"])


CODES = {"num_levels": 3, "codebook_size": 32, "embedding_size": 8, "num_blocks": 1, "num_heads": 1, "feed_size": 8}
GROW = {"embedding_size": 8, "num_inference_steps": 3}


@pytest.mark.parametrize(
    ("cls", "arguments", "own", "grid"),
    [
        (MaskGR, CODES, (3, None), [(1, None), (2, None), (3, None)]),
        (PreferGrow, GROW, (3, 2.0), [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0), (3, 1.0), (3, 2.0)]),
        (RuleBridge, {"embedding_size": 8}, (1, None), [(1, None), (2, None), (4, None)]),
    ],
)
def test_models_that_are_no_gaussian_diffusion_but_take_steps(cls, arguments, own, grid):
    subject = subject_of(cls, **arguments)
    subject.model.prepare(subject.split.train)
    asked = (subject.model.num_inference_steps, subject.model.denoiser_calls)
    result = tradeoff(subject, max_cases=20)
    points = [(p.num_inference_steps, p.guidance_scale) for p in result.points]
    assert points[0] == own
    assert sorted(points, key=lambda p: (p[0], p[1] or 0)) == grid
    assert [p.own for p in result.points] == [True] + [False] * (len(points) - 1)
    assert {p.sampler for p in result.points} == {"as set"}
    by_steps = {p.num_inference_steps: p.denoiser_calls for p in result.points if p.guidance_scale in (None, 1.0)}
    assert by_steps[1] < by_steps[grid[-1][0]]
    assert (subject.model.num_inference_steps, subject.model.denoiser_calls) == asked
    with pytest.raises(UsageError, match="has steps of its own and takes no sampler"):
        tradeoff(subject, samplers=["ddim"])
    with pytest.raises(UsageError, match="must be a whole number"):
        tradeoff(subject, steps=[0])


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"samplers": ["dim"]}, NotFoundError, "no sampler 'dim'.* did you mean 'ddim'"),
        ({"steps": [21]}, UsageError, r"num_inference_steps must be a whole number in 1\.\.20, got 21"),
        ({"guidance_scales": [float("nan")]}, UsageError, "guidance scale 1 must be a finite number, got nan"),
        ({"metric": "ndcg@7", "max_cases": 3, "steps": [1]}, NotFoundError, "no metric"),
        ({"max_cases": 0}, UsageError, "max_cases must be a whole number from 1, got 0"),
    ],
)
def test_what_cannot_be_asked(dreamrec, words, error, message):
    with pytest.raises(error, match=message):
        tradeoff(dreamrec, **words)


def test_models_that_cannot_be_asked():
    with pytest.raises(UsageError, match="Popularity takes no steps, so there is one way only to ask it"):
        tradeoff(subject_of(Popularity))
    with pytest.raises(UsageError, match="DiffuRec takes no guidance scale"):
        tradeoff(subject_of(DiffuRec, embedding_size=8, num_blocks=1), guidance_scales=[2.0])


def test_the_picture_has_its_numbers_beside_it(dreamrec, tmp_path):
    result = tradeoff(dreamrec, steps=[1, 4], max_cases=20)
    png, data = tradeoff_chart(result, tmp_path / "tradeoff.png")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with open(data, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["sampler"], float(r["value"]), r["frontier"]) for r in rows] == [
        (p.sampler, p.value, str(p.frontier)) for p in result.points
    ]


@pytest.mark.parametrize(
    ("scales", "told"),
    [([1.0, 2.0, 3.0], ["guidance 3", "guidance 1, 2"]), ([3.0], []), (None, ["guidance 3", "guidance 1"])],
)
def test_the_legend_tells_what_filled_and_hollow_marks_are(scales, told, dreamrec, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("diffrec.bench.plots._save", lambda figure, path: drawn.append(figure))
    tradeoff_chart(
        tradeoff(dreamrec, max_cases=5, samplers=["ddim"], steps=[1], guidance_scales=scales), tmp_path / "t.png"
    )
    words = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert [word for word in words if word.startswith("guidance")] == told
