"""Run by test_bfloat16_together.py in a process with several devices, with their number and a folder.

Trains tables in bfloat16 with all that may come with them, in one partitioned program; saves the results.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = sys.argv[1]

import torch
from models.bfloat16_together import SAMPLES, batch, config, exact_gradients

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint, distributed, runtime


def train(embedding: tte.TPUEmbedding, step: int) -> None:
    """Two micro-batches in one update; in two of the steps a table is frozen."""
    if step == 1:
        embedding.freeze("bags")
    if step == 3:
        embedding.unfreeze("bags")
    for micro in range(2):
        embedding.enqueue(batch(2 * step + micro))
        found = embedding.dequeue()
        gradients = exact_gradients(found, 2 * step + micro)
        embedding.accumulate_gradients(
            {key: embedding.to_device(each) for key, each in gradients.items()}
        )
    embedding.clip_grad_norm_(1e9)
    embedding.apply_gradients()
    runtime.sync()


def trained(folder: Path) -> dict[str, Any]:
    embedding = tte.TPUEmbedding(config(), SAMPLES, tte.SGD(0.25), seed=0)
    embedding.enable_metrics(every=1)
    for step in range(4):
        train(embedding, step)
        checkpoint.save(embedding, folder, step, since=step - 1 if step else None)
    resumed = tte.TPUEmbedding(config(), SAMPLES, tte.SGD(0.25), seed=0)
    checkpoint.load(resumed, folder)
    for each in (embedding, resumed):
        train(each, 4)
    weight = embedding.table_weight("one")
    scores, ids = embedding.top_k("one", weight[:2], 3)
    state: dict[str, Any] = embedding.state_dict()
    again: dict[str, Any] = resumed.state_dict()
    embedding.enqueue(batch(0), training=False)
    rows = {f"row {key}": value.cpu() for key, value in embedding.dequeue().items()}
    return {
        **{key: value for key, value in state.items() if "." in key},
        **{f"resumed {key}": value for key, value in again.items() if "." in key},
        **rows,
        "scores": scores,
        "ids": ids,
    }


if __name__ == "__main__":
    distributed.initialize()
    folder = Path(sys.argv[2])
    torch.save(trained(folder / "run"), folder / "found.pt")
