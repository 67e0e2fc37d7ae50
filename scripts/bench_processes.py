#!/usr/bin/env python3
"""How much do several processes, or several devices, cost; and how much would a TPU slice exchange?

Measured: each workload with 1, 2 and 4 processes (as torchrun starts them, gloo between them) and with
1, 2 and 4 virtual devices of one process (SPMD), the global batch the same for all: median step time, its
ratio to one process, host time (checking, deduplicating and exchanging ids, and the copy to the device),
bytes that a device sends to others in a step, unique rows, and the share of padding in these bytes. All of
them run on the cores of this machine: with few cores the times show overhead, never a gain.

Modelled: the host code plans batches for 4 to 256 chips, without devices; a chip's batch is that of the
workload divided by 8 (so the global batch grows with the chips). Of the bytes n that a chip sends (rows and
gradients of one step, padding included) follows the least time of the all-to-alls,

    seconds = max(n / (p · w), max over dimensions of n · k / (4 · c · w))

for w bytes/s of one link in one direction, p links of the chip that has fewest, and dimensions of k > 1
chips, where c is 2 if they close to a ring and 1 if not. The first is the time for a chip to send its
bytes; the second, for bytes to cross the middle of a dimension: half the chips send half their bytes
through c · chips / k links. Links: v5e 50 GB/s, v6e 100 GB/s, v5p 100 GB/s, which is the ICI bandwidth per
chip of Google's Cloud TPU documentation (400, 800 and 1200 GB/s, both directions together) over 4, 4 and 6
links of two directions. Rings: v5e and v6e in dimensions of 16 chips, v5p where every dimension is a
multiple of 4. A model, not a measurement: it leaves out latency and all other work.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from support.command_line import make_parser
from support.machine import describe_machine
from support.paths import output_file
from support.workloads import WORKLOADS, Workload, capped_criteo, part

LINKS = {"v5e": 50e9, "v6e": 100e9, "v5p": 100e9}
"""Bytes/s of a link in one direction."""
SHAPES_2D = {4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
SHAPES_3D = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8),
    256: (4, 8, 8),
}  # fmt: skip
HIDDEN = 16


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.worker:
        work(args)
        return
    from tqdm import tqdm

    print(f"{os.cpu_count()} cores; times show overhead only")
    measured = measure_all(args)
    modelled = []
    slices = [(name, chips) for name in args.modelled for chips in args.chips]
    for name, chips in tqdm(slices, desc="modelled", leave=False):
        modelled.append({"workload": name, "chips": chips, **model(WORKLOADS[name], chips)})
        tqdm.write(json.dumps(modelled[-1]))
    if args.json:
        settings = {key: str(value) for key, value in vars(args).items()}
        result = {"settings": settings, "machine": describe_machine()}
        args.json.write_text(json.dumps({**result, "measured": measured, "modelled": modelled}))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add, names = parser.add_argument, [*WORKLOADS]
    add("--workloads", nargs="*", choices=names, default=names, help="workloads to measure")
    add(
        "--processes",
        type=int,
        nargs="*",
        default=[1, 2, 4],
        help="numbers of processes to measure",
    )
    add(
        "--devices",
        type=int,
        nargs="*",
        default=[2, 4],
        help="numbers of devices of SPMD to measure",
    )
    add("--steps", type=int, default=12, help="timed steps")
    add("--warm-up", type=int, default=4, help="untimed steps")
    text = "where dcnv2-capped is measured, rows of a table, at most"
    add("--cap", type=int, default=100_000, help=text)
    text = "where dcnv2-capped is measured, samples in a step"
    add("--batch-size", type=int, default=256, help=text)
    add("--seconds", type=int, default=600, help="limit of one measurement")
    text = "sizes of the slices to model"
    add("--chips", type=int, nargs="*", choices=[*SHAPES_2D], default=[4, 16, 64, 256], help=text)
    add("--modelled", nargs="*", choices=names, default=names, help="workloads to model")
    add("--json", type=output_file, metavar="FILE", help="write settings and results")
    add("--worker", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every workload on every number of processes and devices; prints each as it comes."""
    from tqdm import tqdm

    cases = [
        (name, kind, count)
        for name in args.workloads
        for kind, counts in (("processes", args.processes), ("devices", args.devices))
        for count in counts
    ]
    measured = []
    for name, kind, count in tqdm(cases, desc="measured", leave=False):
        found = {"workload": name, kind: count, **measure(args, name, kind, count)}
        measured.append(found)
        tqdm.write(json.dumps(found))
    for found in measured:
        alone = [
            m for m in measured if m["workload"] == found["workload"] and m.get("processes") == 1
        ]
        if alone and "step_ms" in found and "step_ms" in alone[0]:
            found["ratio"] = found["step_ms"] / alone[0]["step_ms"]
    return measured


