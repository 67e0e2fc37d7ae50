"""`distributed.all_gather`: S processes have the losses and the gradients of one that has the whole batch.

Processes are threads, where a process of its own adds nothing; real ones (see all_gather_worker.py) train a
whole model with torchrun, and threads with a device each stand for a process for each chip.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from places import WORKERS
from processes.launch import LIMIT, environment, forked_python
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor
from torch.nn import functional

from torch_tpu_embedding import distributed
from torch_tpu_embedding.distributed.all_gather import gather_with_gradient
from torch_tpu_embedding.distributed.group import OutOfStepError

WORKER = str(WORKERS / "all_gather_worker.py")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]


def join(value: Tensor, group: ThreadGroup) -> Tensor:
    return gather_with_gradient(value, group, in_program=False)


# -- one call --------------------------------------------------------------------------------------


@given(
    st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from(DTYPES), st.integers(0, 99),
)  # fmt: skip
def test_every_process_gets_the_tensors_of_all_in_the_order_of_ranks(
    size: int, shape: list[int], dtype: torch.dtype, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    parts = [torch.randn(shape, generator=drawn).mul(9).to(dtype) for _ in range(size)]
    for joined in run_processes(size, lambda group: join(parts[group.rank], group)):
        assert joined.dtype == dtype
        assert torch.equal(joined, torch.cat(parts))


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.integers(0, 99))
def test_the_gradient_of_a_part_is_the_sum_of_those_of_all_processes(
    size: int, n: int, dim: int, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    start = torch.randn(size * n, dim, generator=drawn)
    factors = torch.randn(size, size * n, dim, generator=drawn)

    def work(group: ThreadGroup) -> Tensor:
        own = start.view(size, n, dim)[group.rank].clone().requires_grad_()
        (join(own, group).square() * factors[group.rank]).sum().backward()
        assert own.grad is not None
        return own.grad

    wanted = 2 * start * factors.sum(0)
    torch.testing.assert_close(torch.cat(run_processes(size, work)), wanted)


def in_batch_softmax(users: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(users @ items.T, wanted)


@settings(max_examples=20)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 4), st.integers(0, 99))
def test_a_mean_over_own_samples_divided_by_the_processes_has_the_gradient_of_the_whole_batch(
    size: int, n: int, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    users, items = torch.randn(2, size * n, 3, generator=drawn).unbind()

    def work(group: ThreadGroup) -> list[Tensor]:
        positions = torch.arange(group.rank * n, (group.rank + 1) * n)
        own = [each[positions].clone().requires_grad_() for each in (users, items)]
        loss = in_batch_softmax(own[0], join(own[1], group), positions)
        (loss / size).backward()
        return [loss.detach(), *(each.grad for each in own if each.grad is not None)]

    whole = [each.clone().requires_grad_() for each in (users, items)]
    loss = in_batch_softmax(*whole, torch.arange(size * n))
    loss.backward()
    losses, *found = zip(*run_processes(size, work), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())
    for parts, each in zip(found, whole, strict=True):
        torch.testing.assert_close(torch.cat(parts), each.grad)


def test_alone_it_is_the_identity() -> None:
    value = torch.ones(2, 3, requires_grad=True)
    assert distributed.all_gather(value) is value


# -- errors ----------------------------------------------------------------------------------------

SHAPES = "the tensors differ in shape: [3, 2] on process 0, [2, 2] on process 1, [3, 2] on process 2; give"
TYPES = "the tensors differ in dtype: torch.float32 on process 0, torch.float64 on process 1, torch.float32"
NEEDS = "the tensors differ in requires_grad: True on process 0, False on process 1, True on process 2; "


@pytest.mark.parametrize(
    ("spoil", "mend", "message"),
    [
        (lambda v: v[:2], lambda v: torch.cat([v, v[:1]]), SHAPES),
        (lambda v: v.double(), lambda v: v.float(), TYPES),
        (lambda v: v.detach(), lambda v: v.requires_grad_(), NEEDS),
    ],
    ids=["shape", "dtype", "requires_grad"],
)
@pytest.mark.parametrize("size", [2, 3])
def test_tensors_that_differ_are_an_error_on_all_and_all_are_in_step_after_it(
    size: int, spoil: Callable[[Tensor], Tensor], mend: Callable[[Tensor], Tensor], message: str
) -> None:
    def work(group: ThreadGroup) -> tuple[str, Tensor]:
        value = torch.ones(3, 2, requires_grad=True)
        if group.rank == 1:
            value = spoil(value)
        with pytest.raises(ValueError) as caught:
            join(value, group)
        return str(caught.value), join(mend(value) if group.rank == 1 else value, group)

    (first, joined), *others = run_processes(size, work)
    assert all(text == first for text, _ in others)
    beginning = message.partition(" on process 1")[0] + " on process 1"
    assert re.match(re.escape(f"all_gather: {message if size == 3 else beginning}"), first)
    assert joined.shape == (3 * size, 2)


def test_a_backward_that_one_process_leaves_out_is_an_error_that_names_it() -> None:
    def work(group: ThreadGroup) -> None:
        joined = join(torch.ones(2, 2, requires_grad=True), group)
        if group.rank:
            joined.sum().backward()
        else:
            join(torch.ones(2, 2), group)

    with pytest.raises(OutOfStepError, match=r"backward of all_gather, gradient \[4, 2\]"):
        run_processes(2, work)


def test_what_is_no_tensor_with_a_first_dimension_is_an_error() -> None:
    with pytest.raises(TypeError, match="all_gather: expected a tensor, got list"):
        distributed.all_gather([1.0])  # type: ignore[arg-type]
    value = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"without dimensions .* pass value\.reshape\(1\)"):
        distributed.all_gather(value)
    assert distributed.all_gather(value.reshape(1)).tolist() == [1.0]


# -- whole models ----------------------------------------------------------------------------------


def run_worker(command: list[str], **more: str) -> None:
    done = subprocess.run(
        [forked_python(), "-W", "ignore", *command],
        capture_output=True, text=True, timeout=LIMIT,
        env=environment(PYTHON_EXEC=forked_python(), **more),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def read(folder: Path, size: int) -> list[dict[str, Any]]:
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]
    for each in found[1:]:
        assert each["losses"] == found[0]["losses"]
        assert each["dense"] == found[0]["dense"]
    return found


def whole_tables(found: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The tables `[V, D]` by their keys, from the rows that each process holds."""
    tables: dict[str, dict[int, Tensor]] = {}
    for each in found:
        for key, rows in each["tables"].items():
            ids = each["ids"][key.partition(".")[0]]
            tables.setdefault(key, {}).update(zip(ids, torch.tensor(rows), strict=True))
    return {
        key: torch.stack([rows[number] for number in range(len(rows))])
        for key, rows in tables.items()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of one process that has trained with the whole batch."""
    folder = tmp_path_factory.mktemp("alone")
    run_worker([WORKER, str(folder)])
    return read(folder, 1)


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (3, 1), (1, 2)])
def test_any_number_of_processes_or_devices_trains_the_model_of_one(
    processes: int, devices: int, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    if devices > 1:
        run_worker([WORKER, str(tmp_path)], CPU_NUM_DEVICES=str(devices))
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        run_worker([*launcher, WORKER, str(tmp_path)])
    found = read(tmp_path, processes)
    for each in found:
        assert each["compiled"][-1] == each["compiled"][1], "nothing after the first two steps"
    torch.testing.assert_close(
        torch.tensor(found[0]["losses"]), torch.tensor(alone[0]["losses"]), rtol=1e-6, atol=0
    )
    for one, other in zip(alone[0]["dense"], found[0]["dense"], strict=True):
        torch.testing.assert_close(torch.tensor(other), torch.tensor(one), rtol=1e-5, atol=1e-6)
    tables = whole_tables(found)
    assert len(tables) == 3
    for key, wanted in whole_tables(alone).items():
        torch.testing.assert_close(tables[key], wanted, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("size", [2, 4])
def test_in_the_program_of_a_process_for_each_chip_values_and_gradients_are_the_same(
    size: int, tmp_path: Path
) -> None:
    run_worker([WORKER, "replicas", str(tmp_path), str(size)])
    found = json.loads((tmp_path / "replicas.json").read_text())
    parts = [1.0 + torch.arange(6.0).view(2, 3) + 10 * rank for rank in range(size)]
    factor = torch.arange(6.0 * size).view(2 * size, 3) * sum(range(1, size + 1))
    gradients = (2 * torch.cat(parts) * factor).chunk(size)
    for (joined, gradient), wanted in zip(found, gradients, strict=True):
        assert torch.equal(torch.tensor(joined), torch.cat(parts))
        assert torch.equal(torch.tensor(gradient), wanted)
