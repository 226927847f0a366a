"""A run whose loss is no number any more stops at once and says where."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from diffrec.errors import DiffrecError
from diffrec.typing import Tensor


class StopAtNonFiniteLoss(Callback):
    """Raises DiffrecError before the first non-finite loss can reach the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if torch.isfinite(loss):
            return
        rates = ", ".join(f"{group['lr']:g}" for optimizer in trainer.optimizers for group in optimizer.param_groups)
        raise DiffrecError(
            f"the loss is {loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}, "
            f"batch {trainer.fit_loop.batch_idx}) with learning rate {rates}; {_last_good(trainer)}"
        )


def _last_good(trainer: Trainer) -> str:
    written = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    paths = [path for path in written if path]
    return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was written before"
