"""A run whose numbers are no numbers any more stops at once and says where."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from diffrec.errors import DiffrecError
from diffrec.typing import Tensor


class StopAtNonFinite(Callback):
    """Raises DiffrecError before the first non-finite loss or gradient can reach the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise _stop(f"the loss is {loss.item()}", trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.scaler is not None:
            return  # a loss scaler passes over such a step itself
        norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise _stop(f"the norm of the gradient is {norm.item()}", trainer)


def _stop(what: str, trainer: Trainer) -> DiffrecError:
    rates = ", ".join(f"{group['lr']:g}" for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return DiffrecError(
        f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}, "
        f"batch {trainer.fit_loop.batch_idx}) with learning rate {rates}; {_last_good(trainer)}"
    )


def _last_good(trainer: Trainer) -> str:
    written = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    paths = [path for path in written if path]
    return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was written before"
