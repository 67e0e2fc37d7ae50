"""The compiled step of tables in bfloat16: written in place, as in float32, in half the bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs.traced import RAGGED, USUAL_STEPS, traced


@pytest.mark.parametrize(
    "options",
    [
        *USUAL_STEPS,
        ["--optimizer", "Adagrad", "--dim", "16", "--linear", "--dynamic", *RAGGED],
        ["--optimizer", "Adam", "--dim", "16", "--bfloat16", "slots"],
        ["--optimizer", "Adam", "--dim", "64", "--layout", "TPU", "--bfloat16", "slots", *RAGGED],
    ],
)
def test_each_array_has_one_gather_and_one_scatter_no_copy_and_is_donated(
    tmp_path: Path, options: list[str]
) -> None:
    report = traced(tmp_path, "--bfloat16", *options)
    assert report["programs"] == 1
    sizes = []
    for array in report["arrays"]:
        rows, width = array["shape"]
        sizes.append(rows * width)
        new_rows = "--dynamic" in options
        assert array["scatters"] == 1 + new_rows, array
        assert array["gathers"] == 1, array
        assert array["copies"] == 0, array
        assert array["donated"], array
    assert len(set(sizes)) == len(sizes), "equal byte sizes would let XLA swap the buffers"
    assert report["temporary_bytes"] < min(sizes) * 4 / 2, "no temporary of table size"
    assert set(report["structure"]["table_sized"]) == {"parameter", "scatter"}


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
def test_a_pipelined_step_that_reads_its_rows_before_the_last_update_copies_no_table(
    tmp_path: Path, optimizer: str
) -> None:
    options = ["--optimizer", optimizer, "--pipelined", "--linear", "--tables", "2", "--bfloat16"]
    (array,) = traced(tmp_path, *options)["arrays"]
    assert (array["gathers"], array["copies"], array["scatters"]) == (2, 0, 1), array
    assert array["donated"], array


def test_weights_take_half_the_bytes(tmp_path: Path) -> None:
    options = ["--optimizer", "SGD", "--dim", "64", "--layout", "TPU"]
    plain, packed = (traced(tmp_path, *options, *more) for more in ([], ["--bfloat16"]))
    (one,), (other,) = plain["arrays"], packed["arrays"]
    rows, width = one["shape"]
    packed_rows, packed_width = other["shape"]
    assert packed_rows * packed_width <= rows * width / 2 + 8 * 128
