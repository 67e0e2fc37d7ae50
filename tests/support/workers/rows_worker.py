"""Each process of test_rows_everywhere.py: `rows_worker.py DIRECTORY` writes what it read, wrote and found.

Letters: V vocabulary.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed
from torch_tpu_embedding.distributed.group import PeerError
from torch_tpu_embedding.distributed.placement import Strategy
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.access import scoring

BATCH = 12
ROWS = {"items": 203, "few": 2}
IDS = torch.arange(41) * 7 % 203
WRITTEN = torch.arange(0, 203, 9)


def whole_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Numbers of which products and sums are exact, and many equal."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def queries() -> Tensor:
    return whole_numbers((9, 5), torch.float32)


def part(values: Tensor) -> slice:
    """This process's part of some values; the last process takes none."""
    processes = 1 if tte.runtime.is_spmd() else distributed.world_size()
    if processes == 1:
        return slice(None)
    size = -(-len(values) // (processes - 1))
    return slice(distributed.rank() * size, (distributed.rank() + 1) * size)


def make(strategy: Strategy, layout: DeviceKind, pipelined: bool = False) -> tte.TPUEmbedding:
    features = {
        name: tte.FeatureConfig(tte.TableConfig(rows, 5, name=name, initializer=whole_numbers))
        for name, rows in ROWS.items()
    }
    return tte.TPUEmbedding(
        features,
        BATCH,
        tte.Adagrad(0.1),
        seed=0,
        sharding=strategy,
        layout=layout,
        pipeline_execution_with_tensor_core=pipelined,
    )


def calls(strategy: Strategy, layout: DeviceKind) -> dict[str, Any]:
    """The result of each call."""
    embedding = make(strategy, layout)
    found: dict[str, Any] = {}

    def all_calls() -> None:
        mine, asked = IDS[part(IDS)], queries()[part(queries())]
        found["read"] = embedding.read_rows("items", mine)
        found["few"] = embedding.table_weight("few")
        found["range"] = embedding.table_weight("items", 3, 170)
        found["best"] = embedding.top_k("items", asked, 6)
        found["best in range"] = embedding.top_k("items", asked, 5, start=20, stop=60)
        found["best of few"] = embedding.top_k("few", asked, 2)
        written = WRITTEN[part(WRITTEN)]
        values = written[:, None] / torch.ones(5)
        embedding.write_rows("items", written, values, reset_slots=True)
        embedding.write_rows("few", [1], torch.ones(1, 5))  # the same in every process
        found["written"] = embedding.table_weight("items")
        embedding.write_rows("items", range(203), whole_numbers((203, 5), torch.float32))

    all_calls()
    all_calls()
    compiled = tte.runtime.compile_count()
    all_calls()
    found["late_compiles"] = tte.runtime.compile_count() - compiled
    found["fallbacks"] = tte.runtime.cpu_fallbacks()
    return found


def held_updates() -> dict[str, Any]:
    """A step whose update a pipeline holds back, seen by each call."""
    embedding = make("mod", "CPU", pipelined=True)
    ids = torch.zeros(embedding.local_batch_size, dtype=torch.int64)
    embedding.enqueue(dict.fromkeys(ROWS, ids))
    sum(each.sum() for each in embedding.dequeue().values()).backward()
    embedding.apply_gradients()
    tte.runtime.sync()
    return {"read": embedding.read_rows("items", [0]), "whole": embedding.table_weight("few")}


def errors() -> list[str]:
    """The errors of this process where one process is wrong, or they differ."""
    embedding, rank, found = make("mod", "CPU"), distributed.rank(), []
    values = torch.full((1, 5), float(rank))
    for call in (
        lambda: embedding.read_rows("items", [203 if rank == 1 else 1]),
        lambda: embedding.write_rows("items", [1], values),
        lambda: embedding.table_weight("items", rank),
        lambda: embedding.top_k("items", queries(), 1 + rank),
        lambda: embedding.read_rows("few" if rank else "items", [1]),
    ):
        try:
            call()
        except (ValueError, PeerError) as error:
            found.append(f"{type(error).__name__}: {error}")
    untouched = embedding.table_weight("items")
    assert torch.equal(untouched, whole_numbers((203, 5), torch.float32))
    return found


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    distributed.initialize()
    found: dict[str, Any] = {
        f"{strategy} {layout}": calls(strategy, layout)
        for strategy, layout in (("mod", "CPU"), ("div", "TPU"))
    }
    found["held"] = held_updates()
    found["errors"] = errors() if distributed.world_size() > 1 else []
    torch.save(found, directory / f"rank-{distributed.rank()}.pt")
    distributed.shutdown()


if __name__ == "__main__":
    scoring._CHUNK_BYTES = 1 << 9
    main(Path(sys.argv[1]))
