"""What is kept is what would be made anew."""

from __future__ import annotations

import torch

from diffrec.nn.derived import Derived


def test_it_is_made_once_for_each_state_of_its_tensors():
    made, weight = [], torch.ones(3)
    kept: Derived[float] = Derived()

    def total() -> float:
        made.append(weight.sum().item())
        return made[-1]

    assert kept.of((weight,), total) == kept.of((weight,), total) == 3.0
    weight.mul_(2)
    assert kept.of((weight,), total) == 6.0
    kept.forget()
    assert kept.of((weight,), total) == 6.0
    assert made == [3.0, 6.0, 6.0]


def test_tensors_of_inference_mode_can_be_asked():
    """They count no changes, but a model may be built there."""
    with torch.inference_mode():
        weight = torch.ones(3)
    assert Derived().of((weight,), lambda: weight.sum().item()) == 3.0
