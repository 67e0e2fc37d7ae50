#!/usr/bin/env python3
"""Trace one training step, and count in its compiled program how the tables are read and written.

The step is enqueue, dequeue, a small dense head, backward and apply_gradients. XLA's CPU compiler writes
its program to --out; this script counts there, for each physical array of the tables, the gathers that
read it, the scatters that write it, the instructions that copy it, and whether it is updated in place
(donated), and lists the instructions that move data between devices. With --layout TPU the step is laid out
as for a TPU; the file named at the end of the output (*.before_optimizations.hlo.pb) is the input of a TPU
compiler.

--form and --evaluate: other steps than this package's training step (scripts/support/step_forms.py), for
scripts/tpu_report.py, which compiles the traced programs for TPUs.

--devices N: one partitioned program over N virtual devices, run once. --replicas N: the program that each
of N processes of a TPU has, one process for each chip, obtained without running it: this process traces
alone as process 0, its peers are made up, XLA compiles the program and dumps it. The launch that follows is
refused by the runtime, that has but one device, and nothing waits for it; XLA's words on it are not shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from support.command_line import make_parser
from support.hlo_report import dump_flags, inspect
from support.kernels import trace as kernel_trace
from support.paths import output_folder

if TYPE_CHECKING:
    import torch
    from support.step_forms import Form
    from torch import Tensor

FORMS = ["ours", "naive", "plain"]
WORKLOADS = ["onehot26", "movielens", "dcnv2-capped", "tiny", "small26"]
OPTIMIZERS = ["SGD", "Adagrad", "RowWiseAdagrad", "AdagradMomentum", "Adam", "FTRL"]
FACTS = "facts.json"
HIDDEN = 32
"""Width of the dense head."""


def main() -> None:
    """Run from the command line."""
    args = parse_args()
    if args.row_kernels:
        traced = kernel_trace.trace_apart(lambda: trace(args), args.out / FACTS)
        report = {**traced, **kernel_trace.inspect_traced(args.out, traced["arrays"])}
    else:
        traced = trace(args)
        report = {**traced, **inspect(args.out, traced["arrays"])}
    report["settings"] = {key: str(value) for key, value in vars(args).items()}
    if args.json:
        print(json.dumps(report))
        return
    for each in (*report["arrays"], *report["exchanged"], *report.get("collectives", [])):
        print("  ".join(f"{key} {value}" for key, value in each.items()))
    if not args.row_kernels:
        print(f"temporary bytes {report['temporary_bytes']:,}; programs {report['programs']}")
    print(report["proto"])


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--out", type=output_folder, required=True, help="folder for the dumps; emptied first")
    add("--form", choices=FORMS, default="ours", help="this package's step, or one to compare with")
    add("--evaluate", action="store_true", help="a step that only looks up")
    add("--linear", action="store_true", help="no head: gradients do not depend on activations")
    add("--clip", action="store_true", help="clip the gradient by its norm, before the update")
    add("--micro-batches", type=int, default=1, help="batches whose gradients one update applies")
    add("--pipelined", action="store_true", help="pipelined, the next batch not known in advance")
    add("--layout", choices=["CPU", "TPU"], default="CPU", help="of the tables' arrays")
    add("--optimizer", choices=OPTIMIZERS, default="Adagrad", help="of the tables")
    add_case_options(parser)
    add(
        "--row-kernels",
        action="store_true",
        help="of a TPU; the program is dumped, and not compiled",
    )
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--devices", type=int, default=1, help="virtual devices of one program (SPMD)"
    )
    many.add_argument("--replicas", type=int, default=1, help="processes, one a chip; not run")
    add("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose tables and batch."""
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, help="tables and features, in place of the options below")
    add("--max-rows", type=int, default=100_000, help="of a table of the workload")
    add("--dim", type=int, nargs="+", default=[64], help="D of the tables, in turn if several")
    add("--tables", type=int, default=1, help="tables, with one feature each")
    add("--vocabulary", type=int, default=1 << 20, help="V of every table")
    add("--batch-size", type=int, default=None, help="of all devices (default: 4096)")
    add("--ids-per-sample", type=int, default=0, help="H: bags of H ids each; 0: dense features")
    add("--ragged", action="store_true", help="bags of none and of twice as many, in turn")
    add("--dynamic", action="store_true", help="ids that get and lose rows")
    halves = {"nargs": "?", "const": "weights", "choices": ["weights", "slots"]}
    add("--bfloat16", **halves, help="weights in bfloat16, two to a lane; 'slots': slots too")
    add("--unique", type=float, default=0.5, help="ids to draw from, as share of a table's ids")


