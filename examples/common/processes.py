"""Functions that let the examples run alone, on several devices, and as several processes under torchrun.

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
    """Connect to the other processes, if there are any, and let process 0 alone print."""
    tte.distributed.initialize()
    if not tte.distributed.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (errors still go to stderr)


def no_bar() -> bool | None:
    """tqdm's `disable`: True if another process shows the bar, None to ask tqdm if this is a terminal."""
    return None if tte.distributed.is_main() else True


def own_share(rows: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """This process's part of a batch, and the weights of its samples in the loss, `[B / S]` each.

    A batch shorter than `batch_size` is filled up, for another batch size would be another program to
    compile. Fillers weigh 0 and samples more than 1, so that the mean over all B is the samples' mean.
    """
    positions, real = tte.distributed.local_positions(len(rows), batch_size)
    weights = real.numpy().astype(np.float32) * np.float32(batch_size / len(rows))
    return rows[positions.numpy()], weights


def fetch_losses(losses: Sequence[torch.Tensor]) -> list[float]:
    """Losses of whole batches, from this process's losses (scalars on the device); a collective call."""
    if not losses:
        return []
    own = torch.stack([loss.cpu() for loss in losses])
    return tte.distributed.gather(own[None]).mean(0).tolist()
