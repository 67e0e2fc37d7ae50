"""Each of the two processes of test_processes_differ.py; writes what it met to `rank-<rank>.json`."""

from __future__ import annotations

import functools
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from backends import DEVICE
from places import SLOW
from processes.messages import arrived

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed

B, EPOCHS = 4, 40
SCALER = DEVICE != "tpu"
"""torch.amp.GradScaler works on the device: see NO_SCALER in tests/support/backends.py."""


def config(**table: Any) -> dict[str, tte.FeatureConfig]:
    made = tte.TableConfig(20, 4, **{"name": "users", "combiner": "sum", **table})
    return {"user": tte.FeatureConfig(made)}


def make(features: Any = None, optimizer: Any = None, **options: Any) -> tte.TPUEmbedding:
    optimizer = optimizer or tte.Adagrad(0.1)
    return tte.TPUEmbedding(features or config(), B, optimizer, **{"seed": 0, **options})


def normal(std: float) -> Callable[..., torch.Tensor]:
    return lambda shape, dtype: torch.randn(shape, dtype=dtype) * std


def scaled(factor: float) -> Callable[..., torch.Tensor]:
    return functools.partial(torch.nn.init.constant_, val=factor)


DIFFERENT: dict[str, Callable[[bool], tte.TPUEmbedding]] = {
    "learning_rate": lambda o: make(optimizer=tte.Adagrad(0.2 if o else 0.1)),
    "clipvalue": lambda o: make(optimizer=tte.Adagrad(0.1, clipvalue=1.0 if o else None)),
    "weight_decay": lambda o: make(optimizer=tte.SGD(0.1, weight_decay_factor=0.1 if o else None)),
    "accumulator": lambda o: make(
        optimizer=tte.Adagrad(0.1, initial_accumulator_value=0.2 if o else 0.1)
    ),
    "initializer": lambda o: make(config(initializer=normal(0.2 if o else 0.1))),
    "partial": lambda o: make(config(initializer=scaled(0.2 if o else 0.1))),
    "row_id": lambda o: make(config(initializer=tte.RowIdInitializer(int(o)))),
    "quantization": lambda o: make(
        config(quantization_config=tte.QuantizationConfig(8, -1.0, 2.0 if o else 1.0))
    ),
    "id_bounds": lambda o: make(id_bounds="drop" if o else "raise"),
    "each": lambda o: make(optimizer=tte.Adagrad(0.1, use_gradient_accumulation=not o)),
    "pipelining": lambda o: make(pipeline_execution_with_tensor_core=o),
    "depth": lambda o: make(enqueue_depth=3 if o else 2),
    "batch_size": lambda o: tte.TPUEmbedding(config(), 8 if o else 4, tte.SGD(0.1), seed=0),
    "tables": lambda o: make(config(name="items" if o else "users")),
}


