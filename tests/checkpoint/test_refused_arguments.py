"""A save that is refused for its arguments leaves nothing: no step, no directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints.checkpoint_fakes import FakeEmbedding, table

from torch_tpu_embedding import checkpoint

REFUSED = [
    ({"timeout": "x"}, "timeout must be a number of seconds above 0, got 'x'"),
    ({"timeout": -1}, "timeout must be a number of seconds above 0, got -1"),
    ({"timeout": True}, "timeout must be a number of seconds above 0, got True"),
    ({"timeout": float("nan")}, "timeout must be a number"),
    ({"keep_last": True}, "keep_last must be an int of at least 1, got True"),
    ({"keep_last": 0}, "keep_last must be an int of at least 1, got 0"),
    ({"max_file_bytes": 0}, "max_file_bytes must be an int of at least 1, got 0"),
    ({"max_file_bytes": None}, "max_file_bytes must be an int of at least 1, got None"),
    ({"overwrite": "yes"}, "overwrite must be True or False, got 'yes'"),
    ({"asynchronous": 1}, "asynchronous must be True or False, got 1"),
    ({"since": 99}, "since must be a step before 3"),
    ({"since": True}, "since must be an int of at least 0"),
    ({"extra": {"x": object()}}, "x"),
    ({"step": True}, "step must be an int of at least 0, got True"),
    ({"step": -1}, "step must be an int of at least 0, got -1"),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=lambda value: str(value)[:30])
def test_it_leaves_nothing(
    arguments: dict[str, Any], text: str, asynchronous: bool, tmp_path: Path
) -> None:
    embedding = FakeEmbedding([table("user", 20)])
    given = {"step": 3, "asynchronous": asynchronous, **arguments}
    with pytest.raises(ValueError, match=text):
        checkpoint.save(embedding, tmp_path / "run", **given)
    assert [*tmp_path.iterdir()] == []
    checkpoint.save(embedding, tmp_path / "run", 3)
    assert checkpoint.complete_steps(tmp_path / "run") == [3]
