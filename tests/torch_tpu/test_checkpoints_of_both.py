"""A checkpoint written under one backend is loaded under the other, bit for bit.

Both cannot be in one environment: OTHER_BACKEND_PYTHON names the interpreter of one that has the other, and
OTHER_BACKEND_PYTHONPATH what it needs to find beside the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT, SLOW

OTHER = os.environ.get("OTHER_BACKEND_PYTHON", "")
PROGRAM = """
import sys, torch, torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
what, run, told = sys.argv[1:]
kinds = [(50, 4, tte.Adagrad(0.1)), (33, 12, tte.Adam(0.01)), (20, 1, tte.FTRL(0.1)),
         (40, 64, tte.SGD(0.1))]
tables = [tte.TableConfig(v, d, name=f"t{d}", optimizer=o) for v, d, o in kinds]
embedding = tte.TPUEmbedding([tte.FeatureConfig(each) for each in tables], 8, None, seed=5)
def train(steps):
    drawn = torch.Generator().manual_seed(1)
    for _ in range(steps):
        embedding.enqueue([torch.randint(20, (8,), generator=drawn) for _ in tables])
        sum(each.square().sum() for each in embedding.dequeue()).backward()
        embedding.apply_gradients()
        tte.runtime.sync()
if what == "save":
    train(3)
    checkpoint.save(embedding, run, step=3)
else:
    checkpoint.load(embedding, run)
state = {k: v for k, v in embedding.state_dict().items() if k != "_extra_state"}
torch.save({"state": state, "backend": tte.runtime.backend()}, told)
"""


def run(python: str, path: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), path)))}
    command = [python, "-c", PROGRAM, *arguments]
    subprocess.run(command, env=environment, cwd=ROOT, timeout=60 * SLOW, check=True)


@pytest.mark.skipif(
    not OTHER, reason="OTHER_BACKEND_PYTHON names no interpreter with the other backend"
)
@pytest.mark.parametrize("writer", ["this", "other"])
def test_a_checkpoint_of_one_backend_is_the_other_ones_bit_for_bit(
    tmp_path: Path, writer: str
) -> None:
    here = (sys.executable, os.environ.get("PYTHONPATH", ""))
    there = (OTHER, os.environ.get("OTHER_BACKEND_PYTHONPATH", ""))
    first, second = (here, there) if writer == "this" else (there, here)
    checkpoint, told = str(tmp_path / "run"), [str(tmp_path / name) for name in ("one", "two")]
    run(*first, "save", checkpoint, told[0])
    run(*second, "load", checkpoint, told[1])
    saved, loaded = (torch.load(each) for each in told)
    assert {saved["backend"], loaded["backend"]} == {"torch_xla", "torch_tpu"}
    assert saved["state"].keys() == loaded["state"].keys()
    for key, value in saved["state"].items():
        assert torch.equal(value.view(torch.int32), loaded["state"][key].view(torch.int32)), key
