#!/usr/bin/env python3
"""Trace one training step, and say what its compiled program does to the tables.

The step is enqueue, dequeue, a small dense head, backward and apply_gradients. XLA's CPU compiler writes
its program to --out; this script counts there, for each physical array of the tables, the gathers that
read it, the scatters that write it, the instructions that copy it, and whether it is updated in place
(donated). With --layout TPU the step is laid out as for a TPU; the file named at the end of the output
(*.before_optimizations.hlo.pb) is what a TPU compiler takes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

OPTIMIZERS = ["SGD", "Adagrad", "RowWiseAdagrad", "AdagradMomentum", "Adam", "FTRL"]


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
    parser.add_argument("--dim", type=int, default=64, help="D of every table")
    parser.add_argument("--tables", type=int, default=1, help="tables, with one feature each")
    parser.add_argument("--vocabulary", type=int, default=1 << 20, help="V of every table")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument(
        "--ids-per-sample", type=int, default=0, help="0: dense features; else ragged bags"
    )
    parser.add_argument(
        "--unique", type=float, default=0.5, help="distinct ids, as share of all ids"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    arrays = trace(args)
    report = inspect(args.out, arrays)
    report["settings"] = {key: str(value) for key, value in vars(args).items()}
    if args.json:
        print(json.dumps(report))
        return
    for array in report["arrays"]:
        print("  ".join(f"{key} {value}" for key, value in array.items()))
    print(f"temporary bytes {report['temporary_bytes']:,}; programs {report['programs']}")
    print(report["proto"])


def trace(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the step once with dumping on; gives shape and fields of each physical array."""
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    flags = f"--xla_dump_to={args.out} --xla_dump_hlo_as_text --xla_dump_hlo_as_proto"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    import torch

    import torch_tpu_embedding as tte

    torch.manual_seed(0)
    features = [
        tte.FeatureConfig(
            tte.TableConfig(args.vocabulary, args.dim, initializer=torch.zeros, combiner="sum")
        )
        for _ in range(args.tables)
    ]
    optimizer = getattr(tte.optimizers, args.optimizer)(0.05)
    embedding = tte.TPUEmbedding(features, args.batch_size, optimizer, layout=args.layout)
    count = args.batch_size * max(args.ids_per_sample, 1)
    inputs: list[Any] = []
    for _ in features:
        pool = torch.randperm(args.vocabulary)[: max(1, int(count * args.unique))]
        ids = pool[torch.randint(0, len(pool), (count,))]
        lengths = torch.full((args.batch_size,), args.ids_per_sample)
        inputs.append(tte.Ragged.from_lengths(ids, lengths) if args.ids_per_sample else ids)
    device = tte.runtime.device()
    hidden = torch.randn(args.dim * args.tables, 32).to(device)
    head = torch.randn(32, 1).to(device)

    def step() -> None:
        embedding.enqueue(inputs)
        activations = torch.cat(embedding.dequeue(), dim=1)
        loss = ((torch.relu(activations @ hidden) @ head) ** 2).mean()
        loss.backward()
        embedding.apply_gradients()

    step()
    tte.runtime.sync(wait=True)
    return [
        {"fields": "|".join(array.fields), "shape": [*array.shape]}
        for stack in embedding.engine.store.stacks
        for array in stack.arrays
    ]


def inspect(folder: Path, arrays: list[dict[str, Any]]) -> dict[str, Any]:
    """Read the dumped program of the step."""
    programs = [
        path
        for path in folder.glob("*after_optimizations.txt")
        if "buffer-assignment" not in path.name
    ]
    program = max(programs, key=lambda path: path.stat().st_size)
    text = program.read_text()
    shapes = dict(re.findall(r"(%[\w.-]+) = (\w+\[[\d,]*\])", text))
    alias = re.search(r"input_output_alias=\{(.*?)\}, entry", text.split("\n", 1)[0])
    aliased = {int(n) for n in re.findall(r"\((\d+), \{\}", alias[1] if alias else "")}
    entry = text[text.index("\nENTRY ") :]
    parameters = re.findall(r"= (\w+\[[\d,]*\])\S* parameter\((\d+)\)", entry)
    results = []
    for array in arrays:
        shape = "f32[{}]".format(",".join(map(str, array["shape"])))
        operands = re.findall(r" gather\((?:\S+ )?(%[\w.-]+),", text)
        copies = rf"= {re.escape(shape)}\S* (?:copy|transpose|concatenate|select)\("
        results.append(
            {
                "fields": array["fields"],
                "shape": array["shape"],
                "gathers": sum(shapes.get(name) == shape for name in operands),
                "scatters": len(re.findall(rf"= {re.escape(shape)}\S* scatter\(", text)),
                "copies": len(re.findall(copies, text)),
                "donated": any(s == shape and int(n) in aliased for s, n in parameters),
            }
        )
    assignment = program.with_name(program.stem + "-buffer-assignment.txt").read_text()
    temporaries = re.findall(r"allocation \d+: size (\d+), preallocated-temp", assignment)
    before = program.name.replace("after_optimizations.txt", "before_optimizations.hlo.pb")
    before = re.sub(r"\.cpu_", ".", before)
    return {
        "arrays": results,
        "temporary_bytes": sum(map(int, temporaries)),
        "programs": len(programs),
        "proto": str(folder / before),
    }


if __name__ == "__main__":
    main()
