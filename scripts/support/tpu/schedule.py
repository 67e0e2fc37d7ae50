"""Cycles of compiled TPU kernels, counted in the machine code that the compiler writes.

The compiler prints its estimates for loops over whole tiles only: not for a gather, a scatter or a sort, of
which a step on embedding tables consists. But it writes the code of every kernel, bundle by
bundle (a bundle issues in one cycle), with the loops and their limits. Counted here: bundles times the
trips of the loops around them.

The count leaves out waits for memory, and all but one trip of a loop whose limit is neither a constant
nor the limit of a loop over rows (below). It counts too much where a branch skips code. It is an
estimate like the compiler's own; of loops for which both exist, it is the smaller one, mostly.

A gather or scatter in HBM brings its row numbers into scalar memory in blocks, and an inner loop starts a
copy for each row. Where the limit of that loop is not a constant, it follows from the size of the block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_BUNDLE = re.compile(r"\s*0?(?:x[0-9a-f]+)?\s+([A-Z]{2})?\s*:\s(>*)\s*\{(.*)")
_ROW_NUMBERS = re.compile(r"= dma\.(?:[cv]mem|hbm)_to_smem.*?/\*size_in_granules=\*/(\d+)")
_NUMBER_BYTES = 4
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

    @property
    def cycles_of_trip(self) -> int:
        """Bundles that issue in one trip, with the loops in it."""
        rows = max((each.rows_read for each in self.inner), default=0)
        # loops side by side treat the same rows, though one alone copies them
        trips = max(-(-self.row_numbers // rows), 1) if rows else 1
        inner = sum((each.trips or trips) * each.cycles_of_trip for each in self.inner)
        return self.bundles + inner


def read_kernel(text: str, granule: int) -> Loop:
    """The loops of one kernel, from its machine code.

    Args:
        granule: bytes; the unit in which the chip's copies are counted.
    """
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
            nest[-1].row_numbers += int(granules) * granule // _NUMBER_BYTES
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


def count_cycles(folder: Path, granule: int) -> dict[str, int]:
    """Name of an instruction → the cycles counted in its machine code; for `granule` see `read_kernel`."""
    files = kernel_files(folder).items()
    return {name: read_kernel(path.read_text(), granule).cycles_of_trip for name, path in files}


def kernel_files(folder: Path) -> dict[str, Path]:
    """Name of the instruction → its machine code; kernels of one name: the last written."""
    files = sorted(folder.glob("*-final_bundles.txt"))
    found = {}
    for path in files:
        match = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
        if match and not match[1].endswith("schedule-analysis_final_bundles"):
            found[match[1]] = path
    return found
