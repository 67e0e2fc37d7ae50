"""Messages of every kind that a HostGroup carries, and what arrives: the same for every group."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_tpu_embedding.distributed.group import HostGroup

GATHERED = {
    "float32": torch.tensor([0.25, -1e-30, 3e38]),
    "float64": torch.tensor([0.1, 1e300], dtype=torch.float64),
    "bfloat16": torch.tensor([0.1, 2.0], dtype=torch.bfloat16),
    "int64": torch.tensor([2**62, -1]),
    "int32": torch.tensor([7, -7], dtype=torch.int32),
    "bool": torch.tensor([True, False]),
    "strided": torch.arange(6)[::2],
    "empty": torch.arange(0),
    "long": torch.arange(1000),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8)


def shown(values: Tensor) -> str:
    return f"{values.dtype} {[*values.shape]} {values.tolist()}"


def arrived(group: HostGroup) -> dict[str, str]:
    """The messages that arrive, where they differ between the processes."""
    rank, size = group.rank, group.size
    found = {}
    for name, values in GATHERED.items():
        found[f"gather {name}"] = shown(group.gather(values.roll(rank)))
    pair = [rank, "x" * 3000 * rank]
    told = group.gather_objects({"pair": pair, "tuple": (1, None), "tensor": torch.tensor([rank])})
    found["objects"] = repr(told)
    found["own object"] = repr(told[rank]["pair"] is pair)
    for dtype in DTYPES:
        numbers = torch.arange(100).to(dtype)
        pieces = [numbers[: 2 * (rank + peer) : 2] for peer in range(size)]
        parts = group.all_to_all(pieces, [peer + rank for peer in range(size)])
        found[f"all_to_all {dtype}"] = "; ".join(map(shown, parts))
    for dtype in (torch.float32, torch.float64, torch.int64):
        values = torch.tensor([[1, 2], [rank, 4]]).to(dtype)
        given = group.sum(values)
        found[f"sum {dtype}"] = f"{shown(given)} {given is values}"
    return found
