"""The traced step with row kernels, compiled for four generations of TPU: what becomes of the tables.

Needs the compiler, as tests/scripts/test_tpu_report.py does; without it all is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import SCRIPTS
from programs.traced import traced

sys.path.append(str(SCRIPTS))  # as for a script that is run

from scripts.support.tpu.chips import CHIPS
from scripts.support.tpu.job import run_compiler
from scripts.support.tpu.program import read_program
from torch_tpu_embedding.kernels import hlo_module, sum_rows
from torch_tpu_embedding.runtime.torch_xla import device

COMPILER = os.environ.get("TPU_COMPILER_PYTHON", sys.executable)
KERNELS = ("write_records", "write_marked_rows")
WORDS_A_RECORD = {"v4": 15, "v5e": 26, "v5p": 16, "v6e": 26}
"""Instruction words for each record that may be written, at most; XLA's scatter-add has 71 to 104. The two
cores of v4 and v5p share the records."""
WORDS_A_LOOKUP = 8
"""Likewise of a sum; XLA's gather and scatter-add have 7.8 (v4), 8.5 (v5p), 12.3 (v6e) and 12.9 (v5e)."""


def has_compiler() -> bool:
    code = "import importlib.metadata as m; m.version('jax'); m.version('libtpu')"
    return subprocess.run([COMPILER, "-c", code], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not has_compiler(), reason="the extra 'tpu-report' (jax and libtpu) is not installed"
)


def compiled(proto: Path, chip: str, folder: Path, *options: str) -> dict[str, Any]:
    """The program's text, the bytes of its memory, and the instruction words of its kernels."""
    words = run_compiler(COMPILER, proto, chip, folder, *options)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    found["text"] = (folder / "program.txt").read_text()
    found["words"] = words
    return found


def check_sums(found: dict[str, Any], sums: int, lookups: int) -> None:
    """So many sums are by the kernel, and then nothing is left for a scatter."""
    words = [n for name, n in found["words"].items() if name.startswith("sum_rows")]
    assert len(words) == sums
    assert max(words, default=0) <= WORDS_A_LOOKUP * lookups
    assert (" scatter(" in found["text"]) == (sums == 0)


def check(found: dict[str, Any], shapes: list[list[int]], chip: str, records: int | None) -> None:
    """Every table is written in place by a kernel, and nothing else has a table's size."""
    size = sum(4 * rows * lanes for rows, lanes in shapes)
    assert found["aliased_bytes"] >= size
    assert found["temporary_bytes"] < 0.05 * size + 30e6
    program = read_program(found["text"], shapes, found["words"])
    assert program["table_sized"] == {}
    for rows, lanes in shapes:
        shape = rf"f32\[{rows},{lanes}\]"
        assert not re.search(rf"= {shape}\S* scatter\(", found["text"])
        call = rf"= {shape}\S* custom-call\(.*output_to_operand_aliasing"
        assert len(re.findall(call, found["text"])) == 1
    if records is not None:
        words = [n for name, n in found["words"].items() if name.startswith(KERNELS)]
        assert len(words) == len(shapes)
        assert max(words) <= WORDS_A_RECORD[chip] * records


STEPS = {
    "one record a row": ["--dim", "64", "--vocabulary", "300000"],
    "four records a row": ["--dim", "16", "--vocabulary", "1200000"],
    "records of two rows": ["--dim", "128", "--vocabulary", "300000"],
    "two arrays": ["--dim", "64", "32", "--tables", "2", "--vocabulary", "600000"],
}
"""Tables of 150 MB and more on each device: small ones may pass through on-chip memory, with the
scatter-add as well."""


@pytest.mark.parametrize("name", STEPS)
def test_tables_are_written_in_place_by_kernels_on_four_chips(name: str, tmp_path: Path) -> None:
    ids = ["--batch-size", "4096", "--ids-per-sample", "4", "--ragged"]
    step = traced(tmp_path, "--row-kernels", "--layout", "TPU", *ids, *STEPS[name])
    shapes = [array["shape"] for array in step["arrays"]]
    records = 7848 if "--tables" not in STEPS[name] else None  # those of one table, with padding
    for chip in CHIPS:
        found = compiled(Path(step["proto"]), chip, tmp_path / chip)
        check(found, shapes, chip, records)
        check_sums(found, {"four records a row": 0, "two arrays": 4}.get(name, 2), 4 * 4096)


