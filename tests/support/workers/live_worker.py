"""Some steps on a table whose ids get and lose rows, alone or as one of several: `live_worker.py JSON`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint, distributed

BATCH = 12
ALL_IDS = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 60, dtype=np.int64)


@dataclass
class Run:
    """A task; `rows` of the table, of which 'tight' ones make ids lose theirs."""

    start: int
    stop: int
    rows: int = 400
    admission: int = 2
    sharding: str = "mod"
    load: str | None = None
    save: str | None = None
    delta: int | None = None
    """A later step, to be saved as a delta."""
    out: str | None = None
    loader: bool = False


def batch(step: int, mine: torch.Tensor) -> dict[str, object]:
    """The samples of this process: ids that drift, in bags and one by one, and rows of a plain table."""
    rng = np.random.default_rng(step)
    drift = ALL_IDS[(rng.zipf(1.5, (BATCH, 4)) + step) % 60]
    lengths = rng.integers(0, 4, BATCH)
    rows = [drift[b, : lengths[b]].tolist() for b in mine.tolist()]
    plain = torch.from_numpy(rng.integers(0, 9, BATCH))
    bags = tte.Ragged.from_lists(rows, dtype=torch.int64)
    return {"bag": bags, "one": torch.from_numpy(drift[:, 3])[mine], "plain": plain[mine]}


def make(run: Run) -> tte.TPUEmbedding:
    """Tables on all processes."""
    vocabulary = tte.DynamicVocabulary(admission=run.admission, oov_rows=3, max_age=4)
    live = tte.TableConfig(run.rows, 4, name="live", combiner="sum", vocabulary=vocabulary)
    plain = tte.TableConfig(9, 4, name="plain", combiner="sum")
    features = {
        "plain": tte.FeatureConfig(plain),
        "bag": tte.FeatureConfig(live),
        "one": tte.FeatureConfig(live),
    }
    sharding: Any = run.sharding
    return tte.TPUEmbedding(features, BATCH, tte.Adagrad(0.1), seed=0, sharding=sharding)


def perform(run: Run) -> dict[str, Any]:
    """Load, train, save; gives what can be seen afterwards."""
    embedding = make(run)
    if run.load is not None:
        checkpoint.load(embedding, run.load, resize="allow")
    embedding.enable_metrics()
    mine, _ = distributed.local_positions(BATCH, batch_size=BATCH)
    steps = range(run.start, run.stop)
    batches = [batch(step, mine) for step in steps]

    def step() -> None:
        loss = sum((each * each).sum() for each in embedding.dequeue().values())
        loss.backward()
        embedding.apply_gradients()
        del loss
        tte.runtime.sync()

    if run.loader:
        for _ in tte.EmbeddingLoader(batches, embedding):
            step()
    else:
        for each in batches:
            embedding.enqueue(each)
            step()
    if run.save is not None:
        checkpoint.save(embedding, run.save, run.stop)
        if run.delta is not None:
            for number in range(run.stop, run.delta):
                embedding.enqueue(batch(number, mine))
                step()
            checkpoint.save(embedding, run.save, run.delta, since=run.stop)
    told = embedding.metrics()["tables"]["live"]["vocabulary"]
    ids = torch.from_numpy(ALL_IDS)
    embedding.eval()
    seen = embedding.to_host(embedding(batch(99, mine))["bag"])
    return {
        "weight": embedding.read_rows("live", ids).tolist(),
        "slot": embedding.read_rows("live", ids, slot="accumulators").tolist(),
        "numbers": embedding.read_rows("live", range(30)).tolist(),
        "seen": seen.tolist() if distributed.world_size() == 1 else None,
        "told": told,
    }


def arguments(run: Run) -> list[str]:
    """The command line of a run."""
    return [__file__, json.dumps(asdict(run))]


if __name__ == "__main__":
    distributed.initialize()
    asked = Run(**json.loads(sys.argv[1]))
    found = perform(asked)
    if distributed.rank() == 0 and asked.out is not None:
        Path(asked.out).write_text(json.dumps(found))