def met(work: Callable[[], object]) -> str:
    """The error of some work, as text."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def ids() -> dict[str, torch.Tensor]:
    return {"user": torch.arange(B // distributed.world_size())}


def look_up(embedding: tte.TPUEmbedding) -> None:
    embedding(ids())["user"].sum().backward()


def start_values(other: bool) -> None:
    """Values that no comparison of names or constants can tell."""
    made = make(config(initializer=lambda s, d: torch.full(s, float(os.environ["RANK"]))))
    made.enqueue(ids())


def rates(other: bool) -> None:
    embedding = make()
    look_up(embedding)
    embedding.apply_gradients(learning_rates=[0.3 if other else 0.1])


def calls(other: bool) -> None:
    """One process caught an error, and goes on with the next batch."""
    embedding = make()
    look_up(embedding)
    if other:
        embedding.discard()
        look_up(embedding)
    else:
        embedding.apply_gradients()


def names(other: bool) -> None:
    """The batches of two names are dequeued in another order."""
    embedding = make()
    for name in ("a", "b"):
        embedding.enqueue(ids(), name=name)
    embedding.dequeue("b" if other else "a")


def embeddings(other: bool) -> None:
    """Two embeddings of one configuration, used in another order."""
    found = make(), make()
    found[int(other)].enqueue(ids())


def frozen(other: bool) -> None:
    embedding = make()
    if other:
        embedding.freeze("users")
    look_up(embedding)
    embedding.apply_gradients()


def frozen_at_clipping(other: bool) -> None:
    embedding = make()
    if other:
        embedding.freeze("users")
    look_up(embedding)
    embedding.clip_grad_norm_(1.0)


def frozen_at_accumulating(other: bool) -> None:
    embedding = make()
    look_up(embedding)
    if other:
        embedding.freeze("users")
    embedding.accumulate_gradients()


def limits(other: bool) -> None:
    embedding = make()
    look_up(embedding)
    embedding.clip_grad_norm_(2.0 if other else 1.0)


def clips(other: bool) -> None:
    embedding = make()
    look_up(embedding)
    if other:
        embedding.clip_grad_norm_(1.0)
    embedding.apply_gradients()


def accumulates(other: bool) -> None:
    embedding = make()
    look_up(embedding)
    if other:
        embedding.accumulate_gradients()
    else:
        embedding.apply_gradients()


def micro_batches(other: bool, clip: bool = False) -> None:
    """One process drops what was accumulated."""
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    look_up(embedding)
    embedding.accumulate_gradients()
    if other:
        optimizer.zero_grad()
    look_up(embedding)
    if clip:
        embedding.clip_grad_norm_(1.0)
    optimizer.step()


def scalers(other: bool) -> None:
    """A GradScaler on one process only."""
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    if other:
        scaler = torch.amp.GradScaler("xla")
        scaler.scale(embedding(ids())["user"].sum()).backward()
        scaler.step(optimizer)
    else:
        look_up(embedding)
        optimizer.step()


def scales(other: bool, shared: bool) -> dict[str, Any]:
    """Scales, tables and dense weights where the rows' gradients of one process are infinite at one step.

    Args:
        shared: True to give all processes the smallest scale after each step, as docs/good_to_know.md does.
    """
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 1).to(embedding.device)
    dense = torch.optim.SGD(head.parameters(), 0.1)
    scaler = torch.amp.GradScaler("xla", init_scale=1024.0)
    seen: list[float] = []
    tables: list[list[float]] = []

    def step(number: int) -> None:
        rows = embedding(ids())["user"]
        loss = head(rows).sum() + rows.sum() * (math.inf if other and number == 1 else 1.0)
        scaler.scale(loss / distributed.num_replicas()).backward()
        distributed.sum_gradients(head.parameters())
        scaler.step(optimizer)
        scaler.step(dense)
        scaler.update()
        if shared:
            every = distributed.gather(torch.tensor([scaler.get_scale()]))
            scaler.update(every.min().item())
        seen.append(scaler.get_scale())
        dense.zero_grad()
        optimizer.zero_grad()
        tte.runtime.sync()
        tables.append(embedding.read_rows("users", [1]).tolist()[0])

    error = met(lambda: [step(number) for number in range(3)])
    head_of = [each.detach().cpu().flatten().tolist() for each in head.parameters()]
    return {"error": error, "scales": seen, "tables": tables, "head": head_of}


def bad_rates(other: bool) -> None:
    """A rate that the optimizer of one process refuses."""
    embedding = make()
    optimizer = tte.EmbeddingOptimizer(embedding)
    look_up(embedding)
    optimizer.param_groups[0]["lr"] = -1.0 if other else 0.1
    optimizer.step()


def sizes(other: bool) -> None:
    """Messages of any sizes, each for itself: gloo would end the program."""
    group = make()._tables.engine.exchange.group
    if other:
        group.gather_objects("x" * 10_000)
    else:
        group.all_to_all([torch.zeros(5), torch.zeros(7)], [5, 7])


OUT_OF_STEP = {
    "start values": start_values,
    "rates": rates,
    "calls": calls,
    "names": names,
    "embeddings": embeddings,
    "sizes": sizes,
    "frozen": frozen,
    "frozen at clipping": frozen_at_clipping,
    "frozen at accumulating": frozen_at_accumulating,
    "limits": limits,
    "clips": clips,
    "accumulates": accumulates,
    "micro-batches": micro_batches,
    "clipped micro-batches": lambda other: micro_batches(other, clip=True),
    **({"scalers": scalers} if SCALER else {}),
    "bad rates": bad_rates,
}


def many_loaders() -> list[int]:
    """Threads, open files and groups after each of some epochs, every one with a loader of its own."""
    embedding = make()

    def drain(count: int) -> None:
        for _ in tte.EmbeddingLoader([ids()] * count, embedding):
            embedding.dequeue()
            embedding.discard()

    found = []
    for epoch in range(EPOCHS):
        drain(2 if epoch < 3 else 1)
        if epoch in (2, EPOCHS - 1):
            found += [
                len(os.listdir("/proc/self/fd")),
                len(os.listdir("/proc/self/task")),
                len(dist.distributed_c10d._world.pg_map),  # type: ignore[attr-defined]
            ]
    return found


def appears(path: Path) -> bool:
    """Wait for a file; False if it does not come."""
    deadline = time.monotonic() + 30 * SLOW
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def fail_in_one_loop(other: bool, directory: Path) -> dict[str, Any]:
    """One process leaves its loop by an error while the data of the other waits until it has left."""
    waits, left = directory / "waits", directory / "left"
    embedding = make(enqueue_depth=9)
    waited: queue.Queue[bool] = queue.Queue()

    def data() -> Iterator[dict[str, torch.Tensor]]:
        yield ids()
        waits.touch()
        waited.put(appears(left))
        yield from [ids()] * 7

    def loop() -> None:
        for _ in tte.EmbeddingLoader(data() if not other else [ids()] * 8, embedding):
            if other:
                assert appears(waits)
                raise ZeroDivisionError("mine")
            embedding.discard()

    error = met(loop)
    if other:
        left.touch()
        return {"error": error}
    return {"error": error, "data waited until the other had left": waited.get(timeout=30 * SLOW)}


def leave_open(other: bool) -> Iterator[Any]:
    """A loop that has not ended: the thread of one process waits for its data, that of the other for it."""

    def data() -> Iterator[dict[str, torch.Tensor]]:
        yield ids()
        if other:
            threading.Event().wait()
        yield ids()

    iterator = iter(tte.EmbeddingLoader(data(), make()))
    next(iterator)
    return iterator


def main(directory: Path) -> None:
    other = distributed.rank() == 1
    found: dict[str, Any] = {
        "different": {name: met(lambda m=m: m(other)) for name, m in DIFFERENT.items()},  # type: ignore[misc]
        "out of step": {name: met(lambda w=w: w(other)) for name, w in OUT_OF_STEP.items()},  # type: ignore[misc]
        "loaders": many_loaders(),
        "loop": fail_in_one_loop(other, directory),
        "floats": make()
        ._tables.engine.exchange.group.gather(torch.tensor([0.25, -1e-30, 3e38]))
        .tolist(),
        "messages": arrived(make()._tables.engine.exchange.group),
        "scales": {name: scales(other, name == "shared") for name in ("own", "shared") if SCALER},
        "then": met(lambda: look_up(make())),
    }
    (directory / f"rank-{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.initialize(timeout=timedelta(seconds=60 * SLOW))
    main(Path(sys.argv[1]))
    still_open = leave_open(distributed.rank() == 1)
    distributed.shutdown()
