"""The data that moves between devices in a compiled step: two all-to-alls a stack, of what its rows need.

The programs are those of scripts/trace_step.py: partitioned over virtual devices, and that of a process of
a TPU with one process for each chip, which is compiled but not run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from programs.traced import traced

import torch_tpu_embedding as tte
from scripts.support.traffic import count_traffic
from torch_tpu_embedding.batch.batcher import Batcher
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.group import Alone
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.tables.layout import build_stacks

FIELD_ROWS = ["--optimizer", "Adagrad", "--dim", "64", "--tables", "3"]
"""On a CPU their weights and slots are rows of their own, each written by its own scatter."""
TWO_STACKS = [
    "--optimizer", "Adam", "--dim", "64", "16", "--tables", "4", "--ids-per-sample", "3",
    "--layout", "TPU",
]  # fmt: skip


PROGRAMS = {
    "4 devices, one stack of fields in rows of their own": (2, [*FIELD_ROWS, "--devices", "4"]),
    "8 devices, two stacks": (1, [*TWO_STACKS, "--ragged", "--devices", "8"]),
    "a process of 4, two stacks": (1, [*TWO_STACKS, "--replicas", "4"]),
}
"""Name → scatters of each array, options."""


@pytest.fixture(scope="module", params=PROGRAMS)
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The report of scripts/trace_step.py on a program."""
    scatters, options = PROGRAMS[request.param]
    found = traced(tmp_path_factory.mktemp("program"), *options)
    return found | {"devices": int(options[-1]), "scatters_of_an_array": scatters}


def test_a_stack_has_one_all_to_all_for_rows_and_one_for_gradients(report: dict[str, Any]) -> None:
    assert report["programs"] == 1, "the whole step is one program"
    exchanged, devices = report["exchanged"], report["devices"]
    all_to_alls = [each for each in report["collectives"] if each["op"] == "all-to-all"]
    wanted = sorted([each["positions"] * each["dim"] for each in exchanged] * 2)
    assert sorted(each["elements"] for each in all_to_alls) == wanted
    assert {each["dtype"] for each in all_to_alls} == {"f32"}
    leaving = sum(each["bytes"] for each in all_to_alls) * (devices - 1) // devices
    assert leaving == sum(each["bytes_sent"] for each in exchanged)


def test_nothing_else_moves_but_the_gradient_of_the_dense_head(report: dict[str, Any]) -> None:
    others = [each for each in report["collectives"] if each["op"] != "all-to-all"]
    assert all(each["op"] == "all-reduce" for each in others), others
    token = 1  # of torch_xla's all_reduce
    assert sum(each["elements"] for each in others) <= report["head_elements"] + token, others


def test_each_array_of_a_device_is_read_and_written_in_place(report: dict[str, Any]) -> None:
    assert report["arrays"]
    for array in report["arrays"]:
        assert (array["gathers"], array["scatters"]) == (1, report["scatters_of_an_array"]), array
        assert array["copies"] == 0, array
        assert array["donated"], array
    smallest = min(rows * width for rows, width in (each["shape"] for each in report["arrays"]))
    assert report["temporary_bytes"] < smallest * 4, "no temporary of table size"


def test_less_than_30_percent_of_the_rows_exchanged_by_8_devices_are_padding() -> None:
    devices, batch_size, vocabulary = 8, 2048, 20_000
    features = [tte.FeatureConfig(tte.TableConfig(vocabulary, 16, name=f"t{t}")) for t in range(13)]
    resolved = resolve(features, tte.Adagrad(0.1))
    placement = Placement(local_devices=devices)
    batcher = Batcher(
        resolved, build_stacks(resolved.tables, "TPU", (), placement), placement, Alone()
    )
    weights = torch.arange(1, vocabulary + 1, dtype=torch.float64).pow(-1.05)
    generator = torch.Generator().manual_seed(0)
    sizes, padding = set(), []
    for _ in range(20):
        bags = []
        for feature in resolved.features:
            ids = torch.multinomial(weights, batch_size, replacement=True, generator=generator)
            bags.append(parse(feature, resolved.table_of(feature), ids, None))
        batch = batcher.make(bags)
        sizes.add(tuple((each.num_unique, each.positions_per_device) for each in batch.shapes))
        padding.append(count_traffic(resolved, placement, batch.shapes, bags).padding)
    assert min(padding) > 0
    assert max(padding) < 0.3
    assert len(sizes) <= 2, "the first size, and one more program at most"
