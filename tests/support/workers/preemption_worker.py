"""One of the examples, on little data, that waits in the middle of an epoch until it is told to go on.

`preemption_worker.py EXAMPLE STEP OPTION …` prints a line with its id before step STEP, and waits for one.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

import torch
import train_dlrm
import train_movielens
from models.small_data import small_synthetic

EXAMPLES: dict[str, ModuleType] = {"dlrm": train_dlrm, "movielens": train_movielens}

if __name__ == "__main__":
    name, step, *options = sys.argv[1:]
    example = EXAMPLES[name]
    train_dlrm.synthetic = small_synthetic
    advance = example.Trainer.advance

    def advance_or_wait(trainer: train_dlrm.Trainer | train_movielens.Trainer) -> torch.Tensor:
        if trainer.step == int(step):
            print("waiting", os.getpid(), flush=True)
            sys.stdin.readline()
        return advance(trainer)

    example.Trainer.advance = advance_or_wait
    sys.exit(example.main(options))
