"""scripts/tpu_report.py: reading compiled programs and machine code, the bound, and a real compilation.

The last two need jax and libtpu: in this environment, or in that of the interpreter named by
TPU_COMPILER_PYTHON; the last also torch_tpu, in that of OTHER_BACKEND_PYTHON. Else they are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import SCRIPTS

from scripts.support.tpu.chips import CHIPS, narrow_rows
from scripts.support.tpu.compiler import donated_arguments, module_of
from scripts.support.tpu.program import read_program, summed
from scripts.support.tpu.schedule import read_kernel

COMPILER = os.environ.get("TPU_COMPILER_PYTHON", sys.executable)

PROGRAM = """HloModule step, is_scheduled=true

%fused.1 (p0: f32[1000,128], p1: s32[8], p2: f32[8,128]) -> f32[1000,128] {
  %p0 = f32[1000,128]{1,0} parameter(0)
  %p1 = s32[8]{0} parameter(1)
  %p2 = f32[8,128]{1,0} parameter(2)
  ROOT %scatter.1 = f32[1000,128]{1,0} scatter(%p0, %p1, %p2), to_apply=%add
}

ENTRY %main (t: f32[1000,128], i: s32[8], u: f32[8,128]) -> f32[1000,128] {
  %t = f32[1000,128]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  %u = f32[8,128]{1,0} parameter(2)
  %scaled = f32[8,128]{1,0} fusion(%u), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"70"}
