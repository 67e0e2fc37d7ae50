"""Run by test_replicas.py: `replicas_worker.py REPLICAS`, the program of a process for each chip.

On TPU `Process` exchanges rows inside the program. XLA:CPU has such programs between threads of a process,
each with a device of its own, so here a thread stands for a process. That works only if dispatch is
synchronous, threads are plenty, all replicas have the same program, and all come to every sync before one
compiles at a time; otherwise replicas wait for each other for ever.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from typing import Any

os.environ["PJRT_DEVICE"] = "CPU"
os.environ["CPU_NUM_DEVICES"] = sys.argv[1]
os.environ["PJRT_CPU_ASYNC_CLIENT"] = "0"
os.environ["XLA_THREAD_POOL_SIZE"] = "32"

import torch
import torch_xla
from models import helpers
from models.laws import LAYOUTS, Batch, Fast, config, step_of_several
from models.laws import OPTIMIZERS as ALL_OPTIMIZERS
from places import SLOW
from processes.worlds import Board, ThreadGroup
from torch_xla._internal import pjrt

from torch_tpu_embedding import runtime
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.distributed.placement import STRATEGIES
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.tables import store
from torch_tpu_embedding.tables.start_values import start_values

REPLICAS = int(sys.argv[1])
OPTIMIZERS = ["sgd", "adagrad", "rowwise", "adam", "ftrl", "adagrad-each", "adam-not-lazy"]
SAMPLES = 4
STEPS = 3
TOGETHER = threading.Barrier(REPLICAS)
ONE_AT_A_TIME = threading.Lock()


def sync(wait: bool = False) -> None:
    """End the step in all replicas."""
    TOGETHER.wait(timeout=30 * SLOW)
    with ONE_AT_A_TIME:
        torch_xla.sync()
    TOGETHER.wait(timeout=30 * SLOW)


def make_batch(rng: random.Random, samples: int, least: int) -> Batch:
    """Bags of `least` to 4 ids for `config`."""
    return [
        [
            [
                (
                    rng.randrange(each.table.vocabulary_size),
                    1.0 if each.max_sequence_length else rng.choice([0.5, 1.0, 3.0]),
                )
                for _ in range(rng.randint(least, 4))
            ]
            for _ in range(samples)
        ]
        for each in config(ALL_OPTIMIZERS["sgd"])
    ]


def look_up(engine: Engine, resolved: Any, batch: Batch, kind: str) -> Any:
    """The looked-up batch, and its activations."""
    ids, weights = helpers.as_inputs(batch, kind)
    bags = [
        parse(f, resolved.table_of(f), i, None if f.max_sequence_length else w)
        for f, i, w in zip(resolved.features, ids, weights, strict=True)
    ]
    return engine.look_up(engine.send(bags))


def train(group: ThreadGroup, number: int) -> dict[str, Any]:
    """One optimizer: some steps of this replica next to the plain engine on the whole batch."""
    name = OPTIMIZERS[number]
    optimizer, layout = ALL_OPTIMIZERS[name], LAYOUTS[number % 2]
    kind, strategy = helpers.KINDS[number % 3], STRATEGIES[number // 2 % 2]
    resolved = resolve(config(optimizer), optimizer)
    device = torch_xla.device()
    with ONE_AT_A_TIME:
        store._live_sizes.clear()  # of the other replicas, which would be other processes
        exchange = Process(device, group, in_program=True)
        engine = Engine(resolved, device, layout, exchange, strategy)
    ids = engine.store.ids
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
    plain = Fast(config(optimizer), optimizer, layout)
    sync()
    rng = random.Random(number)
    mine = slice(group.rank * SAMPLES, (group.rank + 1) * SAMPLES)
    equal_bits, compiled = True, 0
    for step in range(STEPS):
        whole = make_batch(rng, SAMPLES * REPLICAS, least=0 if step else 4)
        wanted = plain.step(whole, kind)
        gradients = [helpers.gradient_of(each)[mine].to(device) for each in wanted]
        looked_up, activations = look_up(engine, resolved, [f[mine] for f in whole], kind)
        engine.update(looked_up, gradients, current_rates(resolved.tables))
        sync()
        if step == 0:
            found = [each.cpu() for each in activations]
            equal_bits = all(
                torch.equal(each, there[mine]) for each, there in zip(found, wanted, strict=True)
            )
            sync()  # fetching compiles too
            compiled = runtime.compile_count()
        del looked_up, activations
    compiled = runtime.compile_count() - compiled
    distance = 0.0
    held = engine.store.read()
    for t, table in enumerate(resolved.tables):
        for field, value in held[t].items():
            all_rows = plain.state()[f"{table.name}.{field}"]
            rows = all_rows[ids(t).start : ids(t).stop : ids(t).step]
            if len(rows):
                distance = max(distance, float((value - rows).abs().max() / all_rows.abs().max()))
    return {
        "optimizer": name,
        "layout": layout,
        "activations_equal_to_the_bit": equal_bits,
        "table_distance": distance,
        "compiled_after_first_step": compiled,
        "one_program": not name.endswith("-each"),
    }


def norm_of_several(group: ThreadGroup) -> tuple[float, float]:
    """The norm of the gradient of two micro-batches, and that of one device with all samples."""
    optimizer = ALL_OPTIMIZERS["adagrad"]
    resolved = resolve(config(optimizer), optimizer)
    device = torch_xla.device()
    with ONE_AT_A_TIME:
        store._live_sizes.clear()
        engine = Engine(resolved, device, "CPU", Process(device, group, in_program=True))
    ids = engine.store.ids
    engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
    plain = Fast(config(optimizer), optimizer, "CPU")
    sync()
    rng = random.Random(0)
    micro = [[make_batch(rng, SAMPLES, 1) for _ in range(REPLICAS)] for _ in range(2)]
    mine = [parts[group.rank] for parts in micro]
    norm = step_of_several(engine, resolved, mine, "ragged", limit=1.0)
    every = [part for parts in micro for part in parts]
    return norm, step_of_several(plain.engine, plain.resolved, every, "ragged", limit=1.0)


def exchange_infinity(group: ThreadGroup) -> int:
    """How many numbers of a second exchange are finite if the first one exchanges an infinite one."""
    device = torch_xla.device()
    first = torch.ones(REPLICAS, 4, 8)
    first[0, 0, 0] = float("inf") if group.rank == 0 else 1.0
    second = torch.ones(REPLICAS, 2, 8)
    blocks = [first.to(device), second.to(device)]
    received = Process(device, group, in_program=True).all_to_all(blocks)
    sync()
    return int(torch.isfinite(received[1].cpu()).sum())


def run_replicas(board: Board, results: list[Any]) -> None:
    """The work of each thread."""
    group = ThreadGroup(board, torch_xla.runtime.global_ordinal())
    trained = [train(group, number) for number in range(len(OPTIMIZERS))]
    results[group.rank] = {"trained": trained, "finite": exchange_infinity(group)}
    results[group.rank]["norms"] = norm_of_several(group)


def main() -> None:
    """Run all replicas, print what they found."""
    torch.set_num_threads(1)
    runtime.sync = sync
    results: list[Any] = [None] * REPLICAS
    board = Board(REPLICAS)
    pjrt._run_thread_per_device(
        0, 1, lambda: run_replicas(board, results), pjrt._initialize_single_process
    )
    print(json.dumps(results), flush=True)
    os._exit(0)  # the threads of the runtime would wait for each other


if __name__ == "__main__":
    main()
