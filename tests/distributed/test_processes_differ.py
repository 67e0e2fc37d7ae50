"""Processes that are configured differently, or are in different calls, are told so: none trains on in
silence, none is aborted, and all are still in step after it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from places import WORKERS
from processes.launch import LIMIT, ended, torchrun
from processes.messages import arrived
from processes.worlds import run_processes
from workers import processes_worker


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The errors that each of two processes met; they end well, though loops of theirs have not."""
    directory = tmp_path_factory.mktemp("differ")
    work = [str(WORKERS / "processes_worker.py"), str(directory)]
    process = torchrun("--standalone", "--nproc_per_node=2", *work)
    with ended(process):
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors[-5000:]
    assert "terminate called" not in errors
    return [json.loads(Path(directory / f"rank-{rank}.json").read_text()) for rank in range(2)]


PLACES = {
    "learning_rate": r"table 'users': optimizer\.learning_rate is 0\.1 on process 0 and 0\.2 on process 1",
    "clipvalue": r"table 'users': optimizer\.clipvalue is None on process 0 and 1\.0 on process 1",
    "weight_decay": r"optimizer\.weight_decay_factor is None on process 0 and 0\.1 on process 1",
    "accumulator": r"optimizer\.initial_accumulator_value is 0\.1 on process 0 and 0\.2 on process 1",
    "initializer": r"'users': initializer is .*std: 0\.1.* on process 0 and .*std: 0\.2.* on process 1",
    "partial": r"table 'users': initializer is .*val=0\.1.* on process 0 and .*val=0\.2.* on process 1",
    "row_id": r"initializer is .*offset: 0.* on process 0 and .*offset: 1.* on process 1",
    "quantization": r"quantization_config is .*upper: 1\.0.* on process 0 and .*upper: 2\.0.* on process 1",
    "id_bounds": r"id_bounds is 'raise' on process 0 and 'drop' on process 1",
    "each": r"optimizer\.use_gradient_accumulation is True on process 0 and False on process 1",
    "pipelining": r"pipeline_execution_with_tensor_core is False on process 0 and True on process 1",
    "depth": r"enqueue_depth is 2 on process 0 and 3 on process 1",
    "batch_size": r"batch_size is 4 on process 0 and 8 on process 1",
    "tables": r"tables is \['users'\] on process 0 and \['items'\] on process 1",
}


@pytest.mark.parametrize("option", PLACES)
def test_another_configuration_is_an_error_on_all_that_names_place_and_values(
    option: str, found: list[dict[str, Any]]
) -> None:
    for each in found:
        text = each["different"][option]
        assert text.startswith(
            "ValueError: TPUEmbedding: the processes are configured differently: "
        )
        assert re.search(PLACES[option], text), text
        assert text.endswith("build the same configuration in every process")


def test_every_difference_that_the_worker_makes_is_looked_at() -> None:
    assert set(PLACES) == set(processes_worker.DIFFERENT)