COPY
  ROOT %rows = f32[1000,128]{1,0} fusion(%t, %i, %scaled), kind=kCustom, calls=%fused.1
}
"""


def test_rows_written_into_a_table_are_not_counted_as_an_array_of_its_size() -> None:
    found = read_program(PROGRAM.replace("COPY", ""), [[1000, 128]], {"rows": 500})
    assert found["table_sized"] == {}
    assert found["ops"]["scatters"] == 1
    assert (found["estimated_cycles"], found["counted_cycles"]) == (70, 500)
    assert [each["does"] for each in found["costliest"]] == ["scatter", "fusion"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("  %c = f32[1000,128]{1,0} copy(%t)", "copy[128000]"),
        (
            "  %c = (f32[1000,128]{1,0}, f32[1000,128]{1,0}, u32[]) copy-start(%t)",
            "copy-start[128000]",
        ),
        ("  %c = f32[128,1000]{1,0} fusion(%t), kind=kLoop, calls=%f", "fusion[128000]"),
        ("  %c = f32[4000,128]{1,0} broadcast(%u)", "broadcast[512000]"),
    ],
)
def test_whatever_else_makes_an_array_of_a_tables_size_is_found(line: str, name: str) -> None:
    found = read_program(PROGRAM.replace("COPY", line), [[1000, 128]], {})
    assert found["table_sized"] == {name: 1}


def test_a_kernel_without_machine_code_is_named_and_not_taken_for_free() -> None:
    found = read_program(PROGRAM.replace("COPY", ""), [[1000, 128]], {})
    assert found["without_estimate"] == [{"name": "rows", "does": "scatter", "cycles": None}]


def kernel(inner_limit: str, memory: str = "vmem") -> str:
    """Machine code of a scatter: blocks of 256 row numbers, 16 rows in each trip of the inner loop.

    Args:
        memory: in which the row numbers lie.
    """
    return "\n".join([
        "     0   :  { %1 = start }",
        f"   0x1 LB: > {{ %2 = dma.{memory}_to_smem /*{memory}=*/%s6, /*size_in_granules=*/32, /*smem=*/"
        "%s7 }",
        "   0x2 LB: >> { %3 = wait }",
        *[f"   0x{n} : >> {{ %{n} = dma.hbm_to_vmem [thread:$0] }}" for n in range(10, 26)],
        "   0x3   : >> { %p4 = scmp.ge.s32.totalorder %s5, " + inner_limit + " }",
        "   0x4   :  {} /* End region */",
        "   0x5   : > { %p6 = scmp.ge.s32.totalorder %s7, 4 /* loop exit test */ }",
        "   0x6   :  { %8 = end }",
    ])  # fmt: skip


@pytest.mark.parametrize("memory", ["vmem", "cmem", "hbm"])
@pytest.mark.parametrize("limit", ["16 /* loop exit test */", "%s99"])
def test_cycles_are_bundles_times_trips_also_where_the_limit_follows_from_the_row_numbers(
    limit: str, memory: str
) -> None:
    inner = 16 * (1 + 16 + 1 + 1)
    assert read_kernel(kernel(limit, memory), 32).cycles_of_trip == 2 + 4 * (1 + inner + 1)


def test_the_bound_is_bytes_over_bandwidth_in_cycles() -> None:
    v5e = CHIPS["v5e"]
    assert v5e.hbm_cycles(819e6) == pytest.approx(1.5e6), "819 MB at 819 GB/s and 1.5 GHz"
    assert v5e.seconds(1.5e6) == pytest.approx(1e-3)


def test_tables_that_would_hang_the_compiler_are_known_by_their_rows() -> None:
    assert narrow_rows([[1000, 128], [1000, 256], [1000]]) == []
    assert narrow_rows([[1000, 128], [1000, 64], [1000, 200], [9, 64]]) == [64, 200]


def test_the_module_and_its_donors_are_read_from_a_dump(tmp_path: Path) -> None:
    assert module_of(b"\x0a\x81\x01" + b"x" * 129 + b"rest") == b"x" * 129
    with pytest.raises(ValueError, match="not an HloProto"):
        module_of(b"\x12\x01x")
    head = "HloModule a, buffer_donor={ (4, {}), (11, {}) }, entry_computation_layout={}\n"
    (tmp_path / "a.txt").write_text(head)
    assert donated_arguments(tmp_path / "a.hlo.pb") == {4, 11}


def test_several_programs_of_a_step_are_summed_by_their_runs_and_none_hides_a_copy() -> None:
    copied = read_program(
        PROGRAM.replace("COPY", "  %c = f32[1000,128]{1,0} copy(%t)"), [[1000, 128]], {"rows": 500}
    )
    plain = read_program(PROGRAM.replace("COPY", ""), [[1000, 128]], {"rows": 500})
    made = {"aliased_bytes": 8, "folder": "", "name": "jit_add"}
    write = {**made, "program": plain, "temporary_bytes": 5, "runs": 2.0}
    other = {**made, "program": copied, "temporary_bytes": 3, "runs": 1.0}
    found = summed({"lookup": [other], "update": [write]})
    assert found["aliased_bytes"] == 16
    assert found["temporary_bytes"] == 5
    program = found["program"]
    assert (program["estimated_cycles"], program["counted_cycles"]) == (3 * 70, 3 * 500)
    assert program["table_sized"] == {"copy[128000]": 1}
    assert program["ops"]["scatters"] == 2
    assert [each["runs"] for each in found["calls"]["update"]] == [2.0]


def has_compiler() -> bool:
    code = "import importlib.metadata as m; m.version('jax'); m.version('libtpu')"
    return subprocess.run([COMPILER, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_compiler(), reason="jax and libtpu are not installed")
def test_a_real_step_is_in_place_on_v6e_and_far_below_the_naive_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "tpu_report.py"), "--chips", "v6e"]
    command += ["--form", "ours", "naive", "--dim", "32", "--vocabulary", "200000"]
    command += ["--batch-size", "1024", "--compiler-python", COMPILER]
    command += ["--out", str(tmp_path), "--json", str(tmp_path / "report.json")]
    subprocess.run(command, check=True, capture_output=True)
    ours, naive = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert ours["program"]["table_sized"] == {}
    assert ours["aliased_bytes"] > 200_000 * 32 * 2 * 4, "weights and accumulators"
    assert ours["temporary_bytes"] < 1e6
    assert naive["program"]["table_sized"]
    assert ours["program"]["estimated_cycles"] < naive["program"]["estimated_cycles"] / 5


def test_a_report_of_failures_alone_has_no_plot_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from scripts import tpu_report

    failed = [{"case": "Adagrad", "form": "ours", "chip": "v5e", "failed": "no compiler"}]
    monkeypatch.setattr(tpu_report, "check_compiler", lambda python: None)
    monkeypatch.setattr(tpu_report, "run", lambda args: failed)
    picture = tmp_path / "report.png"
    monkeypatch.setattr(sys, "argv", ["tpu_report.py", "--plot", str(picture)])
    tpu_report.main()
    assert "no step was compiled" in capsys.readouterr().err
    assert not picture.exists()


@pytest.mark.skipif(not has_compiler(), reason="jax and libtpu are not installed")
@pytest.mark.skipif(
    not os.environ.get("OTHER_BACKEND_PYTHON"), reason="OTHER_BACKEND_PYTHON names no interpreter"
)
def test_the_programs_of_a_step_under_torch_tpu_are_in_place_on_v5e_and_cost_little_more_than_one(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-W", "ignore", str(SCRIPTS / "tpu_report.py"), "--chips", "v5e"]
    command += ["--form", "ours", "torch_tpu", "torch_tpu_joint", "--dim", "64"]
    command += ["--vocabulary", "1000000", "--batch-size", "8192", "--compiler-python", COMPILER]
    command += ["--torch-tpu-python", os.environ["OTHER_BACKEND_PYTHON"]]
    command += ["--out", str(tmp_path), "--json", str(tmp_path / "report.json")]
    subprocess.run(command, check=True, capture_output=True)
    one, several, joint = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [*several["calls"]] == ["lookup", "head", "backward", "update"]
    assert [*joint["calls"]] == ["lookup", "head", "update"]
    for row in (several, joint):
        assert row["program"]["table_sized"] == {}
        assert row["aliased_bytes"] == one["aliased_bytes"], "weights and accumulators"
        assert row["all_cycles"] < 1.5 * one["all_cycles"]
        (write,) = (each for each in row["calls"]["update"] if "scatter_add" in each["name"])
        assert write["estimated_cycles"] == 0, "changes are added as they are"
    estimated = [row["program"]["estimated_cycles"] for row in (joint, several)]
    assert estimated == sorted(estimated)
