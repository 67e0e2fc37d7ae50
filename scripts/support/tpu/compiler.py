"""Compile one dumped program with the TPU compiler, on a machine without a TPU. Needs jax and libtpu.

    python compiler.py step.before_optimizations.hlo.pb --chip v5e --out folder

The program is XLA's dump of a traced step (scripts/trace_step.py); the text of the same name must lie
beside it, for the donated arguments are read from its first line. The compiler's settings are taken from
LIBTPU_INIT_ARGS. Into --out go `program.txt`, the optimized program, and `result.json`: bytes of
arguments, outputs, donated outputs and temporaries, seconds, and versions.

torch_xla and libtpu each bring a runtime of their own, so this is a process apart from any that traces;
whether they share a virtual environment does not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path
from typing import Any

TOPOLOGIES = {
    "v4": {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"},
    "v5e": {"topology_name": "v5e:2x2"},
    "v5p": {"topology_name": "v5p:2x2x1", "chip_config_name": "megacore"},
    "v6e": {"topology_name": "v6e:2x2"},
}
"""Slices of one host; a program for one device uses the first. Megacore: both cores of a chip are one
device, as they are on a TPU VM; left out, the compiler makes v4 programs for one core."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path, help="*.before_optimizations.hlo.pb")
    parser.add_argument("--chip", choices=TOPOLOGIES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    many = parser.add_mutually_exclusive_group()
    text = "devices of one partitioned program (trace_step.py --devices)"
    many.add_argument("--partitions", type=int, choices=[1, 4], default=1, help=text)
    text = "processes of one program, a device each (trace_step.py --replicas)"
    many.add_argument("--replicas", type=int, choices=[1, 4], default=1, help=text)
    args = parser.parse_args()
    # libtpu would ask the network which TPU this machine is part of
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = (
        "true"  # nothing is run, so two at once are no conflict
    )
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    executable = compile_program(args.program, args.chip, args.replicas, args.partitions)
    seconds = time.perf_counter() - started
    (args.out / "program.txt").write_text(executable.hlo_modules()[0].to_string())
    memory = executable.get_compiled_memory_stats()
    result = {
        "chip": args.chip,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "compile_seconds": round(seconds, 1),
        "versions": versions(),
    }
    (args.out / "result.json").write_text(json.dumps(result))


def versions() -> dict[str, str]:
    """Versions of the packages that decide the result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("jax", "jaxlib", "libtpu")}


def compile_program(program: Path, chip: str, replicas: int, partitions: int) -> Any:
    """The loaded executable of a program, for one chip or the four of a host."""
    import numpy
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jax.experimental import topologies

    computation = _jax.XlaComputation(module_of(program.read_bytes()))
    text = _jax.mlir.xla_computation_to_mlir_module(computation)
    topology = topologies.get_topology_desc(platform="tpu", **TOPOLOGIES[chip])
    used = topology.devices[: replicas * partitions]
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, partitions
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = replicas, partitions
    build.use_spmd_partitioning = partitions > 1
    # else every output, a table too, would be gathered on all devices
    build.allow_spmd_sharding_propagation_to_output = [True]
    numbers = numpy.array([device.id for device in used]).reshape(replicas, partitions)
    assignment = xla_client.DeviceAssignment.create(numbers)
    options.device_assignment = build.device_assignment = assignment
    with mlir.make_ir_context():
        module = mlir.ir.Module.parse(text)
        donate(mlir.ir, module, donated_arguments(program))
        devices = xla_client.DeviceList(tuple(used))
        return used[0].client.compile(mlir.module_to_bytecode(module), devices, options)


def module_of(proto: bytes) -> bytes:
    """The HloModuleProto in a dumped HloProto, of which it is the first field."""
    if not proto or proto[0] != 0x0A:
        raise ValueError("this file is not an HloProto as XLA dumps it")
    length, shift, position = 0, 0, 1
    while True:  # a varint: seven bits a byte, the lowest first
        byte = proto[position]
        length |= (byte & 0x7F) << shift
        shift, position = shift + 7, position + 1
        if byte < 0x80:
            return proto[position : position + length]


def donated_arguments(program: Path) -> set[int]:
    """The numbers of the arguments whose memory the outputs may take."""
    with program.with_name(program.name.replace(".hlo.pb", ".txt")).open() as text:
        head = text.readline()
    donors = re.search(r"buffer_donor=\{(.*?)\}, \w", head)
    return {int(n) for n in re.findall(r"\((\d+), \{\}\)", donors[1] if donors else "")}


def donate(ir: Any, module: Any, numbers: set[int]) -> None:
    """Mark arguments of the main function as donated; the conversion to MLIR forgets them."""
    for operation in module.body.operations:
        if ir.StringAttr(operation.attributes["sym_name"]).value != "main":
            continue
        count = len(operation.arguments)
        before = [ir.DictAttr.get({})] * count
        if "arg_attrs" in operation.attributes:
            before = [ir.DictAttr(each) for each in operation.arg_attrs]
        after = []
        for number, attributes in enumerate(before):
            named = {each.name: each.attr for each in attributes}
            if number in numbers:
                named["jax.buffer_donor"] = ir.BoolAttr.get(True)
            after.append(ir.DictAttr.get(named))
        operation.arg_attrs = after


if __name__ == "__main__":
    main()
