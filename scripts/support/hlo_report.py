"""Facts about a compiled program, read from the text that XLA dumps of it.

Letters: G devices, D dim.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
_COLLECTIVES = (
    "all-to-all|all-reduce|all-gather|reduce-scatter|collective-permute|ragged-all-to-all"
)


def dump_flags(folder: Path) -> str:
    """The XLA_FLAGS that make XLA write its programs into a folder."""
    return f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_as_proto"


def inspect(folder: Path, arrays: list[dict[str, Any]]) -> dict[str, Any]:
    """Read the program that was compiled last, that of the step.

    Args:
        arrays: `fields` and `shape` (on one device) of each physical array of the tables.

    Returns:
        `arrays`: for each its gathers, scatters, copies, and True if it is donated; `collectives`; bytes of
        temporaries; number of programs; the file of the program as it was traced, and its `structure`
        before any compiler has changed it.
    """
    programs = [
        path
        for path in folder.glob("*after_optimizations.txt")
        if "buffer-assignment" not in path.name
    ]
    program = max(programs, key=lambda path: int(path.name.split(".")[0].split("_")[1]))
    text = program.read_text()
    assignment = program.with_name(program.stem + "-buffer-assignment.txt").read_text()
    temporaries = re.findall(r"allocation \d+: size (\d+), preallocated-temp", assignment)
    before = program.name.replace("after_optimizations.txt", "before_optimizations.hlo.pb")
    before = re.sub(r"\.cpu_", ".", before)
    return {
        "arrays": [
            {**array, **uses_of_array(text, array["shape"], array["dtype"])} for array in arrays
        ],
        "collectives": collectives(text),
        "temporary_bytes": sum(map(int, temporaries)),
        "programs": len(programs),
        "proto": str(folder / before),
        "structure": structure(
            (folder / before.replace(".hlo.pb", ".txt")).read_text(),
            [array["shape"] for array in arrays],
        ),
    }


def structure(text: str, shapes: list[list[int]]) -> dict[str, Any]:
    """Counts of instructions in a program of one device as it was traced, before any compiler changed it.

    Args:
        shapes: of the tables' arrays.

    Returns:
        `gathers`, `scatters`, `sorts`; `instructions`, all; `table_sized`: op → how often it makes an
        array with as many elements as one of the tables'; `donated`: elements of each donated argument.
    """
    entry = text[text.index("\nENTRY ") :]
    found = re.findall(r"= (\(.*?\)|\S+) ([\w-]+)\(", entry)
    ops = Counter(op for _, op in found)
    elements = {math.prod(shape) for shape in shapes}
    table_sized: Counter[str] = Counter()
    arguments = {}
    for dims, number in re.findall(r"= \w+\[([\d,]*)\]\S* parameter\((\d+)\)", entry):
        arguments[int(number)] = _product(dims)
    for result, op in found:
        sizes = {_product(dims) for dims in re.findall(r"\w+\[([\d,]*)\]", result)}
        table_sized[op] += len(sizes & elements)
    donors = re.search(r"buffer_donor=\{(.*?)\}, \w", text.split("\n", 1)[0])
    donated = [int(n) for n in re.findall(r"\((\d+), \{\}\)", donors[1] if donors else "")]
    return {
        "gathers": ops["gather"],
        "scatters": ops["scatter"],
        "sorts": ops["sort"],
        "instructions": len(found),
        "table_sized": {op: count for op, count in table_sized.items() if count and op != "tuple"},
        "donated": sorted(arguments[number] for number in donated),
    }


def _product(dims: str) -> int:
    return math.prod(map(int, dims.split(","))) if dims else 1


def uses_of_array(text: str, sizes: list[int], dtype: str = "f32") -> dict[str, Any]:
    """Uses of one array in a program, found by its dtype and shape, which no other array may have."""
    shape = "{}[{}]".format(dtype, ",".join(map(str, sizes)))
    shapes = dict(re.findall(r"(%[\w.-]+) = (\w+\[[\d,]*\])", text))
    alias = re.search(r"input_output_alias=\{(.*?)\}, entry", text.split("\n", 1)[0])
    aliased = {int(n) for n in re.findall(r"\((\d+), \{\}", alias[1] if alias else "")}
    entry = text[text.index("\nENTRY ") :]
    parameters = re.findall(r"= (\w+\[[\d,]*\])\S* parameter\((\d+)\)", entry)
    operands = re.findall(r" gather\((?:\S+ )?(%[\w.-]+),", text)
    copies = rf"= {re.escape(shape)}\S* (?:copy|transpose|concatenate|select)\("
    return {
        "gathers": sum(shapes.get(name) == shape for name in operands),
        "scatters": len(re.findall(rf"= {re.escape(shape)}\S* scatter\(", text)),
        "copies": len(re.findall(copies, text)),
        "donated": any(s == shape and int(n) in aliased for s, n in parameters),
    }


def collectives(text: str) -> list[dict[str, Any]]:
    """The instructions that move data between devices, in the order of the program.

    Returns:
        For each its `op`, `dtype`, number of `elements` that a device holds of the result (for an
        all-to-all as many as it sends, its own block included), and `bytes`.
    """
    found = []
    for types, op in re.findall(rf"= (\(.*?\)|\S+) ({_COLLECTIVES})(?:-start)?\(", text):
        shapes = re.findall(r"(\w+)\[([\d,]*)\]", types)
        sizes = [_product(dims) for _, dims in shapes]
        dtypes = sorted({dtype for dtype, _ in shapes})
        size = sum(BYTES[dtype] * count for (dtype, _), count in zip(shapes, sizes, strict=True))
        found.append({"op": op, "dtype": "|".join(dtypes), "elements": sum(sizes), "bytes": size})
    return found
