"""The walk of a scheduler as numbers: steps are linear, so what each of them does is found out once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from diffrec.diffusion.sampler import ReverseSteps
from diffrec.errors import DiffrecError
from diffrec.typing import Tensor

_RECENT = 4  # outputs that a step of a multistep solver may look back on, its own included
_EXACT = 1e-6  # some schedulers round to float32 on the way


@dataclass(frozen=True)
class Step:
    """state' = of_state * state + of_start * (the first state) + sum of_outputs[i] * (the i-th last output)
    + of_draw * draw."""

    of_state: float
    of_start: float
    of_outputs: tuple[float, ...]
    of_draw: float


class LinearSteps:
    """`ReverseSteps` with nothing but multiplications and additions, for one walk; what a graph can hold.

    entering: the state of the walk for x; inputs: what the network sees, for the state of each place.
    """

    def __init__(
        self, timesteps: Sequence[int | float], entering: float, inputs: Sequence[float], steps: Sequence[Step]
    ) -> None:
        self.timesteps, self.entering, self.inputs, self.steps = timesteps, entering, inputs, steps
        self.outputs: list[Tensor] = []
        self.start: Tensor | None = None

    @classmethod
    def of(cls, make: Callable[[], ReverseSteps], noisy: bool) -> LinearSteps:
        """Walk once over coordinates: (x, every output, every draw). DiffrecError where a step is not of that form."""
        steps = make()
        count = len(steps.timesteps)
        basis = torch.eye(1 + 2 * count, dtype=torch.float64)
        state = steps.enter(basis[:1])
        entering, inputs, found = float(state[0, 0]), [], []
        for place in range(count):
            seen, output, drawn = steps.model_input(state, place), basis[[1 + place]], basis[[1 + count + place]]
            inputs.append(_multiple(seen, state))
            after = steps.step(output, state, place, (lambda drawn=drawn: drawn) if noisy else None).to(torch.float64)
            recent = [basis[[1 + earlier]] for earlier in range(place, max(place - _RECENT, -1), -1)]
            parts = torch.cat([state, basis[:1], *recent, drawn])
            weights = torch.linalg.lstsq(parts.T, after.T, driver="gelsd").solution[:, 0]
            if float((weights @ parts - after).abs().max()) > _EXACT * max(1.0, float(after.abs().max())):
                raise DiffrecError(f"step {place} of {count} is not linear in the state and the last {_RECENT} outputs")
            of_state, of_start, *of_outputs, of_draw = weights.tolist()
            found.append(Step(of_state, of_start / entering, tuple(of_outputs), of_draw if noisy else 0.0))
            state = after
        return cls(list(steps.timesteps), entering, inputs, found)

    def enter(self, x: Tensor) -> Tensor:
        """A walk begins."""
        self.outputs, self.start = [], x * self.entering
        return self.start

    def model_input(self, state: Tensor, place: int) -> Tensor:
        """What the network sees."""
        return state * self.inputs[place]

    def step(self, output: Tensor, state: Tensor, place: int, draw: Callable[[], Tensor] | None) -> Tensor:
        """One place on."""
        self.outputs = [output, *self.outputs[: _RECENT - 1]]
        step = self.steps[place]
        assert self.start is not None
        after = state * step.of_state
        if abs(step.of_start) > _EXACT:
            after = after + step.of_start * self.start
        for weight, seen in zip(step.of_outputs, self.outputs, strict=True):
            after = after + weight * seen
        return after if draw is None else after + step.of_draw * draw()


def _multiple(vector: Tensor, of: Tensor) -> float:
    """The number whose product with `of` is `vector`."""
    return float((vector.double() * of.double()).sum() / of.double().square().sum())
