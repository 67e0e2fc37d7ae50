"""Steps that an old job and a new one save in one directory, and whose a step is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    Tables,
    assert_same,
    random_values,
    table,
    whole,
)

from torch_tpu_embedding import checkpoint

TABLES = [table("user", 6), table("item", 3, 2)]


def values_of(job: str, step: int) -> Tables:
    return random_values(TABLES, 100 * step + (job == "new"))


def save(
    job: str, run: Path, step: int, embedding: FakeEmbedding | None = None, **options: Any
) -> None:
    """Save what this job has at this step."""
    embedding = embedding or FakeEmbedding(TABLES)
    embedding.shard.held = FakeEmbedding(TABLES, values=values_of(job, step)).shard.held
    embedding.shard._touched = [
        rows.fill_(embedding.shard._epoch) for rows in embedding.shard._touched
    ]
    checkpoint.save(embedding, run, step, {"job": job}, **options)


def three_steps(run: Path) -> FakeEmbedding:
    embedding = FakeEmbedding(TABLES)
    for step in (1, 2, 3):
        save("old", run, step, embedding)
    return embedding


def whose(run: Path, step: int) -> str:
    """The job that saved this step; all of the step must be there, and be right."""
    embedding = FakeEmbedding(TABLES)
    job = checkpoint.load(embedding, run, step).extra["job"]
    assert_same(whole([embedding.shard]), values_of(job, step))
    return job
