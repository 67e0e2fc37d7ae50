"""Cycles of compiled TPU kernels, counted in the machine code that the compiler writes.

The compiler prints its estimates for loops over whole tiles only: not for a gather, a scatter or a sort,
which are what a step on embedding tables consists of. But it writes the code of every kernel, bundle by
bundle (a bundle issues in one cycle), with the loops and their limits. Counted here: bundles times the
trips of the loops around them.

What the count leaves out: waits for memory, and all but one trip of a loop whose limit is neither a
constant nor that of a loop over rows (below). What it has too much: code that a branch skips. It is an
estimate like the compiler's own; of loops for which both exist, it is the smaller one, mostly.

A gather or scatter in HBM brings its row numbers into scalar memory in blocks, and an inner loop starts a
copy for each row. Where the limit of that loop is not a constant, it follows from the size of the block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_BUNDLE = re.compile(r"\s*0?(?:x[0-9a-f]+)?\s+([A-Z]{2})?\s*:\s(>*)\s*\{(.*)")
_ROW_NUMBERS = re.compile(r"= dma\.vmem_to_smem.*?/\*size_in_granules=\*/(\d+)")
_ROW_NUMBERS_PER_GRANULE = 8
_BOUNDS_CHECK = re.compile(r"/\* BoundsCheck.*")
_LIMIT = re.compile(r"scmp\.ge\.s32\.totalorder [^,]+, (\d+) /\* loop exit test \*/")


@dataclass
class Loop:
    """A loop of the machine code; the outermost is the kernel itself."""

    bundles: int = 0
    """In its body, without the loops in it."""
    trips: int | None = None
    """None: not a constant."""
    rows_read: int = 0
    """Rows that one trip copies from HBM."""
    row_numbers: int = 0
    """Numbers of rows that one trip brings into scalar memory."""
    inner: list[Loop] = field(default_factory=list)

    def cycles(self, row_numbers: int = 0) -> int:
        """Bundles that issue in all trips.

        Args:
            row_numbers: what one trip of the loop around this one brings.
        """
        trips = self.trips
        if trips is None:
            trips = -(-row_numbers // self.rows_read) if row_numbers and self.rows_read else 1
        return trips * (self.bundles + sum(each.cycles(self.row_numbers) for each in self.inner))


def read_kernel(text: str) -> Loop:
    """The loops of one kernel, from its machine code."""
    nest = [Loop(trips=1)]
    for line in text.splitlines():
        match = _BUNDLE.match(line)
        if match is None:
            continue
        label, marks, body = match.groups()
        depth = len(marks)
        if label == "LB":
            del nest[max(depth, 1) :]
            nest[-1].inner.append(Loop())
            nest.append(nest[-1].inner[-1])
        elif depth < len(nest) - 1 and not body.startswith("}"):  # empty bundles carry no marks
            del nest[depth + 1 :]
        body = _BOUNDS_CHECK.sub("", body)
        nest[-1].bundles += 1
        nest[-1].rows_read += body.count("= dma.hbm_to_vmem")
        for granules in _ROW_NUMBERS.findall(body):
            nest[-1].row_numbers += int(granules) * _ROW_NUMBERS_PER_GRANULE
        limit = _LIMIT.search(body)
        if limit and len(nest) > 1:
            nest[-1].trips = int(limit[1])
    return nest[0]


def dump_arguments(folder: Path) -> str:
    """The LIBTPU_INIT_ARGS that make the compiler write its machine code into a folder."""
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=^final_bundles$"
    )


def count_cycles(folder: Path) -> dict[str, int]:
    """Name of an instruction → the cycles counted in its machine code."""
    return {
        name: read_kernel(path.read_text()).cycles() for name, path in kernel_files(folder).items()
    }


def kernel_files(folder: Path) -> dict[str, Path]:
    """Name of the instruction → its machine code; kernels of one name: the last written."""
    files = sorted(folder.glob("*-final_bundles.txt"))
    found = {}
    for path in files:
        match = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
        if match and not match[1].endswith("schedule-analysis_final_bundles"):
            found[match[1]] = path
    return found
