"""Per-example losses (batch,) from a network's output and the noised sample it saw."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, mse_loss

from diffrec.diffusion.gaussian import GaussianProcess, NoisedSample
from diffrec.diffusion.rectified_flow import PathSample
from diffrec.diffusion.sampler import Corrupted
from diffrec.typing import Float, Tensor


def mean_square(output: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Mean over coordinates of (target - output)^2; one pass forwards and one backwards."""
    return mse_loss(output, target, reduction="none").sum(1) / output.shape[1]


class MeanSquaredError(nn.Module):
    """Mean over coordinates of (target - output)^2, where the target is x_0, eps or v."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process

    def forward(self, output: Float[Tensor, "batch dim"], noised: NoisedSample) -> Float[Tensor, " batch"]:
        return mean_square(output, self.process.target(noised))


class CleanSampleError(nn.Module):
    """Mean over coordinates of (x_0 - output)^2: the network tells x_0, whatever the process."""

    def forward(self, output: Float[Tensor, "batch dim"], noised: Corrupted | PathSample) -> Float[Tensor, " batch"]:
        return mean_square(output, noised.x0)


class SquaredCosineError(nn.Module):
    """(1 - cos(x_0, estimate of x_0))^2, which does not see how long the vectors are."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process

    def forward(self, output: Float[Tensor, "batch dim"], noised: NoisedSample) -> Float[Tensor, " batch"]:
        return (1 - cosine_similarity(noised.x0, self.process.predicted_x0(output, noised), dim=1)).square()


class SNRWeightedError(nn.Module):
    """The terms of the variational bound, as DiffRec trains them (eq. 10 and its epsilon form).

    x_0 prediction: mean (x_0 - output)^2 * (SNR_{t-1} - SNR_t), SNR = alpha_bar / (1 - alpha_bar);
    v prediction: the same error of the x_0 that it stands for, which is sigma_t^2 mean (v - output)^2;
    epsilon prediction: mean (eps - output)^2 * (1 - alpha_bar_t) / ((1 - alpha_bar_{t-1})^2 alpha_t).
    At t = 0 it is `weight_t0` times mean (x_0 - x0_hat)^2, half of it for epsilon: the likelihood.
    """

    weight: Tensor

    def __init__(self, process: GaussianProcess, weight_t0: float = 1.0) -> None:
        super().__init__()
        self.process = process
        alpha_bar, betas = process.alphas_cumprod, torch.from_numpy(process.betas)
        before = alpha_bar[:-1]
        if process.prediction_type == "epsilon":
            later = (1 - alpha_bar[1:]) / ((1 - before).square() * (1 - betas[1:]))
        else:
            later = before / (1 - before) - alpha_bar[1:] / (1 - alpha_bar[1:])
        weight = torch.cat([torch.tensor([weight_t0], dtype=torch.float64), later])
        if process.prediction_type == "v_prediction":
            weight = weight * (1 - alpha_bar)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, output: Float[Tensor, "batch dim"], noised: NoisedSample) -> Float[Tensor, " batch"]:
        loss = mean_square(output, self.process.target(noised))
        if self.process.prediction_type == "epsilon":
            likelihood = mean_square(self.process.predicted_x0(output, noised), noised.x0) / 2
            loss = torch.where(noised.t == 0, likelihood, loss)
        return self.weight[noised.t].to(loss.dtype) * loss
