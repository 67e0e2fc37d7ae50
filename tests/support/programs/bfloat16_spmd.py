"""Run by test_bfloat16_spmd.py in a process with several devices: `bfloat16_spmd.py DEVICES FILE`.

Trains tables in bfloat16 in one partitioned program and saves their state.
"""

from __future__ import annotations

import os
import sys

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = sys.argv[1]

import torch
from models.bfloat16 import SGD, config, exact_gradients, ragged, random_ids

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed, runtime

SAMPLES = 8


def trained(layout: runtime.DeviceKind) -> dict[str, torch.Tensor]:
    """The state after some steps whose sums are exact, and the number of programs after the second."""
    embedding = tte.TPUEmbedding(config(), SAMPLES, SGD, seed=0, layout=layout)
    compiled = []
    for step in range(4):
        embedding.enqueue(ragged(random_ids(step % 2, SAMPLES)))
        activations = embedding.dequeue()
        gradients = exact_gradients([each.shape for each in activations], step)
        embedding.apply_gradients([embedding.to_device(each) for each in gradients])
        runtime.sync()
        compiled.append(runtime.compile_count())
    state: dict[str, torch.Tensor] = embedding.state_dict()
    return {**state, "compiled late": torch.tensor(compiled[-1] - compiled[1])}


if __name__ == "__main__":
    distributed.initialize()
    torch.save({layout: trained(layout) for layout in ("CPU", "TPU")}, sys.argv[2])
