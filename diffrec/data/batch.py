"""One batch for every model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffrec.typing import History, Int, Targets, Tensor


@dataclass(frozen=True)
class Batch:
    """What a model trains on, and what it is asked at evaluation.

    history: (batch, length) item numbers, oldest first, 0 behind the end; target: (batch, targets)
    true items, 0 behind the end (one per history slot where every position is an example);
    seen: (batch, seen) items that may not be recommended, only at evaluation;
    key: (batch,) the user number, at evaluation, where sampling noise is derived from it; in training the row of the
    sequences;
    times: (batch, length) the second of every item of the history, where the dataset knows it.
    """

    history: History
    target: Targets
    seen: Int[Tensor, "batch seen"] | None = None
    key: Int[Tensor, " batch"] | None = None
    times: History | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._each(lambda x: x.pin_memory())

    def fields(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """The five tensors in order."""
        return self.history, self.target, self.seen, self.key, self.times

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        seen, key, times = (None if x is None else change(x) for x in (self.seen, self.key, self.times))
        return Batch(change(self.history), change(self.target), seen, key, times)
