"""Tensors whose shape is known only when training data is there: a graph, a table of users, a closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FittedShape(nn.Module):
    """The buffers and parameters of this module itself take the shapes of what is loaded into them."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for own in (self._buffers, self._parameters):
            for name, tensor in own.items():
                loaded = state_dict.get(prefix + name)
                if tensor is not None and loaded is not None and tensor.shape != loaded.shape:
                    empty = torch.empty_like(loaded, device=tensor.device)
                    own[name] = nn.Parameter(empty, tensor.requires_grad) if own is self._parameters else empty  # pyright: ignore[reportArgumentType]
        super()._load_from_state_dict(state_dict, prefix, *args)
