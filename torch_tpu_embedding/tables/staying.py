"""The refusal to move, convert or copy a TPUEmbedding where its tables could not follow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import runtime


def refuse_to_move(device: torch.device, move: Callable[[Tensor], Tensor]) -> None:
    """Raise if the tables on `device` would have to follow what `move` does to a tensor there.

    Raises:
        RuntimeError: they would move, or, on an XLA device, change their dtype.
    """
    now = torch.empty(0, dtype=torch.float32, device=device)
    then = move(now)
    fixed = runtime.is_accelerated(device)
    if then.device.type != now.device.type or (fixed and then.dtype != now.dtype):
        raise RuntimeError(
            f"TPUEmbedding: its tables stay {now.dtype if fixed else 'where they are'} on "
            f"{device}, and cannot become {then.dtype} on {then.device}; move or convert the "
            "other modules of the model one by one, or load state_dict() into a TPUEmbedding of the "
            "same configuration on the other device (device='cpu' for serving)"
        )


def refuse_to_copy(device: torch.device) -> None:
    """Raise if the tables on `device` are no parameters.

    Raises:
        TypeError: they are on an XLA device.
    """
    if runtime.is_accelerated(device):
        raise TypeError(
            "TPUEmbedding: on an XLA device it can be neither copied nor pickled, for its tables are "
            "no parameters there (AveragedModel would leave them out); load state_dict() into another "
            "TPUEmbedding, device='cpu' for one that can be copied, pickled and averaged; save with "
            "checkpoint.save; wrap the dense modules alone"
        )
