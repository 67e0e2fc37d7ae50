"""scripts/bench.py: what it writes, that all sides compute the same, and that absent peers are named."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from places import SCRIPTS, SLOW

PEERS = ("torch", "dense-xla", "fbgemm", "jax")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the text of a short run: dense, ragged and sequence inputs of shared tables."""
    folder = tmp_path_factory.mktemp("bench")
    command = [
        sys.executable, str(SCRIPTS / "bench.py"), "--workload", "movielens", "--batch-size", "16",
        "--rounds", "2", "--steps", "2", "--warmup", "8", "--peers", *PEERS,
        "--json", str(folder / "out.json"), "--plot", str(folder / "out.png"),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "out.png").stat().st_size > 0
    return json.loads((folder / "out.json").read_text()), ended.stdout


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module; it imports its neighbours by their names."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench")


def test_every_sample_and_its_phases_are_written(run: tuple[dict[str, Any], str]) -> None:
    (series,) = run[0]["series"]
    assert series["settings"]["workload"] == "movielens"
    assert series["machine"]["versions"]["torch"]
    assert series["copy_bytes_per_second"] > 0
    for name in ("ours", "torch"):
        rounds = series["sides"][name]["rounds_ms"]
        assert [len(turn) for turn in rounds] == [2, 2]
        for step in (step for turn in rounds for step in turn):
            phases = {phase: time for phase, time in step.items() if phase != "all"}
            assert min(phases.values()) >= 0
            # Not more than the whole; less by what the system gave to others between two clock readings.
            assert sum(phases.values()) <= step["all"] * (1 + 1e-9)
    assert set(series["summary"]["ours"]["phases_ms"]) == {"host", "trace", "run"}
    assert len(series["others_cores"]) == 2
    assert len(series["sides"]["dense-xla"]["rounds_ms"][0]) == 1  # it is slow: a few steps must do


def test_counts_are_those_of_the_batches(run: tuple[dict[str, Any], str]) -> None:
    (series,) = run[0]["series"]
    counts = series["counts"]
    assert 0 < counts["unique_rows"] <= counts["ids"]
    assert counts["bytes_requested"] == pytest.approx(counts["ids"] * 32 * 4)
    assert counts["unique_bytes"] == pytest.approx(counts["unique_rows"] * 32 * 4 * 2)  # and slots
    assert counts["activation_bytes"] == 16 * (3 + 20) * 32 * 4
    least = 2 * (counts["unique_bytes"] + counts["activation_bytes"])
    assert counts["least_bytes"] == pytest.approx(least)


def test_all_sides_compute_the_same(run: tuple[dict[str, Any], str]) -> None:
    (series,) = run[0]["series"]
    compared = {name: side["checked"] for name, side in series["sides"].items() if name != "ours"}
    assert {"torch", "dense-xla"} <= set(compared)
    for checked in compared.values():
        assert checked["equal"]
        assert checked["largest_difference"] <= 1e-4
    assert series["compiled_after_warm_up"] == 0


def test_a_peer_that_is_absent_is_named_with_the_reason(run: tuple[dict[str, Any], str]) -> None:
    written, printed = run
    (series,) = written["series"]
    assert set(PEERS) == set(series["absent"]) | (set(series["sides"]) - {"ours"})
    assert "environment of its own" in series["absent"]["jax"]
    assert "jax not measured: needs an environment of its own" in printed
    if importlib.util.find_spec("fbgemm_gpu") is None:
        assert "pip install --no-deps fbgemm-gpu-cpu" in series["absent"]["fbgemm"]


def test_sides_that_do_not_fit_into_memory_are_measured_apart(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.bench_series import Series, table_bytes

    base = Series("onehot26", "Adagrad", ("ours",), rounds=1, steps=1, warm_up=1)
    held = table_bytes(base.resolve(), "Adagrad")
    assert held == 26 * 100_000 * 64 * 4 * 2
    monkeypatch.setattr(bench, "available_memory", lambda: 2.5 * held / bench.SHARE_OF_MEMORY)
    parts = bench.divide(base, ["torch", "fbgemm", "dense-xla", "jax"])
    assert [series.sides for series, _ in parts] == [("ours", "torch"), ("ours", "fbgemm")]
    named = parts[0][1]
    assert set(named) == {"dense-xla", "jax"}
    assert "its tables need 5.3 GB" in named["dense-xla"]
    assert parts[1][1] == {}


def test_disturbed_rounds_are_left_out_of_the_summary_but_not_of_the_samples(bench: Any) -> None:
    report = importlib.import_module("support.bench_report")
    turns = {"ours": [2.0, 90.0, 2.0], "torch": [6.0, 900.0, 8.0], "dense-xla": [10.0]}
    sides = {
        name: {"checked": "", "rounds_ms": [[{"all": each, "run": each}] for each in times]}
        for name, times in turns.items()
    }
    result = {
        "sides": sides, "others_cores": [0.0, 1.2, 0.1], "counts": {"ids": 10, "least_bytes": 4000},
        "copy_bytes_per_second": 1e9,
    }  # fmt: skip
    (written,) = report.as_json([result])["series"]
    assert written["sides"] == sides
    summary = written["summary"]
    assert summary["ours"]["median_ms"] == 2.0
    assert summary["ours"]["rounds_left_out"] == 1
    assert summary["torch"]["ratio_to_ours"] == 3.5
    assert summary["dense-xla"]["ratio_to_ours"] == 5.0
    assert summary["ours"]["copy_fraction"] == pytest.approx(4000 / 2e-3 / 1e9)
    result["others_cores"] = [1.0, 1.2, 0.9]  # none was quiet: all are used
    assert report.summarize(result)["ours"]["rounds_left_out"] == 0


def test_the_small_workloads_have_the_published_sizes(bench: Any) -> None:
    from support.workloads import MORE_WORKLOADS, synthetic_tiny

    full = synthetic_tiny(10**9, 4096)
    assert len(full.rows) == 55
    assert sum(each.ids for each in full.inputs) == 85
    held = sum(4 * rows * dim for rows, dim in zip(full.rows, full.dims, strict=True))
    assert round(held / 2**30, 1) == 4.2
    assert len(MORE_WORKLOADS["small26"].first_feature().rows) == 1
