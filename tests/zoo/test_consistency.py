"""Consistency distillation where the teacher's way is known: of a normal distribution it is affine at every place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffrec.data.batch import Batch
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.objectives import CleanSampleError
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.schedulers import with_settings
from diffrec.diffusion.schedules import betas_of
from diffrec.diffusion.timesteps import UniformTimesteps
from diffrec.recommender import DiffusionRecommender
from diffrec.spaces.embedding import EmbeddingSpace
from diffrec.zoo.distillation import Consistency, _last_target

MEAN, STD, STEPS = 1.5, 0.5, 8
PROCESSES = {"gaussian": lambda: GaussianProcess(betas_of("cosine", STEPS), eta=0.0), "flow": RectifiedFlow}


class PerPlace(nn.Module):
    """x -> scale x + shift, with numbers for every place of the way."""

    def __init__(self, way, scale, shift):
        super().__init__()
        self.t, self.scale, self.shift = way.t, nn.Parameter(scale.clone()), nn.Parameter(shift.clone())

    def forward(self, x, t):
        place = (self.t[None] - t[:, None]).abs().argmin(1)
        return self.scale[place, None] * x + self.shift[place, None]


def known(way):
    """E[x_0 | x_t] of N(MEAN, STD^2) as scale and shift of x_t."""
    signal, sigma = way.signal.float(), way.sigma.float()
    scale = signal * STD**2 / (signal**2 * STD**2 + sigma**2)
    return scale, MEAN * (1 - scale * signal)


def ends(way):
    """Where the way of the teacher leads from every place, again as scale and shift."""
    scale, shift = known(way)
    found = [(1.0, 0.0)]
    for k in reversed(range(way.num_steps)):
        _, further = way.step(scale[k] * torch.eye(2)[:, :1] + shift[k], torch.eye(2)[:, :1], torch.full((2,), k))
        one, none = (found[-1][0] * further + found[-1][1])[:, 0].tolist()
        found.append((one - none, none))
    return torch.tensor(found[:0:-1]).unbind(1)


def model(process, numbers, steps=STEPS):
    """A recommender that diffuses two coordinates of 50 items and knows nothing of histories."""
    torch.manual_seed(0)
    made = DiffusionRecommender(
        50, None, space=EmbeddingSpace(50, 2), process=process, denoiser=PerPlace(process.trajectory(STEPS), *numbers),
        timesteps=UniformTimesteps(STEPS), objective=CleanSampleError(), start="noise", num_inference_steps=steps,
    )  # fmt: skip
    with torch.no_grad():
        made.space.table.weight.mul_(STD).add_(MEAN)
    return made


@pytest.fixture(params=PROCESSES)
def pair(request):
    """A teacher that knows the distribution, a student that starts as it, and the teacher's way."""
    process = PROCESSES[request.param]()
    way = process.trajectory(STEPS)
    return model(process, known(way)).requires_grad_(False), model(process, known(way), steps=1), way


BATCH = Batch(torch.ones(256, 1, dtype=torch.long), torch.arange(256)[:, None] % 50 + 1)


def end(of, steps, x):
    """What a model generates from x in so many steps."""
    return sample(of.denoiser, of.process, x, num_inference_steps=steps)


