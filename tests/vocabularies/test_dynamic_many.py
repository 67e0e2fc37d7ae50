"""Ids that get and lose rows, shared among processes and devices."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import launch
from workers.live_worker import ALL_IDS, Run, arguments, make, perform

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import __main__ as command
from torch_tpu_embedding.distributed.group import PeerError
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.vocabularies.asking import ask
from torch_tpu_embedding.vocabularies.owners import local_units, owners, process_of, unit_rows

ROOMY, TIGHT = Run(0, 8), Run(0, 12, rows=23)


def started(run: Run, processes: int, devices: int, tmp_path: Path) -> dict[str, Any]:
    """The findings of a run of so many processes of so many devices each has seen."""
    out = tmp_path / f"{processes}x{devices}.json"
    command = arguments(replace(run, out=str(out)))
    number = {"CPU_NUM_DEVICES": str(devices)} if devices > 1 else {}
    if processes > 1:
        port = f"--master_port={launch.free_port()}"
        process = launch.torchrun(f"--nproc_per_node={processes}", port, *command, **number)
    else:
        process = launch.start(command, **number)
    with launch.ended(process):
        _, errors = process.communicate(timeout=launch.LIMIT)
        assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in ("weight", "slot"):
        one, other = torch.tensor(found[name]), torch.tensor(wanted[name])
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    if found["seen"] is not None and wanted["seen"] is not None:
        torch.testing.assert_close(
            torch.tensor(found["seen"]), torch.tensor(wanted["seen"]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("processes", "devices", "sharding", "loader"),
    [(2, 1, "mod", False), (1, 2, "mod", True), (3, 1, "div", True), (1, 4, "div", False)],
)
def test_while_no_owner_is_full_all_train_what_one_trains(
    processes: int, devices: int, sharding: str, loader: bool, tmp_path: Path
) -> None:
    run = replace(ROOMY, sharding=sharding, loader=loader)
    wanted = perform(ROOMY)
    assert wanted["told"]["expirations"] > 0
    assert wanted["told"]["evictions"] == wanted["told"]["turned_away"] == 0
    assert_same(started(run, processes, devices, tmp_path), wanted)


def test_with_eviction_the_number_of_devices_decides_not_that_of_processes(tmp_path: Path) -> None:
    two, one = started(TIGHT, 2, 1, tmp_path), started(TIGHT, 1, 2, tmp_path)
    assert one["told"]["evictions"] > 5
    assert_same(two, one)


def test_checkpoints_and_deltas_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    path, run = str(tmp_path / "run"), Run(0, 9, admission=1)
    wanted = perform(run)
    perform(replace(run, stop=3, save=path))
    middle = replace(run, start=3, stop=5, load=path, save=path)
    started(replace(middle, delta=6), 2, 1, tmp_path)
    assert checkpoint.complete_steps(path) == [3, 5, 6]
    assert checkpoint.open(path).index.base is not None
    last = replace(run, start=6, load=path)
    assert_same(perform(last), wanted)
    assert_same(started(replace(last, sharding="div"), 3, 1, tmp_path), wanted)


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (1, 2)])
def test_row_numbers_of_a_checkpoint_become_ids_on_any_number_of_processes_and_devices(
    processes: int, devices: int, tmp_path: Path
) -> None:
    shapes = {"live": (30, 4), "plain": (9, 4)}
    tables = {
        name: {field: torch.rand(shape) for field in ("weight", "accumulators")}
        for name, shape in shapes.items()
    }
    checkpoint.write_tables(tmp_path / "run", 1, tables, num_shards=3)
    run = Run(0, 2, load=str(tmp_path / "run"))
    wanted, found = perform(run), started(run, processes, devices, tmp_path)
    assert_same(found, wanted)
    assert torch.equal(torch.tensor(found["numbers"]), tables["live"]["weight"])
    assert torch.equal(torch.tensor(wanted["numbers"]), tables["live"]["weight"])


def test_a_smaller_table_keeps_the_ids_that_were_used_last(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    saved = started(Run(0, 8, save=path), 2, 1, tmp_path)
    small = make(Run(0, 0, rows=15))
    with pytest.raises(ValueError, match=r"resize='allow' to load the ids that are used most"):
        checkpoint.load(small, path)
    checkpoint.load(small, path, resize="allow")
    rows = small.read_rows("live", ALL_IDS)
    vocabularies = small._tables.vocabularies
    assert vocabularies is not None
    (kept,) = vocabularies.maps[0]
    has_row = kept.index.find(ALL_IDS) >= 0
    assert has_row.sum() == 12
    assert torch.equal(rows[has_row], torch.tensor(saved["weight"])[has_row])
    whole = make(Run(0, 0))
    checkpoint.load(whole, path)
    assert whole._tables.vocabularies is not None
    (every,) = whole._tables.vocabularies.maps[0]
    known = every.index.find(ALL_IDS)
    used = np.where(known >= 0, every.last_used[known], -1)
    assert used[has_row].min() >= used[~has_row].max()


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (3, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("table", [0, 1, 5])
def test_each_id_has_one_owner_whose_rows_are_those_of_its_device(
    strategy: Any, processes: int, devices: int, table: int
) -> None:
    rows, count = 23, processes * devices
    seen = np.zeros(rows, np.int64)
    where = [Placement(strategy, processes, rank, devices) for rank in range(processes)]
    for placement in where:
        for device, unit in enumerate(local_units(placement, table)):
            assert process_of(placement, table, np.array([unit])) == placement.rank
            numbers = torch.tensor([*unit_rows(placement, rows, unit)], dtype=torch.int64)
            on, position = placement.locate(table, rows, numbers)
            assert (on == placement.rank * devices + device).all()
            assert torch.equal(position, torch.arange(len(numbers)))
            seen[numbers.numpy()] += 1
    assert (seen == 1).all()
    of = owners(ALL_IDS, count)
    assert ((of >= 0) & (of < count)).all()
    assert len({*of.tolist()}) == count


class FakeGroup:
    """One of two processes, whose peer is told by a script: what it sends in each exchange."""

    rank, size = 0, 2

    def __init__(self, head: list[int], failure: str | None = None) -> None:
        self._head, self._failure = head, failure

    def scoped(self, scope: str) -> FakeGroup:
        return self

    clone = scoped

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, torch.tensor(self._head)])

    def gather_objects(self, value: Any) -> list[Any]:
        return [value, self._failure]

    def all_to_all(self, pieces: Any, lengths: Any) -> Any:
        raise AssertionError("ids must not travel")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def ask_with(group: Any, ids: Any) -> None:
    def answer(asked: Any) -> Any:
        raise AssertionError("no map may be asked")

    ask(group, Placement("mod", 2, 0, 1), "enqueue", 1, ids, [0], answer)


def test_a_batch_that_one_process_lacks_is_seen_by_no_map() -> None:
    ids = {0: ALL_IDS[:3]}
    with pytest.raises(PeerError, match="process 1: ValueError: no ids"):
        ask_with(FakeGroup([1, 1, 0, 0], "ValueError: no ids"), ids)
    with pytest.raises(ValueError, match="mine"):
        ask_with(FakeGroup([0, 1, 0, 0]), ValueError("mine"))
    with pytest.raises(ValueError, match="some processes gave a batch for training"):
        ask_with(FakeGroup([0, 0, 0, 0]), ids)


def test_inspect_shows_how_many_rows_have_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = perform(Run(0, 4, rows=103, save=str(tmp_path)))["told"]
    assert command.main(["inspect", str(tmp_path), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["step"]["tables"]
    (live,) = [each for each in tables if each["name"] == "live"]
    assert live["vocabulary"]["occupancy"] == pytest.approx(told["occupancy"])
    ids = live["vocabulary"]["ids"]
    assert ids == round(100 * told["occupancy"]) > 5
    assert command.main(["inspect", str(tmp_path)]) == 0
    assert f"DynamicVocabulary: {ids} ids, {ids}% of the rows for ids" in capsys.readouterr().out
