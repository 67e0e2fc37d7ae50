"""The work that grows with the number of steps and files is counted: it may not grow with their square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import rows as shard_module
from torch_tpu_embedding.checkpoint.format.safetensors_file import TensorFile
from torch_tpu_embedding.checkpoint.reading import open_files
from torch_tpu_embedding.io import json_checks

TABLES = [table("user", 40, 2)]


def counting(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[None]:
    """Calls of a function from now on."""
    calls: list[None] = []
    real: Callable[..., object] = getattr(owner, name)

    def count(*args: Any) -> object:
        calls.append(None)
        return real(*args)

    patch.setattr(owner, name, count)
    return calls


def test_a_save_with_keep_last_reads_as_few_indexes_after_many_deltas_as_after_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES))
    checkpoint.save(embedding, tmp_path, 0)
    parsed = counting(monkeypatch, json_checks, "parse")
    counts = []
    for step in range(1, 31):
        embedding.shard.train([step])
        before = len(parsed)
        checkpoint.save(embedding, tmp_path, step, since=step - 1, keep_last=2)
        counts.append(len(parsed) - before)
    assert max(counts[3:]) == counts[3]
    assert counts[3] < 12
    assert checkpoint.complete_steps(tmp_path) == [*range(31)]
    checkpoint.save(embedding, tmp_path, 31, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [31]


def test_a_step_that_is_saved_anew_is_read_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(FakeEmbedding(TABLES), tmp_path, step, keep_last=5)
    (index,) = (tmp_path / "step-1").glob("*.index.json")
    index.write_text("{")
    with pytest.warns(UserWarning, match="keep_last leaves step 1 alone"):
        checkpoint.save(FakeEmbedding(TABLES), tmp_path, 3, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [1, 3]


@pytest.mark.parametrize("num_shards", [1, 5])
def test_headers_are_parsed_once_however_many_files_a_field_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    values = random_values(TABLES)
    checkpoint.write_tables(tmp_path, 1, values, num_shards=num_shards, max_file_bytes=8)
    files = len([*tmp_path.glob("step-1/*.safetensors")])
    assert files == 80
    monkeypatch.setattr(open_files, "_FEWEST", 3)
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda kind: (6, 6))
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 100)
    headers = counting(monkeypatch, TensorFile, "_header")
    embedding = FakeEmbedding([table("user", 40, 2)])
    checkpoint.load(embedding, tmp_path)
    assert_same(whole([embedding.shard]), values)
    assert len(headers) == files
