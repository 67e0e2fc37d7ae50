"""What refuses to move, convert or copy a TPUEmbedding where its tables could not follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from . import runtime


class FixedModule(nn.Module):
    """A module whose tables stay on their device, and, on an XLA device, float32 and single."""

    device: torch.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.half`, `.cpu` and their like call, also those of a module that holds this one.

        Raises:
            RuntimeError: the tables would have to move, or to change their dtype on an XLA device.
        """
        now = torch.empty(0, dtype=torch.float32, device=self.device)
        then = fn(now)
        fixed = runtime.is_accelerated(self.device)
        if then.device.type != now.device.type or (fixed and then.dtype != now.dtype):
            raise RuntimeError(
                f"TPUEmbedding: its tables stay {now.dtype if fixed else 'where they are'} on "
                f"{self.device}, and cannot become {then.dtype} on {then.device}; move or convert the "
                "other modules of the model one by one, or load state_dict() into a TPUEmbedding of the "
                "same configuration on the other device (device='cpu' for serving)"
            )
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def __getstate__(self) -> object:
        """What `copy`, `pickle`, `torch.save` and AveragedModel begin with.

        Raises:
            TypeError: the tables are on an XLA device.
        """
        if runtime.is_accelerated(self.device):
            raise TypeError(
                "TPUEmbedding: on an XLA device it can be neither copied nor pickled, for its tables are "
                "no parameters there (AveragedModel would leave them out); load state_dict() into another "
                "TPUEmbedding, device='cpu' for one that can be copied, pickled and averaged; save with "
                "checkpoint.save; wrap the dense modules alone"
            )
        return super().__getstate__()  # type: ignore[no-untyped-call]