@pytest.mark.parametrize("dim", [64, 128])
def test_so_they_are_where_less_than_a_block_of_records_is_written(
    dim: int, tmp_path: Path
) -> None:
    given = ["--dim", str(dim), "--vocabulary", "300000", "--batch-size", "512", "--unique", "0.2"]
    step = traced(
        tmp_path, "--row-kernels", "--layout", "TPU", *given, "--ids-per-sample", "4", "--ragged"
    )
    shapes = [array["shape"] for array in step["arrays"]]
    records = 2 * 416  # one core writes them all, or more steps are counted than are run
    for chip in CHIPS:
        found = compiled(Path(step["proto"]), chip, tmp_path / chip)
        check(found, shapes, chip, records)
        check_sums(found, 0, 4 * 512)


FEW = {
    "8 records": ["--dim", "64", "--batch-size", "8", "--unique", "9"],
    "64 records of two rows": ["--dim", "128", "--batch-size", "64", "--unique", "9"],
    "1,100 records that share rows": ["--dim", "16", "--batch-size", "1100", "--unique", "99"],
    "8,192 lookups summed": [
        "--dim",
        "64",
        "--batch-size",
        "2048",
        "--ids-per-sample",
        "4",
        "--ragged",
    ],
}
"""The least that the kernels take."""


@pytest.mark.parametrize("name", FEW)
def test_a_step_of_little_work_costs_no_more_with_kernels(name: str, tmp_path: Path) -> None:
    """Estimates and counts together, on the chip that gains least by writing and the one by summing."""
    cycles: dict[str, list[int]] = {"v5e": [], "v4": []}
    for option in (["--row-kernels"], []):
        given = [*option, "--layout", "TPU", "--vocabulary", "1000000", *FEW[name]]
        step = traced(tmp_path / str(len(option)), *given)
        shapes = [array["shape"] for array in step["arrays"]]
        for chip, found in cycles.items():
            folder = tmp_path / f"{chip}{len(option)}"
            each = compiled(Path(step["proto"]), chip, folder)
            kernels = [word for word in each["words"] if word.startswith(("write_", "sum_rows"))]
            assert len(kernels) == len(option) * (3 if "summed" in name else 1)
            program = read_program(each["text"], shapes, each["words"])
            found.append(program["estimated_cycles"] + program["counted_cycles"])
    for chip, (with_kernels, without) in cycles.items():
        assert with_kernels <= without, chip


@pytest.mark.parametrize(("dim", "vocabulary"), [(64, 1_200_000), (32, 2_400_000)])
@pytest.mark.parametrize("way", ["partitions", "replicas"])
def test_so_they_are_on_four_devices(way: str, dim: int, vocabulary: int, tmp_path: Path) -> None:
    given = ["--dim", str(dim), "--vocabulary", str(vocabulary)]
    bags = ["--batch-size", "8192", "--ids-per-sample", "4", "--ragged", "--unique", "0.1"]
    given += bags if dim == 64 else ["--batch-size", "16384"]
    option = {"partitions": "--devices", "replicas": "--replicas"}[way]
    step = traced(tmp_path, "--row-kernels", "--layout", "TPU", *given, option, "4")
    shapes = [array["shape"] for array in step["arrays"]]
    for chip in CHIPS:
        found = compiled(Path(step["proto"]), chip, tmp_path / chip, f"--{way}", "4")
        check(found, shapes, chip, None)
        assert " all-to-all" in found["text"]
        sums = [name for name in found["words"] if name.startswith("sum_rows")]
        assert len(sums) == (2 if dim == 64 else 0)


@pytest.mark.parametrize(
    ("rows", "segments", "dim"), [(20_472, 4_088, 64), (4_088, 20_472, 64), (8_184, 4_088, 192)]
)
def test_the_largest_sums_that_the_kernel_takes_are_compiled_for_four_chips(
    rows: int, segments: int, dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = rows + segments
    assert sum_rows.fits_kernel(rows, lookups, segments, dim)
    assert not sum_rows.fits_kernel(rows + 8, lookups + 8, segments, dim)
    modules: list[bytes] = []
    monkeypatch.setattr(device, "computation", lambda name, module: modules.append(module))
    sum_rows._operation(lookups, rows, dim, segments)
    step = tmp_path / "step.before_optimizations.hlo.pb"
    step.write_bytes(hlo_module._field(1, modules[0]))
    step.with_suffix("").with_suffix(".txt").write_text("HloModule sum_rows\n")
    for chip in CHIPS:
        found = compiled(step, chip, tmp_path / chip)
        words = [n for name, n in found["words"].items() if name.startswith("sum_rows")]
        assert words
        assert words[0] <= (12 if dim > 128 else WORDS_A_LOOKUP) * lookups
