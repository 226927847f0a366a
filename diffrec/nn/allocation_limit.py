"""How much a constructor may ask for, when its arguments come from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


class AllocationLimit(TorchFunctionMode):
    """Stops a constructor, by a ValueError, that asks for more than so many numbers in all, or so many tensors.

    most: what has that many, for the message.
    """

    def __init__(self, elements: int, tensors: int, most: str) -> None:
        super().__init__()
        self.elements, self.tensors, self.most = elements, tensors, most

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            sizes = args or (kwargs["size"],)
            self.elements -= math.prod(sizes if isinstance(sizes[0], int) else sizes[0])
            self.tensors -= 1
            if self.elements < 0 or self.tensors < 0:
                raise ValueError(f"its arguments ask for a far larger model than {self.most}")
        return func(*args, **kwargs)
