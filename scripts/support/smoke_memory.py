#!/usr/bin/env python3
"""The device's peak memory beside the size of the tables, after many steps without a wait between them.

A write that is called while the one before it still runs could be given a copy of the array: then the peak
is twice the tables. Prints one line of JSON. For torch_tpu, whose writes are operators of their own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import torch_tpu_embedding as tte

BATCH = 1024


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Start values that cost no time."""
    return torch.zeros(shape, dtype=dtype)


def peak_bytes() -> int:
    """The most memory that was used so far: of the device, or of this process where that is the CPU."""
    if tte.runtime.device_kind() == "TPU":
        return torch.accelerator.max_memory_allocated()
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    table = tte.TableConfig(args.rows, 64, name="t", optimizer=tte.Adagrad(0.1), initializer=zeros)
    embedding = tte.TPUEmbedding({"f": tte.FeatureConfig(table)}, BATCH, None)
    embedding.build()
    for number in range(args.steps + 2):
        if number == 2:  # what is compiled is not of interest, nor the start values on the host
            tte.runtime.sync(wait=True)
            start = peak_bytes()
        embedding.enqueue({"f": torch.randint(0, args.rows, (BATCH,))})
        embedding.dequeue()["f"].square().sum().backward()
        embedding.apply_gradients()
    tte.runtime.sync(wait=True)
    peak = peak_bytes()  # before the tables are read, which needs memory of their size
    tables = 4 * sum(each.numel() for each in embedding.state_dict().values() if each.dim() == 2)
    print(json.dumps({"tables": tables, "start": start, "peak": peak}))


if __name__ == "__main__":
    main()
