"""Ridge regression whose strength is chosen by the error of leaving each row out."""

from __future__ import annotations

import torch

from diffrec.typing import Float, Int, Tensor

_STRENGTHS = tuple(10.0**power for power in range(-4, 4))  # of the mean squared singular value


class Ridge:
    """y - mean = (x - mean) W, fitted on some rows of x and asked for others.

    The error of leaving a row out is r / (1 - h), with r its residual and h its leverage (Allen 1974), so that one
    singular value decomposition serves every strength.
    """

    def __init__(self, x: Float[Tensor, "rows width"], known: Int[Tensor, " known"]) -> None:
        x = x.double().cpu()
        self.x = x - x[known].mean(0)
        self.u, self.s, self.v = torch.linalg.svd(self.x[known], full_matrices=False)

    def predict(self, y: Float[Tensor, "known out"], rows: Int[Tensor, " asked"]) -> Float[Tensor, "asked out"]:
        """What the rows `rows` of x are told to have, in the type of y, where the known rows have y."""
        mean = y.double().cpu().mean(0)
        turned = self.u.T @ (y.double().cpu() - mean)
        shrunk = min(
            (self._shrinking(strength) for strength in _STRENGTHS), key=lambda part: self._error(part, y, mean)
        )
        weights = self.v.T @ ((shrunk / self.s.clamp(min=1e-12))[:, None] * turned)
        return (mean + self.x[rows.cpu()] @ weights).to(y)

    def _shrinking(self, strength: float) -> Tensor:
        squares = self.s.square()
        return squares / (squares + strength * squares.mean())

    def _error(self, shrunk: Tensor, y: Tensor, mean: Tensor) -> float:
        centred = y.double().cpu() - mean
        residual = centred - self.u @ (shrunk[:, None] * (self.u.T @ centred))
        leverage = 1 / len(centred) + (self.u.square() * shrunk).sum(1, keepdim=True)
        return float((residual / (1 - leverage).clamp(min=1e-6)).square().sum())
