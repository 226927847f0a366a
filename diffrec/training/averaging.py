"""Averaged weights: an exponential moving average of what the optimiser goes through."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffrec.errors import check_numbers


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that `update_parameters(model)` draws a step of 1 - decay nearer to it; the first update makes
    it equal. Buffers are those of the model: numbers of items have no average."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)


class AveragedWeights(WeightAveraging):
    """A run is validated with, and leaves behind, the exponential moving average of its weights.

    decay: the share of the average that a step keeps, .999 for a memory of about a thousand steps. Checkpoints hold the
    average as the weights, which is what everybody loads, and the weights being trained beside it, with which a resumed
    run goes on.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_numbers(low=0.0, high=1.0, decay=decay)
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: a model works out shapes and tables from the data later, in its own `setup`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average begins as the weights of the start, unless a checkpoint had one; it is kept where they are."""
        if self._average_model is None:
            self._average_model = average_of(pl_module, self.decay)
        self._average_model.module.to(pl_module.device)  # a checkpoint is read before the model is moved

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The average and the weights being trained; outside of training the average is all there is to know."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.on_fit_start(trainer, pl_module)
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The model has the average by now, and may get other weights."""
        self._average_model = None
