"""The compiled step of tables whose ids get and lose rows: written in place, beside what any step does."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs.traced import RAGGED, USUAL_STEPS, traced


@pytest.mark.parametrize(
    "options",
    [
        *USUAL_STEPS,
        ["--optimizer", "Adagrad", "--dim", "16", "--pipelined", "--linear", *RAGGED],
    ],
)
def test_new_rows_are_one_more_scatter_for_each_physical_row_in_place(
    tmp_path: Path, options: list[str]
) -> None:
    plain, live = traced(tmp_path, *options), traced(tmp_path, *options, "--dynamic")
    assert live["programs"] == plain["programs"]
    sizes = []
    for array, of_plain in zip(live["arrays"], plain["arrays"], strict=True):
        rows, width = array["shape"]
        sizes.append(rows * width)
        assert array["shape"] == of_plain["shape"]
        assert array["scatters"] <= 2 * of_plain["scatters"], array
        assert array["copies"] == 0, array
        assert array["donated"], array
    assert live["temporary_bytes"] < min(sizes) * 4 / 2, "no temporary of table size"
    assert set(live["structure"]["table_sized"]) == {"parameter", "scatter"}
