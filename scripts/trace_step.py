#!/usr/bin/env python3
"""Trace one training step, and say what its compiled program does to the tables.

The step is enqueue, dequeue, a small dense head, backward and apply_gradients. XLA's CPU compiler writes
its program to --out; this script counts there, for each physical array of the tables, the gathers that
read it, the scatters that write it, the instructions that copy it, and whether it is updated in place
(donated), and lists what moves between devices. With --layout TPU the step is laid out as for a TPU; the
file named at the end of the output (*.before_optimizations.hlo.pb) is what a TPU compiler takes.

--devices N: one partitioned program over N virtual devices, run once. --replicas N: the program that each
of N processes of a TPU has, one process for each chip, obtained without running it: this process traces
alone as process 0, its peers are made up, XLA compiles the program and dumps it. The launch that follows is
refused by the runtime, which has but one device (a line in the log says so), and nothing waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hlo_report import dump_flags, inspect

if TYPE_CHECKING:
    import torch
    from torch import Tensor

OPTIMIZERS = ["SGD", "Adagrad", "RowWiseAdagrad", "AdagradMomentum", "Adam", "FTRL"]
HIDDEN = 32
"""Width of the dense head."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the dumps; emptied first"
    )
    parser.add_argument("--layout", choices=["CPU", "TPU"], default="CPU")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="Adagrad")
    parser.add_argument(
        "--dim",
        type=int,
        nargs="+",
        default=[64],
        help="D of the tables, in turn if there are several",
    )
    parser.add_argument("--tables", type=int, default=1, help="tables, with one feature each")
    parser.add_argument("--vocabulary", type=int, default=1 << 20, help="V of every table")
    parser.add_argument("--batch-size", type=int, default=4096, help="of all devices")
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--devices", type=int, default=1, help="virtual devices of one program (SPMD)"
    )
    many.add_argument("--replicas", type=int, default=1, help="processes, one a chip; not run")
    parser.add_argument(
        "--ids-per-sample", type=int, default=0, help="0: dense features; else ragged bags"
    )
    parser.add_argument(
        "--unique", type=float, default=0.5, help="ids to draw from, as share of all ids of a table"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    traced = trace(args)
    report = {**traced, **inspect(args.out, traced["arrays"])}
    report["settings"] = {key: str(value) for key, value in vars(args).items()}
    if args.json:
        print(json.dumps(report))
        return
    for array in report["arrays"]:
        print("  ".join(f"{key} {value}" for key, value in array.items()))
    for moved in (*report["exchanged"], *report["collectives"]):
        print("  ".join(f"{key} {value}" for key, value in moved.items()))
    print(f"temporary bytes {report['temporary_bytes']:,}; programs {report['programs']}")
    print(report["proto"])


def trace(args: argparse.Namespace) -> dict[str, Any]:
    """Compile the step once with dumping on; gives its physical arrays and what it exchanges."""
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump_flags(args.out)}".strip()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    if args.devices > 1:
        os.environ["CPU_NUM_DEVICES"] = str(args.devices)
    import torch
    from traffic import bytes_sent

    import torch_tpu_embedding as tte

    torch.manual_seed(0)
    if args.devices > 1:
        tte.runtime.use_spmd()
    if args.replicas > 1:
        pretend_replicas(args.replicas)
    features = [
        tte.FeatureConfig(
            tte.TableConfig(
                args.vocabulary,
                args.dim[number % len(args.dim)],
                initializer=torch.zeros,
                combiner="sum",
            )
        )
        for number in range(args.tables)
    ]
    optimizer = getattr(tte.optimizers, args.optimizer)(0.05)
    embedding = tte.TPUEmbedding(features, args.batch_size, optimizer, layout=args.layout)
    samples = embedding.local_batch_size
    count = samples * max(args.ids_per_sample, 1)
    all_ids = args.batch_size * max(args.ids_per_sample, 1)
    inputs: list[Any] = []
    for _ in features:
        pool = torch.randperm(args.vocabulary)[: max(1, int(all_ids * args.unique))]
        ids = pool[torch.randint(0, len(pool), (count,))]
        lengths = torch.full((samples,), args.ids_per_sample)
        inputs.append(tte.Ragged.from_lengths(ids, lengths) if args.ids_per_sample else ids)
    device = tte.runtime.device()
    hidden = torch.randn(sum(feature.table.dim for feature in features), HIDDEN).to(device)
    head = torch.randn(HIDDEN, 1).to(device)
    several = max(args.devices, args.replicas) > 1
    hidden.requires_grad_(
        several
    )  # so that the sum of dense gradients over devices is in the program
    sizes: tuple[Any, ...] = ()

    def step() -> None:
        nonlocal sizes
        embedding.enqueue(inputs)
        activations = embedding.dequeue()
        sizes = embedding._queue.require_awaiting(None).looked_up.batch.sizes
        loss = ((torch.relu(torch.cat(activations, dim=1) @ hidden) @ head) ** 2).mean()
        (loss / args.replicas).backward()
        embedding.apply_gradients()
        if hidden.grad is not None:
            gradient = hidden.grad
            if args.replicas > 1:
                gradient = tte.runtime.sum_over_processes(gradient)
            hidden.grad = None
            with torch.no_grad():
                hidden.sub_(gradient * 0.1)

    step()
    tte.runtime.sync(wait=args.replicas == 1)
    devices = embedding.placement.num_devices
    return {
        "arrays": [
            {"fields": "|".join(array.fields), "shape": [*array.shape]}
            for stack in embedding.engine.store.stacks
            for array in stack.arrays
        ],
        "exchanged": [
            {
                "slots": each.num_slots,
                "dim": each.plan.stack.dim,
                "unique_rows": each.num_unique,
                "bytes_sent": bytes_sent(each, devices),
            }
            for each in sizes
            if devices > 1
        ],
        "head_elements": hidden.numel(),
    }


def pretend_replicas(count: int) -> None:
    """Let this process trace as process 0 of a TPU's, one for each chip."""
    os.environ["XLA_ALWAYS_ALLREDUCE"] = "1"  # torch_xla leaves them out where it sees one device
    from torch_tpu_embedding import table_module
    from torch_tpu_embedding.exchange import Exchange, Process

    def process_of_tpu(device: torch.device, process_group: object) -> Exchange:
        return Process(device, MadeUpPeers(count), in_program=True)

    table_module.choose_exchange = process_of_tpu  # type: ignore[assignment]


class MadeUpPeers:
    """A host group of which only process 0 exists: the others send what it sends, of other records.

    The values do not matter, since the program is compiled and never run; the sizes do.
    """

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def gather(self, values: Tensor) -> Tensor:
        return values.expand(self.size, -1)

    def gather_objects(self, value: Any) -> list[Any]:
        return [value] * self.size

    def all_to_all(self, pieces: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        mine = pieces[0]
        return [(mine + 7919 * peer) % (mine.max() + 1) for peer in range(self.size)]

    def sum(self, values: Tensor) -> Tensor:
        return values * self.size


if __name__ == "__main__":
    main()
