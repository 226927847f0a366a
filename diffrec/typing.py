"""The shape vocabulary of every annotation, checked by beartype in the tests.

batch: requests; items: the catalogue without padding (column j is item number j + 1);
length: history slots; targets: true items of one request; dim: width; codes: digits of a semantic ID.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

History = Int[Tensor, "batch length"]
Targets = Int[Tensor, "batch targets"]
Scores = Float[Tensor, "batch items"]
Vectors = Float[Tensor, "batch dim"]
PerExample = Float[Tensor, " batch"]
Timesteps = Int[Tensor, " batch"]

Fidelity = Literal["fixed", "original"]  # "original": with the quirks of the official code that its numbers need

__all__ = [
    "Bool", "Fidelity", "Float", "History", "Int", "PerExample", "Scores", "Targets", "Tensor", "Timesteps", "Vectors",
]  # fmt: skip
