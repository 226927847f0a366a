"""What is worked out of weights or codes once, and kept until they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

from diffrec.typing import Tensor

T = TypeVar("T")


class Derived(Generic[T]):
    """Something made of tensors, once for each state of them.

    A fused optimiser changes weights without raising their version: whoever trains calls `forget`.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[object, ...], T] | None = None

    def of(self, tensors: Iterable[Tensor], make: Callable[[], T]) -> T:
        """What was made last, or anew where a tensor has changed, moved or been replaced."""
        state = tuple((tensor.data_ptr(), _version(tensor), tensor.device) for tensor in tensors)
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # kept beyond a call, so no inference tensors
                self._kept = (state, make())
        return self._kept[1]

    def forget(self) -> None:
        """Make it anew when it is asked for next."""
        self._kept = None


def _version(tensor: Tensor) -> int | None:
    """None for those of inference mode, which do not count their changes."""
    return None if tensor.is_inference() else tensor._version
