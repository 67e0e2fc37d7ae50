"""A run on tables in bfloat16 that is resumed rounds by the bits of one that was never interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import __main__ as command
from torch_tpu_embedding.tables.state_dict import EXTRA_KEY

V, D, B = 30, 5, 4


def make(dtype: torch.dtype = torch.bfloat16, **options: Any) -> tte.TPUEmbedding:
    table = tte.TableConfig(V, D, name="t", dtype=dtype, combiner="sum")
    other = tte.TableConfig(V, 3, name="other", dtype=dtype)
    config = [tte.FeatureConfig(table), tte.FeatureConfig(other)]
    return tte.TPUEmbedding(config, B, tte.Adagrad(0.1), seed=0, **options)


def train(embedding: tte.TPUEmbedding, steps: range) -> None:
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(V, (2, B), generator=generator)
        embedding.enqueue([*ids])
        embedding.apply_gradients(
            [
                torch.randn(each.shape, generator=generator).to(embedding.device)
                for each in embedding.dequeue()
            ]
        )
        tte.runtime.sync()


def tensors(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    state: dict[str, Tensor] = embedding.state_dict()
    return state


def assert_same(one: tte.TPUEmbedding, other: tte.TPUEmbedding) -> None:
    for key, value in tensors(one).items():
        assert torch.equal(value, tensors(other)[key]), key


def by_state(trained: tte.TPUEmbedding, fresh: tte.TPUEmbedding, directory: Path) -> None:
    fresh.load_state_dict(trained.state_dict())


def by_checkpoint(trained: tte.TPUEmbedding, fresh: tte.TPUEmbedding, directory: Path) -> None:
    checkpoint.save(trained, directory, 1)
    checkpoint.load(fresh, directory)


def by_delta(trained: tte.TPUEmbedding, fresh: tte.TPUEmbedding, directory: Path) -> None:
    checkpoint.save(trained, directory, 1)
    train(trained, range(3, 5))
    checkpoint.save(trained, directory, 2, since=1, asynchronous=True).wait()
    checkpoint.load(fresh, directory)


def by_a_step_written_again(
    trained: tte.TPUEmbedding, fresh: tte.TPUEmbedding, directory: Path
) -> None:
    checkpoint.save(trained, directory / "one", 1)
    line = ["reshard", str(directory / "one"), str(directory / "two"), "--shards", "3"]
    assert command.main(line) == 0
    checkpoint.load(fresh, directory / "two", dtype="convert")


WAYS = [by_state, by_checkpoint, by_delta, by_a_step_written_again]


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(
    way: Callable[[tte.TPUEmbedding, tte.TPUEmbedding, Path], None], pipelined: bool, tmp_path: Path
) -> None:
    options = {"pipeline_execution_with_tensor_core": pipelined}
    whole, first, second = (make(**options) for _ in range(3))
    middle, end = (5 if way is by_delta else 3), 9
    train(whole, range(middle))
    whole.flush()  # as saving does
    train(whole, range(middle, end))
    train(first, range(3))
    way(first, second, tmp_path)
    train(second, range(middle, end))
    assert_same(second, whole)


def test_without_the_count_the_bits_are_others_so_the_law_is_no_accident(tmp_path: Path) -> None:
    whole, again = make(), make()
    train(whole, range(3))
    again.load_state_dict(whole.state_dict())
    again._tables.engine.store.updates = 0
    for each in (whole, again):
        train(each, range(3, 9))
    assert not torch.equal(tensors(whole)["t.weight"], tensors(again)["t.weight"])


def test_a_state_or_checkpoint_without_the_count_loads_and_counts_from_0(tmp_path: Path) -> None:
    trained, fresh = make(), make()
    train(trained, range(3))
    state = trained.state_dict()
    described = json.loads(bytes(state[EXTRA_KEY].tolist()))
    assert described.pop("updates") == 3
    older = torch.frombuffer(bytearray(json.dumps(described).encode()), dtype=torch.uint8)
    fresh.load_state_dict({**state, EXTRA_KEY: older})
    assert fresh._tables.engine.store.updates == 0
    plain = make(torch.float32)  # which writes no count
    train(plain, range(2))
    checkpoint.save(plain, tmp_path, 1)
    with checkpoint.open(tmp_path, 1) as reader:
        assert "updates" not in json.loads(reader.index.to_text())["checkpoint"]
    checkpoint.load(trained, tmp_path, dtype="convert")
    assert trained._tables.engine.store.updates == 0


def test_a_part_of_a_state_or_of_a_checkpoint_leaves_the_count(tmp_path: Path) -> None:
    trained, other = make(), make()
    train(trained, range(3))
    train(other, range(1))
    state = {key: value for key, value in trained.state_dict().items() if key[:2] != "t."}
    other.load_state_dict(state, strict=False)
    assert other._tables.engine.store.updates == 1
    checkpoint.save(trained, tmp_path, 1)
    checkpoint.load(other, tmp_path, tables=["t"])
    assert other._tables.engine.store.updates == 1
    other.load_state_dict({key: value for key, value in trained.state_dict().items() if "." in key})
    assert other._tables.engine.store.updates == 1
    checkpoint.load(other, tmp_path)
    assert other._tables.engine.store.updates == 3


def test_the_description_in_a_state_has_one_length_whatever_the_count_and_none_in_float32() -> None:
    embedding, plain = make(), make(torch.float32)
    lengths = set()
    for count in (0, 9, 12345):
        embedding._tables.engine.store.updates = count
        lengths.add(len(embedding.state_dict()[EXTRA_KEY]))
    assert len(lengths) == 1
    assert b"updates" not in bytes(plain.state_dict()[EXTRA_KEY].tolist())


@pytest.mark.parametrize("updates", [-1, True, 2.0])
def test_a_step_of_rows_takes_no_other_count_of_updates_than_an_int(
    updates: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"updates must be an int .*, got {updates}"):
        checkpoint.write_tables(tmp_path, 1, {"t": {"weight": torch.ones(3, 2)}}, updates=updates)
    assert not [*tmp_path.iterdir()]
