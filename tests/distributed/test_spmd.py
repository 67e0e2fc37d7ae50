"""Several devices under one partitioned program train what one device trains.

A process of its own for each number of virtual devices, since their number and SPMD mode are per process.
Every optimizer runs on 2, 4 and 8 devices, on 4 in the other layout. Lookups of equal tables are equal to
the bit. The gradients of a row are summed per device, then over devices, so tables are not: those of
several devices, and those of one, are each compared with what the float64 reference makes of the same
gradients. The strategy ('mod', 'div') says which process holds a row, so here, with one process, it must
change nothing; the cases alternate between the two.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from models import helpers
from models.laws import OPTIMIZERS
from places import SLOW, WORKERS
from processes.launch import environment, forked_python
from workers.spmd_cases import BATCH, restored_config

import torch_tpu_embedding as tte

DEVICES = [2, 4, 8]
WORKER = WORKERS / "spmd_worker.py"
ROUNDING = 1e-6
"""A share of the greatest value of a table, from the exact one. Two tables may differ by twice as much."""


def save_one_device(base: Path) -> dict[str, torch.Tensor]:
    """The state of a trained embedding on one device, also in `one_device.pt`."""
    embedding = tte.TPUEmbedding(restored_config(), BATCH, tte.Adam(0.1), seed=1)
    helpers.train_step(embedding, [torch.arange(BATCH) % rows for rows in (1, 5, 29)])
    state = embedding.state_dict()
    torch.save(state, base / "one_device.pt")
    return state


@pytest.fixture(scope="module", params=DEVICES)
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The findings of the process that has several devices, and the two states."""
    folder = tmp_path_factory.mktemp(f"devices{request.param}")
    saved = save_one_device(folder)
    done = subprocess.run(
        [forked_python(), "-W", "ignore", str(WORKER), str(request.param), str(folder)],
        capture_output=True, text=True, timeout=120 * SLOW,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    report["saved"], report["loaded"] = saved, torch.load(folder / "several_devices.pt")
    return report


def test_lookups_are_equal_to_the_bit(found: dict[str, Any]) -> None:
    different = [case for case in found["trained"] if not case["activations_equal_to_the_bit"]]
    assert not different


def test_every_optimizer_trains_the_tables_of_one_device(found: dict[str, Any]) -> None:
    assert [case["optimizer"] for case in found["trained"]] == [*OPTIMIZERS]
    for case in found["trained"]:
        assert case["error"] < ROUNDING, case
        assert case["error_of_one_device"] < ROUNDING, case
    for other in (found["odd"], found["alike"]):
        assert other["table_distance"] < 2 * ROUNDING, other
        assert other["loss_distance"] < 1e-5, other


def test_nothing_is_compiled_after_warm_up(found: dict[str, Any]) -> None:
    for case in found["trained"]:
        if case["one_program"]:
            assert case["compiled_after_first_step"] == 0, case
    assert found["odd"]["compiled_after_warm_up"] == 0
    assert found["alike"]["compiled_after_warm_up"] == 0


def test_inference_takes_any_number_of_samples(found: dict[str, Any]) -> None:
    one, many = found["few"]
    assert one == [0]
    assert many == [*range(len(many))]
    assert len(many) > 4


def test_accumulated_and_clipped_steps_are_those_of_one_device(found: dict[str, Any]) -> None:
    case = found["accumulated"]
    assert case["clipped"]
    assert case["norm_distance"] < 1e-5
    assert case["table_distance"] < 2 * ROUNDING
    assert case["compiled_after_first_step"] == 0


def test_a_state_goes_from_one_device_to_several_and_back(found: dict[str, Any]) -> None:
    saved, loaded = found["saved"], found["loaded"]
    assert set(saved) == set(loaded)
    for key, value in saved.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded[key], value), key
    embedding = tte.TPUEmbedding(restored_config(), BATCH, tte.Adam(0.1), seed=2)
    embedding.load_state_dict(loaded)
    for key, value in helpers.tensors(embedding).items():
        assert torch.equal(value, saved[key]), key
    assert found["restored"], "several devices, the CPU, several devices"


def test_a_frozen_table_stands_still_on_every_device_and_compiles_nothing(
    found: dict[str, Any],
) -> None:
    moved = [f"trained.{field}" for field in ("momenta", "velocities", "weight")]
    assert found["frozen"] == [{"moved": moved, "late_compiles": 0}] * 2
