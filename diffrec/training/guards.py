"""A run whose numbers are no numbers any more stops at once and says where."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from diffrec.errors import DiffrecError
from diffrec.typing import Float, Tensor

_STEPS_AHEAD = 4  # that may be asked for before the numbers of one are looked at
_ASYNCHRONOUS = ("cuda",)


@dataclass(frozen=True, eq=False)
class _Step:
    """Loss and norm of the gradient of a step, on the CPU once `arrived` says so (None: they are there)."""

    numbers: Float[Tensor, " two"]
    arrived: torch.cuda.Event | None
    place: str


class StopAtNonFinite(Callback):
    """Raises DiffrecError for the first non-finite loss or gradient, which never reaches the weights.

    On CUDA a look at a number waits for everything that was asked for before it. There an optimiser that can (a fused
    one) passes over such a step by itself, and the error comes a few steps later.
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None
        self.pending: deque[_Step] = deque()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss.detach()
        if not self._later(loss, trainer):
            _check(loss.item(), 0.0, _place(trainer), trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.scaler is not None:
            return  # a loss scaler passes over such a step itself
        norm = get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        if self.loss is None or not self._later(norm, trainer):
            return _check(0.0, norm.item(), _place(trainer), trainer)
        numbers = torch.stack([self.loss.float(), norm.float()])
        optimizer.found_inf = (~numbers.isfinite().all()).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.pending.append(_Step(*_to_cpu(numbers), _place(trainer)))
        while len(self.pending) > _STEPS_AHEAD:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self.pending:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)

    def _later(self, number: Tensor, trainer: Trainer) -> bool:
        fused = all(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        return number.device.type in _ASYNCHRONOUS and fused and trainer.scaler is None

    def _look(self, trainer: Trainer) -> None:
        step = self.pending.popleft()
        if step.arrived is not None:
            step.arrived.synchronize()
        loss, norm = step.numbers.tolist()
        _check(loss, norm, step.place, trainer)


def _to_cpu(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if numbers.device.type != "cuda":
        return numbers.cpu(), None
    there = torch.empty(numbers.shape, pin_memory=True).copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return there, arrived


def _check(loss: float, norm: float, place: str, trainer: Trainer) -> None:
    if not math.isfinite(loss):
        raise DiffrecError(f"the loss is {loss} {place}; {_last_good(trainer)}")
    if not math.isfinite(norm):
        raise DiffrecError(f"the norm of the gradient is {norm} {place}; {_last_good(trainer)}")


def _place(trainer: Trainer) -> str:
    rates = ", ".join(f"{group['lr']:g}" for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return (
        f"at step {trainer.global_step} (epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.batch_idx}) "
        f"with learning rate {rates}"
    )


def _last_good(trainer: Trainer) -> str:
    written = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
    paths = [path for path in written if path]
    return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was written before"
