"""Processes and devices that a user did not mean: workers of a DataLoader, devices that stay idle."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from places import ROOT, SLOW, python_path
from processes.launch import forked_python
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler

import torch_tpu_embedding as tte

B = 4


@pytest.fixture(scope="module")
def embedding() -> tte.TPUEmbedding:
    table = tte.TableConfig(50, 4, name="a")
    made = tte.TPUEmbedding({"id": tte.FeatureConfig(table)}, B, tte.SGD(0.1), seed=0)
    made({"id": torch.arange(B)})
    made.discard()
    return made


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> int:
        return number


IN_A_WORKER: dict[str, Callable[[tte.TPUEmbedding, torch.Tensor], object]] = {
    "to_device": lambda e, ids: e.to_device(ids),
    "to_host": lambda e, ids: e.to_host(ids),
    "TPUEmbedding": lambda e, ids: e.enqueue({"id": ids}),
    "sync": lambda e, ids: tte.runtime.sync(),
}


@pytest.mark.parametrize("call", IN_A_WORKER)
def test_the_device_in_a_worker_of_a_data_loader_is_an_error_not_a_hang(
    call: str, embedding: tte.TPUEmbedding
) -> None:
    def collate(rows: list[int]) -> object:
        return IN_A_WORKER[call](embedding, torch.tensor(rows))

    loader = DataLoader(Rows(), batch_size=B, num_workers=1, collate_fn=collate, timeout=30 * SLOW)
    message = f"{call}: this process was forked .* `prepare` of an EmbeddingLoader"
    with pytest.raises(RuntimeError, match=message):
        next(iter(loader))


def test_what_that_error_advises_works(embedding: tte.TPUEmbedding) -> None:
    data = DataLoader(Rows(), batch_size=B, num_workers=1)
    loader = tte.EmbeddingLoader(
        data, embedding, features=lambda ids: {"id": ids}, prepare=embedding.to_device
    )
    seen = []
    for ids in loader:
        embedding.dequeue()
        embedding.discard()
        seen += ids.cpu().tolist()
    assert seen == [*range(8)]


ORDERS = {
    "shuffle": {"shuffle": True, "batch_size": B},
    "sampler": {"sampler": SubsetRandomSampler([0, 1, 2, 3]), "batch_size": B},
    "single": {"shuffle": True, "batch_size": None},
    "batch_sampler": {
        "batch_sampler": torch.utils.data.BatchSampler(RandomSampler(range(8)), B, False)
    },
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_place_in_a_random_order_is_warned_of(order: str, embedding: tte.TPUEmbedding) -> None:
    loader = tte.EmbeddingLoader(DataLoader(Rows(), **ORDERS[order]), embedding)
    loader.load_state_dict(loader.state_dict())  # the beginning is a place in any order
    message = "has no state_dict, and its .*RandomSampler draws another order .*StatefulDataLoader"
    with pytest.warns(RuntimeWarning, match=message):
        loader.load_state_dict({"batches": 1, "data": None})
    with pytest.warns(RuntimeWarning, match=message):
        assert loader.state_dict()["batches"] == 1


def test_a_place_in_a_fixed_order_is_not(embedding: tte.TPUEmbedding) -> None:
    for data in (DataLoader(Rows(), batch_size=B), [torch.arange(B)]):
        loader = tte.EmbeddingLoader(data, embedding)
        loader.load_state_dict(loader.state_dict())


def test_a_stateful_data_loader_resumes_exactly(embedding: tte.TPUEmbedding) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> tte.EmbeddingLoader:
        data = stateful.StatefulDataLoader(Rows(), batch_size=2, shuffle=True)
        return tte.EmbeddingLoader(
            data, embedding, features=lambda ids: {"id": ids}, training=False
        )

    loader = make()
    for ids in loader:
        embedding.dequeue()
        seen, state = ids.tolist(), loader.state_dict()
        break
    again = make()
    again.load_state_dict(state)
    for ids in again:
        embedding.dequeue()
        seen += ids.tolist()
    assert sorted(seen) == [*range(8)]


EMPTY: dict[str, Callable[[], Any]] = {
    "ragged": lambda: tte.Ragged(torch.tensor([]), torch.zeros(B + 1, dtype=torch.int64)),
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(2, 0), torch.tensor([]), (B, 3)),
    "jagged": lambda: torch.nested.nested_tensor([torch.tensor([])] * B, layout=torch.jagged),
}


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_any_id_has_no_type_to_be_wrong(kind: str, weighted: bool) -> None:
    """`torch.tensor([])` is of a floating type, whatever its list would have held."""
    table = tte.TableConfig(50, 4, name="a")
    serving = tte.TPUEmbedding(tte.FeatureConfig(table), B, tte.SGD(0.1), device="cpu")
    weights = EMPTY[kind]() if weighted else None
    if weighted and kind == "ragged":
        weights = tte.Ragged.from_lists([[]] * B)  # of an integer type
    assert torch.equal(serving(EMPTY[kind](), weights), torch.zeros(B, 4))


IDLE = """
import warnings, torch_tpu_embedding as tte
from torch_tpu_embedding import distributed
def make():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        made = tte.TPUEmbedding(tte.FeatureConfig(tte.TableConfig(50, 4)), 4, tte.SGD(0.1))
    return made, [str(each.message) for each in found if each.category is RuntimeWarning]
print(*make()[1])
distributed.initialize(spmd=False)
assert make()[1] == []
distributed.initialize()  # the remedy
made, found = make()
assert found == [] and made.placement.num_devices == 2
"""


def test_devices_that_stay_idle_are_warned_of_with_the_remedy() -> None:
    paths = {"PYTHONPATH": python_path(ROOT), "CPU_NUM_DEVICES": "2"}
    done = subprocess.run(
        [forked_python(), "-c", IDLE],
        capture_output=True, text=True, timeout=30 * SLOW, env={**os.environ, **paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = (
        "1 of the 2 devices that this process sees stay idle; call torch_tpu_embedding.distributed."
    )
    assert wanted in done.stdout