OUT_OF_STEP = {
    "start values": "ValueError: table 'users': its initializer gives other start values on process 1",
    "rates": r"ValueError: apply_gradients: the learning rates of the tables are \[0\.1\] on process 0 "
    r"and \[0\.3\] on process 1",
    "calls": r"OutOfStepError: .* process 0 in 'apply_gradients .*', process 1 in 'enqueue .*'",
    "names": r"OutOfStepError: .*process 0 in 'dequeue of batch 1 .*', process 1 in 'dequeue of batch 2 ",
    "embeddings": r"OutOfStepError: .* process 0 in 'enqueue \[embedding \d+\]', process 1 in 'enqueue \[e",
    "sizes": r"OutOfStepError: .* process 0 in 'exchanging ids.*', process 1 in 'gathering messages.*'",
    "frozen": r"ValueError: apply_gradients: the frozen tables are \[\] on process 0 and \['users'\] on",
    "frozen at clipping": r"ValueError: clip_grad_norm_: the frozen tables are \[\] on process 0 and \['u",
    "frozen at accumulating": r"ValueError: accumulate_gradients: the frozen tables are \[\] on process 0",
    "limits": r"ValueError: clip_grad_norm_: max_norm and norm_type are \(1\.0, 2\.0\) on process 0 and "
    r"\(2\.0, 2\.0\) on process 1; choose them by what all processes have in common",
    "clips": r"OutOfStepError: .* process 0 in 'apply_gradients .*', process 1 in 'clip_grad_norm_ .*'",
    "accumulates": r"OutOfStepError: .* process 0 in 'apply_gradients .*', process 1 in 'accumulate_grad",
    "micro-batches": r"OutOfStepError: apply_gradients: .* process 0 works on the gradients of batch 1 and "
    r"batch 2, process 1 on those of batch 2; all must enqueue, dequeue, accumulate and discard",
    "clipped micro-batches": r"OutOfStepError: clip_grad_norm_: .* process 0 works on the gradients of b",
    "scalers": r"OutOfStepError: .* process 0 in 'apply_gradients .*', process 1 in 'EmbeddingOptimizer",
    "bad rates": r"(ValueError|PeerError: apply_gradients: failed on 1 of 2 .*): EmbeddingOptimizer: the "
    r"learning rate of table 'users' must be at least 0, got -1\.0",
}


@pytest.mark.parametrize("case", OUT_OF_STEP)
def test_processes_out_of_step_are_told_which_call_each_is_in(
    case: str, found: list[dict[str, Any]]
) -> None:
    for each in found:
        assert re.match(OUT_OF_STEP[case], each["out of step"][case]), each["out of step"][case]


def test_a_loader_an_epoch_leaves_no_thread_no_open_file_and_no_group(
    found: list[dict[str, Any]],
) -> None:
    for each in found:
        (files, tasks, groups), (files_then, tasks_then, groups_then) = (
            each["loaders"][:3],
            each["loaders"][3:],
        )
        assert (files_then, groups_then) == (files, groups)
        # One left by each epoch would be EPOCHS - 3 more; a pool of the runtime may begin or end one.
        assert tasks_then - tasks < (processes_worker.EPOCHS - 3) / 2


def test_an_error_in_the_loop_of_one_process_shows_at_once_and_reaches_the_other(
    found: list[dict[str, Any]],
) -> None:
    waiting, failed = (each["loop"] for each in found)
    assert failed["error"] == "ZeroDivisionError: mine"
    assert waiting["data waited until the other had left"]
    assert waiting["error"].startswith(
        "PeerError: EmbeddingLoader: the loop of processes [1] of 2 has"
    )


def test_all_are_in_step_after_every_one_of_these_errors(found: list[dict[str, Any]]) -> None:
    assert [each["then"] for each in found] == ["none", "none"]


def test_numbers_that_are_gathered_keep_their_fractions(found: list[dict[str, Any]]) -> None:
    """The norm that is clipped was the root of whole numbers."""
    for each in found:
        assert torch.tensor(each["floats"]).equal(torch.tensor([[0.25, -1e-30, 3e38]] * 2))


def test_messages_arrive_as_those_of_threads_do(found: list[dict[str, Any]]) -> None:
    assert [each["messages"] for each in found] == run_processes(2, arrived)


def test_scales_that_part_are_an_error_on_all_before_the_tables_change(
    found: list[dict[str, Any]],
) -> None:
    own = [each["scales"]["own"] for each in found]
    assert [each["scales"] for each in own] == [[1024.0, 1024.0], [1024.0, 512.0]]
    for each in own:
        assert re.search(
            r"ValueError: EmbeddingOptimizer: .*1024 on process 0, 512 on process 1.*smallest scale",
            each["error"],
        )
        assert each["tables"][0] == each["tables"][1], "skipped by both"


def test_the_smallest_scale_given_to_all_keeps_processes_together(
    found: list[dict[str, Any]],
) -> None:
    one, other = (each["scales"]["shared"] for each in found)
    assert one == other
    assert one["error"] == "none"
    assert one["scales"] == [1024.0, 512.0, 512.0]
    assert one["tables"][0] == one["tables"][1] != one["tables"][2]
