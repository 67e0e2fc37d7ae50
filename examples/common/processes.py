"""What the examples need to run alone, on several devices, and as several processes under torchrun.

Every process goes through the same script and the same batches in the same order, and takes its own
share of each batch; process 0 alone prints, draws and writes results. See docs/distributed.md.

Shape letters: B batch, S processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
import torch

import torch_tpu_embedding as tte


def connect() -> None:
    """Find the other processes, if there are any, and leave the talking to process 0."""
    tte.distributed.initialize()
    if not tte.distributed.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (errors still go to stderr)


def no_bar() -> bool | None:
    """tqdm's `disable`: True if another process shows the bar, None to ask tqdm if this is a terminal."""
    return None if tte.distributed.is_main() else True


def own_share(rows: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """This process's part of a batch, and the weights of its samples in the loss, `[B / S]` each.

    A batch shorter than `batch_size` is filled up, for another batch size would be another program to
    compile. The fillers weigh nothing and the samples more: the mean over all B is that of the samples.
    """
    positions, real = tte.distributed.local_positions(len(rows), batch_size)
    weights = real.numpy().astype(np.float32) * np.float32(batch_size / len(rows))
    return rows[positions.numpy()], weights


def fetch_losses(losses: Sequence[torch.Tensor]) -> list[float]:
    """Losses of the whole batch from those of this process's samples, which are device scalars."""
    if not losses:
        return []
    held = torch.stack([loss.cpu() for loss in losses])
    return tte.distributed.gather(held[None]).mean(0).tolist()
