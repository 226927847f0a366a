"""Where a command computes."""

from __future__ import annotations

import os

from diffrec.errors import UsageError


def chosen_device(asked: str) -> str:
    """That of this process for `auto`, `cpu` or `cuda`: under torchrun, each has a GPU of its own.

    Raises UsageError for a GPU that there is not.
    """
    import torch

    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError("--device cuda needs a GPU that torch can use, and there is none; use cpu or auto")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