def measure(args: argparse.Namespace, name: str, kind: str, count: int) -> dict[str, Any]:
    """Run one case in processes of its own; returns the results that the first prints, or the failure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name]
    for option in ("steps", "warm_up", "cap", "batch_size"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    workers = []
    for rank in range(count if kind == "processes" else 1):
        environment = {**os.environ, "CPU_NUM_DEVICES": str(count if kind == "devices" else 1)}
        if kind == "processes" and count > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        output = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        workers.append(
            subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.DEVNULL, text=True
            )
        )
    try:
        printed = workers[0].communicate(timeout=args.seconds)[0]
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {args.seconds} s"}
    finally:
        for worker in workers:
            worker.kill()
    if workers[0].returncode:
        return {"failed": f"exit status {workers[0].returncode}"}
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])  # gloo prints, too
    return found


def work(args: argparse.Namespace) -> None:
    """Train as one process of a case; process 0 prints the results."""
    import torch
    from support.traffic import as_json, count_traffic

    import torch_tpu_embedding as tte
    from torch_tpu_embedding import distributed, runtime

    torch.set_num_threads(1)
    distributed.initialize()
    workload = WORKLOADS[args.worker]
    if workload.name == "dcnv2-capped":
        workload = capped_criteo(args.cap, args.batch_size)
    embedding = tte.TPUEmbedding(
        workload.features(), workload.batch_size, tte.Adagrad(0.05), seed=0
    )
    embedding.build()
    draw = workload.batches(seed=0)
    width = sum((each.ids if each.sequence else 1) for each in workload.inputs) * workload.dim
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(width, HIDDEN, generator=generator).to(embedding.device)
    replicas = distributed.num_replicas()
    steps, hosts, compiled = [], [], 0
    for number in range(args.warm_up + args.steps):
        if number == args.warm_up:
            compiled = runtime.compile_count()
        inputs = part(draw(), distributed.rank(), distributed.world_size())
        start = time.perf_counter()
        embedding.enqueue(inputs)
        hosts.append(1e3 * (time.perf_counter() - start))
        rows = torch.cat([each.flatten(1) for each in embedding.dequeue()], dim=1)
        batch = embedding._steps.queue.require_awaiting(None).looked_up.batch
        shapes, records = batch.shapes, batch.records
        (torch.tanh(rows @ hidden).square().mean() / replicas).backward()
        embedding.apply_gradients()
        del rows, batch
        runtime.sync(wait=True)
        steps.append(1e3 * (time.perf_counter() - start))
    bags = embedding._steps.parse(inputs, None)
    traffic = count_traffic(embedding.resolved, embedding.placement, shapes, bags)
    per_device = embedding.placement.local_devices
    found = {
        "step_ms": statistics.median(steps[args.warm_up :]),
        "host_ms": statistics.median(hosts[args.warm_up :]),
        "compiled_after_warm_up": runtime.compile_count() - compiled,
        "unique_rows": sum(len(part) for stack in records for part in stack) // per_device,
        **as_json(traffic),
    }
    print(json.dumps(found), flush=True)
    distributed.shutdown()


def model(workload: Workload, chips: int) -> dict[str, Any]:
    """Plan batches for a slice on the host; returns bytes and the least times of the all-to-alls."""
    from support.traffic import count_traffic

    import torch_tpu_embedding as tte
    from torch_tpu_embedding.batch.batcher import Batcher
    from torch_tpu_embedding.config.resolved import resolve
    from torch_tpu_embedding.distributed.group import Alone
    from torch_tpu_embedding.distributed.placement import Placement
    from torch_tpu_embedding.inputs.bags import parse
    from torch_tpu_embedding.tables.layout import build_stacks

    resolved = resolve(workload.features(), tte.Adagrad(0.05))
    placement = Placement(local_devices=chips)
    stacks = build_stacks(resolved.tables, "TPU", (), placement)
    batcher = Batcher(resolved, stacks, placement, Alone())
    size = workload.batch_size // 8 * chips
    draw = workload.batches(seed=0, batch_size=size)
    for _ in range(2):
        bags = [
            parse(feature, resolved.table_of(feature), value, None)
            for feature, value in zip(resolved.features, draw(), strict=True)
        ]
        batch = batcher.make(bags)
    traffic = count_traffic(resolved, placement, batch.shapes, bags)
    times = {kind: 1e6 * least_seconds(kind, chips, traffic.sent) for kind in LINKS}
    return {
        "batch_size": size,
        "rows_asked": round(traffic.asked),
        "bytes_sent": traffic.sent,
        "padding": round(traffic.padding, 4),
        "microseconds": {kind: round(value, 1) for kind, value in times.items()},
    }


def least_seconds(kind: str, chips: int, sent: float) -> float:
    """Seconds of the all-to-alls by the formula of this file's docstring, if a chip sends `sent` bytes.

    >>> round(1e6 * least_seconds("v5e", 256, 1e6), 1)
    40.0
    """
    shape = SHAPES_3D[chips] if kind == "v5p" else SHAPES_2D[chips]
    cube = all(side % 4 == 0 for side in shape)
    sides = [side for side in shape if side > 1]
    closed = [2 if (cube if kind == "v5p" else side == 16) else 1 for side in sides]
    link = LINKS[kind]
    crossing = (sent * side / (4 * c * link) for side, c in zip(sides, closed, strict=True))
    return max(sent / (sum(closed) * link), *crossing)


if __name__ == "__main__":
    main()
