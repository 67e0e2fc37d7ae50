"""The traced step of tables in bfloat16, compiled for four generations of TPU: what becomes of the tables.

Needs the compiler, as tests/scripts/test_tpu_report.py does; without it all is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import SCRIPTS
from programs.traced import traced

sys.path.append(str(SCRIPTS))  # as for a script that is run

from scripts.support.tpu.chips import CHIPS
from scripts.support.tpu.job import run_compiler
from scripts.support.tpu.program import read_program

COMPILER = os.environ.get("TPU_COMPILER_PYTHON", sys.executable)
BAGS = ["--ids-per-sample", "4", "--ragged"]
STEPS = {
    "weights alone": ["--optimizer", "SGD", "--dim", "64", "--vocabulary", "1200000"],
    "float32 slots beside the weights": [
        *("--optimizer", "Adagrad", "--dim", "64", "--vocabulary", "300000", *BAGS)
    ],
    "slots in an array of their own": [
        *("--optimizer", "Adam", "--dim", "64", "--vocabulary", "1200000")
    ],
    "all in bfloat16": [
        *("--optimizer", "Adagrad", "--dim", "64", "--vocabulary", "600000", *BAGS),
        *("--bfloat16", "slots"),
    ],
}
"""Tables of 150 MB and more: small ones may pass through on-chip memory."""


def has_compiler() -> bool:
    code = "import importlib.metadata as m; m.version('jax'); m.version('libtpu')"
    return subprocess.run([COMPILER, "-c", code], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not has_compiler(), reason="the extra 'tpu-report' (jax and libtpu) is not installed"
)


@pytest.mark.parametrize("name", STEPS)
def test_tables_are_written_in_place_without_copies_on_four_chips(
    name: str, tmp_path: Path
) -> None:
    given = ["--bfloat16", "--layout", "TPU", "--batch-size", "4096"]
    step = traced(tmp_path, *given, *STEPS[name])
    shapes = [array["shape"] for array in step["arrays"]]
    size = sum(4 * rows * lanes for rows, lanes in shapes)
    assert size > 150e6
    for chip in CHIPS:
        folder = tmp_path / chip
        words = run_compiler(COMPILER, Path(step["proto"]), chip, folder)
        result = json.loads((folder / "result.json").read_text())
        text = (folder / "program.txt").read_text()
        assert result["aliased_bytes"] >= size, chip
        assert result["temporary_bytes"] < 0.05 * size + 30e6, chip
        assert read_program(text, shapes, words)["table_sized"] == {}, chip
        whole = [rf"s32\[{rows},{lanes}\]" for rows, lanes in shapes]
        assert re.search(rf"= {whole[0]}\S* scatter\(", text), "packed numbers lie in int32 lanes"
