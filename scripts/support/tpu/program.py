"""Costs and structure of a program that the TPU compiler has optimized, read from its text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
_ARRAY = re.compile(r"\w+\[([\d,]*)\]")
_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%([\w.-]+)")
_COLLECTIVES = ("all-to-all", "all-reduce", "all-gather", "reduce-scatter", "collective-permute")
_NO_WORK = {
    "parameter", "constant", "bitcast", "tuple", "get-tuple-element", "while", "call", "conditional",
    "copy-done", "call-done", "async-done", "async-update",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One that runs by itself: not inside a fusion."""

    name: str
    op: str
    sizes: tuple[int, ...]
    """Elements of each array of the result."""
    estimate: int | None
    """Cycles, by the compiler; None where it prints none."""
    computation: str
    """Text of the computations that it calls, and they call, or empty."""
    line: str

    @property
    def does(self) -> str:
        """The op, or the ones of interest inside the fusion."""
        inner = [each for each in ("sort", "gather", "scatter") if f" {each}(" in self.computation]
        return "+".join(inner) or self.op

    @property
    def is_in_place(self) -> bool:
        """True for a kernel whose result takes over the memory of an operand."""
        return self.op == "custom-call" and "output_to_operand_aliasing" in self.line

    @property
    def on_sparse_core(self) -> bool:
        return 'execution_thread="sparsecore"' in self.line


def split_computations(text: str) -> dict[str, str]:
    """Name → text of each computation; that of the entry is under 'ENTRY'."""
    found = {}
    for match in re.finditer(r"^(ENTRY )?%([\w.-]+) \(.*?\{$(.*?)^\}", text, re.M | re.S):
        found["ENTRY" if match[1] else match[2]] = match[0]
    return found


def called_text(line: str, computations: dict[str, str]) -> str:
    """The text of all computations that an instruction calls, directly or not."""
    text = "".join(computations.get(each, "") for each in _CALLED.findall(line))
    return text + called_text(text, computations) if text else ""


def instructions(text: str) -> Iterator[Instruction]:
    """All instructions of the entry computation, and of the loops and branches that it runs."""
    computations = split_computations(text)
    waiting, seen = ["ENTRY"], {"ENTRY"}
    while waiting:
        for line in computations[waiting.pop()].splitlines():
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            name, shape, op = match.groups()
            called = _CALLED.findall(line)
            if op in ("while", "call", "conditional"):
                waiting += [each for each in called if each not in seen]
                seen.update(called)
            sizes = tuple(
                math.prod(map(int, dims.split(","))) if dims else 1
                for dims in _ARRAY.findall(shape)
            )
            estimate = _ESTIMATE.search(line)
            yield Instruction(
                name,
                op,
                sizes,
                int(estimate[1]) if estimate else None,
                called_text(line, computations),
                line,
            )


def read_program(text: str, shapes: list[list[int]], counted: dict[str, int]) -> dict[str, Any]:
    """Costs and structure of a program.

    Args:
        shapes: of the persistent arrays of the tables.
        counted: instruction name → cycles counted in its machine code.

    Returns:
        `estimated_cycles`: the compiler's, of all instructions that have an estimate;
        `counted_cycles`: of the machine code of gathers, scatters, sorts and other kernels that have none;
        `without_estimate`: `does` and `cycles` of each of the others (None: no machine code was found);
        `costliest`: the five instructions that cost most, either way;
        `table_sized`: instructions that make an array of a table's size other than by writing rows into
        it, as 'op[elements]' → number;
        `ops`: counts; `sparse_core`: the ops that run there, as op → number.
    """
    elements = {math.prod(shape) for shape in shapes}
    found = list(instructions(text))
    without, costs = [], []
    table_sized: Counter[str] = Counter()
    for each in found:
        if each.op in _NO_WORK or each.on_sparse_core:
            continue
        cycles = each.estimate
        if each.estimate is None:
            cycles = counted.get(each.name)
            if cycles is not None or each.op in ("fusion", "sort", "gather", "scatter"):
                without.append({"name": each.name, "does": each.does, "cycles": cycles})
        if cycles:
            costs.append({"name": each.name, "does": each.does, "cycles": cycles})
        writes_rows = len(each.sizes) == 1 and ("scatter" in each.does or each.is_in_place)
        for size in set(each.sizes):
            if (size in elements or size >= max(elements)) and not writes_rows:
                table_sized[f"{each.does}[{size}]"] += 1
    ops = Counter(re.findall(r"\s(gather|scatter|sort|copy|copy-start|while)\(", text))
    moved = Counter(re.findall(rf"\s({'|'.join(_COLLECTIVES)})(?:-start)?\(", text))
    return {
        "estimated_cycles": sum(each.estimate or 0 for each in found),
        "counted_cycles": sum(each["cycles"] or 0 for each in without),
        "without_estimate": without,
        "costliest": sorted(costs, key=lambda each: -each["cycles"])[:5],
        "table_sized": dict(table_sized),
        "ops": {
            "gathers": ops["gather"],
            "scatters": ops["scatter"],
            "sorts": ops["sort"],
            "copies": ops["copy"] + ops["copy-start"],
            "collectives": moved.total(),
            "instructions": len(found),
        },
        "sparse_core": dict(Counter(each.does for each in found if each.op == "call-start")),
    }


def summed(calls: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The programs of all calls as `compile_step` gives one: sums, but the largest of their temporaries.

    Args:
        calls: for each call its compiled programs, each with its `runs` in a step.

    Returns:
        Also `calls`: for each call the cycles of its programs by name, estimated and counted.
    """
    every = [each for programs in calls.values() for each in programs]
    programs = [each["program"] for each in every]
    table_sized: Counter[str] = Counter()
    ops: Counter[str] = Counter()
    for program in programs:
        table_sized.update(program["table_sized"])
        ops.update(program["ops"])

    def cycles(kind: str) -> int:
        return round(sum(each["runs"] * each["program"][kind] for each in every))

    return {
        "aliased_bytes": sum(each["aliased_bytes"] for each in every),
        "temporary_bytes": max(each["temporary_bytes"] for each in every),
        "program": {
            "estimated_cycles": cycles("estimated_cycles"),
            "counted_cycles": cycles("counted_cycles"),
            "table_sized": dict(table_sized),
            "ops": dict(ops),
            "costliest": sorted(
                (part for program in programs for part in program["costliest"]),
                key=lambda part: -part["cycles"],
            )[:5],
        },
        "calls": {
            name: [
                {
                    "name": each["name"],
                    "runs": each["runs"],
                    "folder": each["folder"],
                    **{
                        kind: each["program"][kind]
                        for kind in ("estimated_cycles", "counted_cycles")
                    },
                }
                for each in programs
            ]
            for name, programs in calls.items()
        },
    }
