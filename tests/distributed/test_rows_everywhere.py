"""Rows read, written and searched by processes, and by devices of one program, are those of one device."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch
from processes.launch import LIMIT, ended, environment, forked_python, torchrun
from workers import rows_worker
from workers.rows_worker import IDS, WRITTEN, queries, whole_numbers

WORKER = rows_worker.__file__
CASES = ["mod CPU", "div TPU"]


@pytest.fixture(scope="module", params=["3 processes", "2 devices"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The results of each process."""
    folder = tmp_path_factory.mktemp("rows")
    if request.param == "2 devices":
        done = subprocess.run(
            [forked_python(), "-W", "ignore", WORKER, str(folder)],
            capture_output=True, text=True, timeout=LIMIT,
            env=environment(CPU_NUM_DEVICES="2"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return [torch.load(folder / "rank-0.pt")]
    process = torchrun("--standalone", "--nproc_per_node=3", WORKER, str(folder))
    with ended(process):
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(3)]


@pytest.mark.parametrize("case", CASES)
def test_each_process_gets_the_rows_it_asked_for(found: list[dict[str, Any]], case: str) -> None:
    whole = whole_numbers((203, 5), torch.float32)
    assert torch.equal(torch.cat([each[case]["read"] for each in found]), whole[IDS])


@pytest.mark.parametrize("case", CASES)
def test_every_process_gets_the_whole_table(found: list[dict[str, Any]], case: str) -> None:
    whole = whole_numbers((203, 5), torch.float32)
    for each in found:
        assert torch.equal(each[case]["range"], whole[3:170])
        written = whole.clone()
        written[WRITTEN] = WRITTEN[:, None].expand(-1, 5).float()
        assert torch.equal(each[case]["written"], written)
        few = whole_numbers((2, 5), torch.float32)
        few[1] = 1.0
        assert torch.equal(each[case]["few"], few)


@pytest.mark.parametrize("case", CASES)
def test_each_process_finds_the_best_of_all_rows_for_its_queries(
    found: list[dict[str, Any]], case: str
) -> None:
    items = whole_numbers((203, 5), torch.float32)
    few = whole_numbers((2, 5), torch.float32)
    few[1] = 1.0
    for name, rows, k, start, stop in (
        ("best", items, 6, 0, 203),
        ("best in range", items, 5, 20, 60),
        ("best of few", few, 2, 0, 2),
    ):
        scores = queries() @ rows[start:stop].T
        wanted = scores.sort(dim=1, descending=True, stable=True)
        joined = [torch.cat(parts) for parts in zip(*(e[case][name] for e in found), strict=True)]
        assert torch.equal(joined[0], wanted.values[:, :k]), name
        assert torch.equal(joined[1], wanted.indices[:, :k] + start), name


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_compiled_again_and_nothing_runs_on_the_host(
    found: list[dict[str, Any]], case: str
) -> None:
    assert [each[case]["late_compiles"] for each in found] == [0] * len(found)
    assert [each[case]["fallbacks"] for each in found] == [{}] * len(found)


def test_updates_that_a_pipeline_holds_back_are_applied_first(found: list[dict[str, Any]]) -> None:
    step = 0.1 * 12 / (0.1 + 144) ** 0.5
    for each in found:
        for name, rows in (("read", 203), ("whole", 2)):
            before = whole_numbers((rows, 5), torch.float32)[0]
            torch.testing.assert_close(each["held"][name][0], before - step)


def test_an_error_of_one_process_is_one_of_all(found: list[dict[str, Any]]) -> None:
    if len(found) == 1:
        assert found[0]["errors"] == [], "one process has nobody to differ from"
        return
    outside = "ValueError: read_rows: table 'items': id 203 at position 0 is outside [0, 203)"
    beginnings = [
        outside,
        "write_rows: table 'items': id 1 gets different values from process 0 and process 1",
        "ValueError: table_weight: start is 0 on process 0 and 1 on process 1",
        "ValueError: top_k: k is 1 on process 0 and 2 on process 1",
        "ValueError: read_rows: the table is 'items' on process 0 and 'few' on process 1",
    ]
    for rank, each in enumerate(found):
        assert len(each["errors"]) == len(beginnings)
        for message, beginning in zip(each["errors"], beginnings, strict=True):
            assert beginning in message
        peer = f"PeerError: read_rows: failed on 1 of 3 processes; process 1: {outside}"
        assert each["errors"][0].startswith(outside if rank == 1 else peer)