def assert_mean_and_std(student, way):
    """In two and four steps of a consistency model: of affine maps of what was generated before and of new noise."""
    name = "LCMScheduler" if isinstance(student.process, GaussianProcess) else "FlowMatchLCMScheduler"
    student.scheduler = with_settings(name, {}, student.scheduler)
    for steps in (2, 4):
        noise = RequestNoise.from_keys(torch.arange(3000))
        x = noise.normal(2)
        made = sample(student.denoiser, student.process, x, num_inference_steps=steps, noise=noise.normal)
        mean, variance = MEAN, 0.0
        for place in range(0, STEPS, STEPS // steps):
            signal, sigma = way.signal[place], way.sigma[place]
            scale, shift = (numbers[place] for numbers in ends(way))
            mean, variance = scale * signal * mean + shift, scale**2 * (signal**2 * variance + sigma**2)
        assert abs(mean - MEAN) < 0.02
        assert abs(made.mean() - mean) < 0.03
        assert abs(made.std() - variance**0.5) < 0.03


def test_a_student_recovers_the_end_of_its_teachers_way_in_few_steps(pair):
    teacher, student, way = pair
    x = RequestNoise.from_keys(torch.arange(200)).normal(2)
    wanted = end(teacher, STEPS, x)
    assert (end(student, 1, x) - wanted).square().mean() > 0.3 * STD**2  # in one step a teacher tells the mean
    loss, optimizer = Consistency(teacher, student, decay=0.5), torch.optim.Adam(student.denoiser.parameters(), lr=0.03)
    for _ in range(250):
        optimizer.zero_grad()
        loss(BATCH).backward()
        optimizer.step()
        loss.follow()
    assert (end(student, 1, x) - wanted).square().mean() < 0.01 * STD**2
    assert_mean_and_std(student, way)
    scale, shift = ends(way)
    torch.testing.assert_close(student.denoiser.scale.detach(), scale, rtol=0, atol=0.1)
    torch.testing.assert_close(student.denoiser.shift.detach(), shift, rtol=0, atol=0.1)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_perfect_student_has_nothing_to_learn(pair, decay):
    teacher, _, way = pair
    perfect = model(teacher.process, ends(way), steps=1)
    assert Consistency(teacher, perfect, decay)(BATCH) < 1e-9
    x = RequestNoise.from_keys(torch.arange(20)).normal(2)
    torch.testing.assert_close(end(perfect, 1, x), end(teacher, STEPS, x), rtol=1e-4, atol=1e-4)
    assert_mean_and_std(perfect, way)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_only_what_the_student_says_has_gradients(pair, decay):
    """As if what it is compared with were numbers: neither the teacher nor the average nor the table learn."""
    teacher, student, way = pair
    teacher.requires_grad_(True)
    loss = Consistency(teacher, student, decay)
    with torch.no_grad():
        student.denoiser.shift.add_(0.3)
    if loss.average is not None:
        loss.average.requires_grad_(True)
        assert all(p.grad is None for p in loss.average.parameters())
    torch.manual_seed(1)
    loss(BATCH).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert loss.average is None or all(p.grad is None for p in loss.average.parameters())
    assert student.space.table.weight.grad is None
    torch.manual_seed(1)
    noise = RequestNoise(torch.randint(1 << 62, (256,)))
    place = torch.randint(STEPS, (256,))
    x = loss.states(BATCH, place, noise)
    difference = student.denoiser(x, way.told(place)) - loss.further_on(BATCH.history, x, place, noise)
    by_hand = torch.zeros(STEPS).index_add(0, place, 2 * difference.detach().sum(1) / difference.numel())
    torch.testing.assert_close(student.denoiser.shift.grad, by_hand)


def test_the_average_is_asked_and_follows_the_student(pair):
    teacher, student, _ = pair
    loss = Consistency(teacher, student, decay=0.75)
    before = student.denoiser.shift.detach().clone()
    loss.follow()  # the first makes them equal
    with torch.no_grad():
        student.denoiser.shift.add_(1.0)
    loss.follow()
    torch.testing.assert_close(loss.average.module.denoiser.shift, before + 0.25)
    place, x = torch.zeros(4, dtype=torch.long), torch.randn(4, 2)
    asked = loss.further_on(BATCH.history[:4], x, place, RequestNoise(place))
    student_only = Consistency(teacher, student, decay=0.0).further_on(BATCH.history[:4], x, place, RequestNoise(place))
    torch.testing.assert_close(student_only - asked, torch.full((4, 2), 0.75))


def test_the_last_of_the_targets_is_diffused():
    """Of models that have one for every slot of the history."""
    history, target = torch.tensor([[4, 5, 6], [7, 0, 0]]), torch.tensor([[5, 6, 8], [9, 0, 0]])
    assert _last_target(Batch(history, target)).tolist() == [8, 9]
    assert _last_target(Batch(history, target[:, :1])).tolist() == [5, 9]
