"""Learning rates that change during training: a mix-in of each kind."""

from __future__ import annotations

import math
from typing import Literal

import pytorch_lightning as pl

from diffrec.data.batch import Batch

LrSchedule = Literal["constant", "cosine"]


class EpochRates(pl.LightningModule):
    """A learning rate that the number of the epoch decides: a model gives `rate`."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, the first being 0."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        """Worked out anew in every epoch, so that a resumed run has the same."""
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.current_epoch)


class EpochDecay(EpochRates):
    """The learning rate falls to a tenth after every `lr_decay_epochs`."""

    lr: float
    lr_decay_epochs: int

    def rate(self, epoch: int) -> float:
        return self.lr * 0.1 ** (epoch // self.lr_decay_epochs)


class StepRates(pl.LightningModule):
    """A learning rate that rises to `lr` over `warmup_steps` and stays there, or falls from the first step on to 0.

    lr_schedule "cosine": half a wave, which ends at the last step of `trainer.max_epochs`.
    """

    lr: float
    warmup_steps: int = 0
    lr_schedule: str = "constant"

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Worked out anew in every step, so that a resumed run has the same."""
        step = self.trainer.global_step
        share = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.lr_schedule == "cosine":
            share *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.trainer.estimated_stepping_batches))
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * share