def make_case(args: argparse.Namespace) -> tuple[list[Any], int, list[Any]]:
    """The features, the batch size, and this process's part of a batch."""
    import torch
    from support import workloads

    import torch_tpu_embedding as tte

    if args.ragged and (args.workload or not args.ids_per_sample):
        raise SystemExit(
            "--ragged is about the bags of --ids-per-sample; give that, and no --workload"
        )
    if args.workload:
        known = {**workloads.WORKLOADS, **workloads.MORE_WORKLOADS}
        chosen = known[args.workload].capped(args.max_rows)
        size = args.batch_size or chosen.batch_size
        return chosen.features(), size, chosen.batches(0, size // args.replicas)()
    features = [
        tte.FeatureConfig(
            tte.TableConfig(
                args.vocabulary,
                args.dim[number % len(args.dim)],
                initializer=torch.zeros,
                combiner="sum",
                dtype=torch.bfloat16 if args.bfloat16 else torch.float32,
                slot_dtype=torch.bfloat16 if args.bfloat16 == "slots" else torch.float32,
                vocabulary=tte.DynamicVocabulary() if args.dynamic else None,
            )
        )
        for number in range(args.tables)
    ]
    size = args.batch_size or 4096
    samples, all_ids = size // args.replicas, size * max(args.ids_per_sample, 1)
    inputs: list[Any] = []
    for _ in features:
        pool = torch.randperm(args.vocabulary)[: max(1, int(all_ids * args.unique))]
        ids = pool[torch.randint(0, len(pool), (samples * max(args.ids_per_sample, 1),))]
        lengths = torch.full((samples,), args.ids_per_sample)
        if args.ragged:
            lengths[: samples // 2 * 2] *= torch.tensor([0, 2]).repeat(samples // 2)
        inputs.append(tte.Ragged.from_lengths(ids, lengths) if args.ids_per_sample else ids)
    return features, size, inputs


def make_form(args: argparse.Namespace, features: list[Any], size: int, inputs: list[Any]) -> Form:
    """Tables and step in the form asked for."""
    from support.step_forms import Naive, Ours, Plain

    import torch_tpu_embedding as tte

    training = not args.evaluate
    if args.form == "naive":
        return Naive(features, inputs, args.optimizer, training)
    optimizer = getattr(tte.optimizers, args.optimizer)(0.05)
    if args.form == "plain":
        return Plain(features, inputs, optimizer, training)
    embedding = tte.TPUEmbedding(
        features,
        size,
        optimizer,
        layout=args.layout,
        pipeline_execution_with_tensor_core=args.pipelined,
        row_kernels="on" if args.row_kernels else "off",
    )
    return Ours(embedding, inputs, training)


def trace(args: argparse.Namespace) -> dict[str, Any]:
    """Compile the step once with dumping on; returns its arrays, the bytes it moves and exchanges."""
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump_flags(args.out)}".strip()
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    if args.devices > 1:
        os.environ["CPU_NUM_DEVICES"] = str(args.devices)
    import torch

    import torch_tpu_embedding as tte

    torch.manual_seed(0)
    if args.devices > 1:
        tte.runtime.use_spmd()
    if args.replicas > 1:
        pretend_replicas(args.replicas)
    if args.row_kernels:
        kernel_trace.pretend_tpu()
    features, size, inputs = make_case(args)
    form = make_form(args, features, size, inputs)
    widths = [each.table.dim * max(each.max_sequence_length, 1) for each in features]
    head = Head(sum(widths), args)
    tte.runtime.sync()
    kept = head.step(form)
    if args.replicas > 1:
        silence_native_code()
    if args.row_kernels:
        kernel_trace.dump_and_end(facts(args, form, head, inputs), args.out / FACTS)
    tte.runtime.sync(wait=args.replicas == 1)
    # The first step makes torch.optim's slots, or the gradients that a pipelined step applies.
    if args.form == "naive" or args.pipelined:
        kept = head.step(form)
        tte.runtime.sync(wait=True)
    del kept
    return facts(args, form, head, inputs)


def facts(args: argparse.Namespace, form: Form, head: Head, inputs: list[Any]) -> dict[str, Any]:
    """The arrays of a step, the bytes it moves and exchanges."""
    found = {"arrays": form.arrays, "exchanged": [], "head_elements": head.hidden.numel()}
    if args.form == "ours":
        found |= moved_and_exchanged(form, inputs, training=not args.evaluate)
    return found


class Head:
    """A small dense head on the activations, and the step that trains it with the tables.

    Args:
        width: of the activations of a sample, joined.
    """

    def __init__(self, width: int, args: argparse.Namespace) -> None:
        import torch

        import torch_tpu_embedding as tte

        self.args, device = args, tte.runtime.device()
        self.hidden = torch.randn(width, HIDDEN).to(device)
        self.last = torch.randn(HIDDEN, 1).to(device)
        # with several devices, so that the sum of dense gradients over them is in the program
        self.hidden.requires_grad_(max(args.devices, args.replicas) > 1)

    def step(self, form: Form) -> Any:
        """Trace one step; returns the tensors that the program must give out, if there are any."""
        import torch

        for _ in range(self.args.micro_batches - 1):
            torch.stack([each.sum() for each in form.look_up()]).sum().backward()
            form.embedding.accumulate_gradients()  # type: ignore[attr-defined]
        flat = [each.flatten(1) for each in form.look_up()]
        if self.args.linear:
            torch.stack([each.sum() for each in flat]).sum().backward()
            form.update()
            return [each.detach() + 0 for each in flat]
        loss = ((torch.relu(torch.cat(flat, dim=1) @ self.hidden) @ self.last) ** 2).mean()
        if self.args.evaluate:
            return loss.detach()
        (loss / self.args.replicas).backward()
        if self.args.clip:
            form.embedding.clip_grad_norm_(1.0)  # type: ignore[attr-defined]
        form.update()
        if self.hidden.grad is not None:
            self.train(self.hidden.grad)
        return None

    def train(self, gradient: Tensor) -> None:
        """Train the hidden layer."""
        import torch

        import torch_tpu_embedding as tte

        if self.args.replicas > 1:
            gradient = tte.runtime.sum_over_processes(gradient)
        self.hidden.grad = None
        with torch.no_grad():
            self.hidden.sub_(gradient * 0.1)


def moved_and_exchanged(form: Any, inputs: list[Any], training: bool) -> dict[str, Any]:
    """Count the bytes of a step of this package: moved in memory if alone, else sent to other devices."""
    from support.step_bytes import bytes_moved
    from support.traffic import bytes_sent

    devices = form.embedding.placement.num_devices
    if devices == 1:
        return {"bytes": bytes_moved(form.embedding, inputs, training=training)}
    return {
        "exchanged": [
            {
                "positions": each.num_positions,
                "dim": each.order.stack.dim,
                "unique_rows": each.num_unique,
                "bytes_sent": bytes_sent(each, devices),
            }
            for each in form.shapes
        ]
    }


def silence_native_code() -> None:
    """From now on stderr shows what Python writes, and no stack that XLA prints."""
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def pretend_replicas(count: int) -> None:
    """Let this process trace as process 0 of `count` processes of a TPU, one for each chip."""
    os.environ["XLA_ALWAYS_ALLREDUCE"] = "1"  # torch_xla leaves them out where it sees one device
    from torch_tpu_embedding.distributed.exchange import Exchange, Process
    from torch_tpu_embedding.program import build

    def process_of_tpu(device: torch.device, process_group: object) -> Exchange:
        return Process(device, MadeUpPeers(count), in_program=True)

    build.choose_exchange = process_of_tpu  # type: ignore[assignment]


class MadeUpPeers:
    """A host group in which only process 0 exists; made-up others ask for as many records, but other ones.

    The values do not matter, since the program is compiled and never run; the sizes do.
    """

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def scoped(self, scope: str) -> MadeUpPeers:
        return self

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
