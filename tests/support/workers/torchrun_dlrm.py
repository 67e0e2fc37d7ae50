"""The DLRM example on few columns, as torchrun launches it; process 1 dies once, at step 46."""

from __future__ import annotations

import os
import signal
import sys

import torch
import train_dlrm
from dlrm.model import Trainer
from models.small_data import small_synthetic

from torch_tpu_embedding import distributed

advance = Trainer.advance


def dies_once(trainer: Trainer) -> torch.Tensor:
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first_life and trainer.step == 46 and distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(trainer)


if __name__ == "__main__":
    train_dlrm.synthetic = small_synthetic
    Trainer.advance = dies_once
    status = train_dlrm.main(sys.argv[1:])
    distributed.shutdown()
    sys.exit(status)
