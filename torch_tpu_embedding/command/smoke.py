"""`smoke`: does training work on this machine? Small tables, a few steps, a checkpoint there and back."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint, runtime
from ..checkpoint.convert.tensorflow import AddCommand
from ..config.declared import FeatureConfig, TableConfig
from ..embedding import TPUEmbedding
from ..inputs.ragged import Ragged
from ..optimizers import Adagrad, Adam
from ..reference import ReferenceEmbedding

V, D, B, STEPS = 100, 8, 6, 5
LARGEST_DIFFERENCE = 1e-4
"""The bound for float32 numbers after a few steps, beside the float64 reference."""


def smoke(device: str | None) -> dict[str, Any]:
    """Train, compare with the reference, save and load.

    Args:
        device: "cpu" for tables that plain torch looks up, which are saved and loaded and not trained; None
            for the XLA device of this process.
    """
    start = time.perf_counter()
    features = {
        "user": FeatureConfig(TableConfig(V, D, name="users", optimizer=Adam(0.05))),
        "seen": FeatureConfig(TableConfig(V, D, name="movies", combiner="mean")),
    }
    embedding = TPUEmbedding(features, B, Adagrad(0.1), seed=0, device=device)
    result: dict[str, Any] = {"torch": torch.__version__, "device": str(embedding.device)}
    if embedding.on_accelerator:
        result["platform"] = runtime.device_kind()
        result["steps"] = STEPS
        reference = ReferenceEmbedding(features, Adagrad(0.1), embedding.state_dict())
        for users, seen in _batches():
            _step(embedding, users, seen)
            _reference_step(reference, users, seen)
        state = embedding.state_dict()
        result["largest_difference"] = max(
            float((state[key].double() - value).abs().max())
            for key, value in reference.state.items()
        )
        result["compiles"] = runtime.compile_count()
    result["loaded_equal"] = _comes_back(
        embedding, TPUEmbedding(features, B, Adagrad(0.1), device=device)
    )
    result["ok"] = (
        result["loaded_equal"] and result.get("largest_difference", 0) < LARGEST_DIFFERENCE
    )
    result["seconds"] = round(time.perf_counter() - start, 1)
    return result


def _batches() -> Iterator[tuple[list[int], list[list[int]]]]:
    """Ids that repeat, within a batch and from one to the next; one bag is empty."""
    for step in range(STEPS):
        users = [(step + 3 * sample) % 7 for sample in range(B)]
        yield users, [[(step * sample + k) % V for k in range(sample % 4)] for sample in range(B)]


def _step(embedding: TPUEmbedding, users: list[int], seen: list[list[int]]) -> None:
    """A step of the loss that is the sum of all squared activations."""
    ids = torch.tensor(users, dtype=torch.int64, device="cpu")
    rows = embedding({"user": ids, "seen": Ragged.from_lists(seen)})
    (rows["user"].square().sum() + rows["seen"].square().sum()).backward()
    embedding.apply_gradients()
    del rows
    runtime.sync()


def _reference_step(reference: ReferenceEmbedding, users: list[int], seen: list[list[int]]) -> None:
    """The same step in plain loops."""
    batch = {
        "user": [[(user, 1.0)] for user in users],
        "seen": [[(movie, 1.0) for movie in bag] for bag in seen],
    }
    samples = [batch[feature.name] for feature in reference.resolved.features]
    reference.apply_gradients(samples, [2 * each for each in reference.look_up(samples)])


def _comes_back(embedding: TPUEmbedding, other: TPUEmbedding) -> bool:
    """True if another embedding has the same tables and slots after a save and a load."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(embedding, Path(folder), step=1)
        checkpoint.load(other, Path(folder))
    one, two = _tensors(embedding), _tensors(other)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def _tensors(embedding: TPUEmbedding) -> dict[str, Tensor]:
    state = embedding.state_dict()
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _smoke(args: argparse.Namespace) -> tuple[int, Any, str]:
    result = smoke("cpu" if args.cpu_tables else None)
    lines = [f"torch {result['torch']}, tables on {result['device']}"]
    if "platform" in result:
        lines += [
            f"XLA's {result['platform']} device: {result['steps']} steps, {result['compiles']} programs "
            f"compiled, at most {result['largest_difference']:.1e} from the reference"
        ]
    lines.append(f"saved and loaded: {'equal' if result['loaded_equal'] else 'NOT EQUAL'}")
    lines.append(f"{'ok' if result['ok'] else 'WRONG'}, {result['seconds']} s")
    return int(not result["ok"]), result, "\n".join(lines)


def add_smoke(add: AddCommand) -> None:
    """Add `smoke` to the command line."""
    made = add(
        "smoke", _smoke, "train small tables here, compare with the reference, save and load"
    )
    made.description = (
        "Train small tables on XLA's device (PJRT_DEVICE=TPU or CPU), compare them with plain loops, save "
        "and load them. Exit status: 0 right, 1 wrong, 2 it cannot run."
    )
    made.add_argument(
        "--cpu-tables",
        action="store_true",
        help="tables of plain torch, without torch_xla: no steps",
    )
