"""Real processes: launched by torchrun or by hand, on one host or two, and failing.

One launch costs seconds, most of them for imports; each serves as many assertions as it can.
"""

from __future__ import annotations

import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from places import WORKERS
from processes.launch import LIMIT, PROMPTLY, ended, free_port, torchrun
from workers import torchrun_worker

from torch_tpu_embedding.distributed.placement import STRATEGIES, Strategy
from torch_tpu_embedding.distributed.rendezvous import fresh_store

WORKER = str(WORKERS / "torchrun_worker.py")


# -- the same numbers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The numbers that one process sees and holds."""
    found = {strategy: torchrun_worker.train(strategy) for strategy in STRATEGIES}
    return {**found, "clipped": torchrun_worker.clipped_steps()}


def assert_equal_to_one_process(
    directory: Path, alone: dict[str, dict[str, Any]], strategy: Strategy, size: int
) -> None:
    """Activations, tables and slots of all processes together are those of one."""
    wanted = alone[strategy]
    found = [torch.load(directory / f"rank-{rank}.pt")[strategy] for rank in range(size)]
    for step, activations in enumerate(wanted["activations"]):
        for feature, activation in enumerate(activations):
            joined = torch.cat([each["activations"][step][feature] for each in found])
            if step == 0:
                assert torch.equal(joined, activation), "lookups of equal tables: to the bit"
            torch.testing.assert_close(joined, activation, rtol=1e-5, atol=1e-6)
    for key, value in wanted["state"].items():
        table = key.split(".")[0]
        whole = torch.full_like(value, torch.nan)
        for each in found:
            whole[each["ids"][table]] = each["state"][key]
        torch.testing.assert_close(whole, value, rtol=1e-5, atol=1e-6, msg=key)
        held = sum(len(each["ids"][table]) for each in found)
        assert held == len(value), "no row is held twice"
    assert [each["late_compiles"] for each in found] == [0] * size


def assert_clipped_as_in_one_process(
    directory: Path, alone: dict[str, dict[str, Any]], size: int
) -> None:
    """The norm of the whole gradient, and tables and dense model that were trained by clipped ones."""
    wanted = alone["clipped"]
    for rank in range(size):
        found = torch.load(directory / f"rank-{rank}.pt")["clipped"]
        torch.testing.assert_close(found["norms"], wanted["norms"], rtol=1e-5, atol=0)
        torch.testing.assert_close(found["weight"], wanted["weight"], rtol=1e-5, atol=1e-6)
        for key, value in found["state"].items():
            whole = wanted["state"][key][found["ids"][key.split(".")[0]]]
            torch.testing.assert_close(value, whole, rtol=1e-5, atol=1e-5, msg=key)


@dataclass
class Launch:
    directory: Path
    errors: str
    status: int
    end: float


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Three processes that train, until the second one meets a bad id."""
    directory = tmp_path_factory.mktemp("three")
    work = [WORKER, "laws", "--directory", str(directory), "--also", "clipped", "--bad-rank", "1"]
    process = torchrun("--standalone", "--nproc_per_node=3", *work)
    with ended(process):
        _, errors = process.communicate(timeout=LIMIT)
        return Launch(directory, errors, process.returncode, time.time())


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A process on each of two hosts, which are one here: each has a torchrun of its own."""
    directory = tmp_path_factory.mktemp("hosts")
    meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{free_port()}", "--rdzv_id=test"]
    work = [WORKER, "laws", "--directory", str(directory), "--also", "loaders", "clipped"]
    hosts = [torchrun("--nnodes=2", "--nproc_per_node=1", *meeting, *work) for _ in range(2)]
    with ended(*hosts):
        for host in hosts:
            _, errors = host.communicate(timeout=LIMIT)
            assert host.returncode == 0, errors
    return directory


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_hosts_train_the_tables_of_one_process(
    strategy: Strategy, two_hosts: Path, alone: dict[str, dict[str, Any]]
) -> None:
    assert_equal_to_one_process(two_hosts, alone, strategy, 2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_three_processes_train_the_tables_of_one(
    strategy: Strategy, three: Launch, alone: dict[str, dict[str, Any]]
) -> None:
    assert_equal_to_one_process(three.directory, alone, strategy, 3)


def test_accumulated_and_clipped_steps_of_several_processes_are_those_of_one(
    two_hosts: Path, three: Launch, alone: dict[str, dict[str, Any]]
) -> None:
    assert_clipped_as_in_one_process(two_hosts, alone, 2)
    assert_clipped_as_in_one_process(three.directory, alone, 3)


def test_four_processes_train_the_tables_of_one(
    tmp_path: Path, alone: dict[str, dict[str, Any]]
) -> None:
    work = [WORKER, "laws", "--directory", str(tmp_path), "--strategies", "mod"]
    process = torchrun("--standalone", "--nproc_per_node=4", *work)
    with ended(process):
        output, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert output == "", "neither the package nor gloo writes to where a program's results are"
    assert_equal_to_one_process(tmp_path, alone, "mod", 4)


def test_a_loader_keeps_the_sizes_that_all_processes_had_in_the_one_before(two_hosts: Path) -> None:
    one, other = (torch.load(two_hosts / f"rank-{rank}.pt")["loaders"] for rank in range(2))
    for first, second in (one, other):
        assert first == second, "no size is smaller, nothing is compiled"
    assert one[0]["sizes"] == other[0]["sizes"]
    assert all(ids > 2 * torchrun_worker.BATCH for _, ids, _ in one[0]["sizes"])


# -- meeting ---------------------------------------------------------------------------------------


def test_a_restarted_run_meets_apart_from_the_dead() -> None:
    store = torch.distributed.HashStore()

    def meet(size: int) -> list[bytes]:
        """Each process reads at once what the first one wrote."""

        def one(rank: int) -> bytes:
            time.sleep(0.1 * rank)
            own = fresh_store(store, rank, size, timedelta(seconds=20))
            if rank == 0:
                own.set("address", secrets.token_hex(4))
            return bytes(own.get("address"))

        with ThreadPoolExecutor(size) as threads:
            return [*threads.map(one, range(size))]

    attempts = [meet(3), meet(3), meet(2), meet(3)]
    assert all(len(set(attempt)) == 1 for attempt in attempts)
    assert len({attempt[0] for attempt in attempts}) == 4


def test_a_process_that_never_comes_is_an_error() -> None:
    store = torch.distributed.HashStore()
    store.set("name/1", "of a dead one")
    with pytest.raises(RuntimeError, match=r"process 0 waited 0\.1 s for all of the 2 processes"):
        fresh_store(store, 0, 2, timedelta(seconds=0.1))


# -- failures --------------------------------------------------------------------------------------


def test_a_bad_id_of_one_process_ends_all_with_its_message(three: Launch) -> None:
    assert three.status == 1
    found = f"id {torchrun_worker.BAD_ID} at sample 1 is outside [0, 100)"
    others = f"PeerError: enqueue: failed on 1 of 3 processes; process 1: ValueError: .*{re.escape(found)}"
    for rank in range(3):
        said = others if rank != 1 else f"ValueError: feature 'user' .*{re.escape(found)}"
        assert re.search(rf"^\[rank{rank}\]: .*{said}", three.errors, re.MULTILINE)
    begin = max(float((three.directory / f"bad-{rank}").read_text()) for rank in range(3))
    assert three.end - begin < PROMPTLY
