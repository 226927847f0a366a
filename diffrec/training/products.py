"""Products of matrices on an accelerator: quick where they teach, with all their digits where they are measured."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from diffrec.recommender import ClosedFormRecommender


class QuickProducts(Callback):
    """Products of float32 matrices in a training step on CUDA round their factors to TF32 (10 bits behind the point).

    Validation, which adds up many steps of a walk, has all digits, as tests and closed forms have; so has whoever chose
    a precision (`torch.set_float32_matmul_precision`) that is not the usual one.
    """

    def __init__(self) -> None:
        self.quick = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if pl_module.device.type != "cuda" or isinstance(pl_module, ClosedFormRecommender):
            return
        if torch.get_float32_matmul_precision() == "highest":
            torch.set_float32_matmul_precision("high")
            self.quick = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._exact()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._exact()

    def _exact(self) -> None:
        if self.quick:
            torch.set_float32_matmul_precision("highest")
            self.quick = False
