"""Three steps on tables with a HashedVocabulary, alone or as one of several: `hashed_worker.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import distributed

BATCH, STEPS = 8, 3
ASKED = [f"item-{number}" for number in range(12)]


def batch(step: int, mine: torch.Tensor) -> dict[str, object]:
    """The samples of this process: a dense feature, bags and sequences of strings' ids."""
    names = [[ASKED[(step + b * j) % 12] for j in range(b % 4)] for b in range(BATCH)]
    bags = [tte.hash_ids(each).tolist() for each in names]
    rows = [bags[b] for b in mine.tolist()]
    dense = tte.hash_ids([ASKED[(step * b) % 12] for b in range(BATCH)])
    ragged = tte.Ragged.from_lists(rows, dtype=torch.int64)
    return {"dense": dense[mine], "bag": ragged, "row": ragged}


def run() -> list[list[list[float]]]:
    """The vectors of some ids after training, of a table with one hash function and of one with two."""
    distributed.initialize()
    tables = [
        tte.TableConfig(29, 4, name=f"by{k}", vocabulary=tte.HashedVocabulary(k)) for k in (1, 2)
    ]
    found = []
    for table in tables:
        features = {
            "dense": tte.FeatureConfig(table),
            "bag": tte.FeatureConfig(table),
            "row": tte.FeatureConfig(table, max_sequence_length=2),
        }
        embedding = tte.TPUEmbedding(features, BATCH, tte.Adagrad(0.1), seed=0)
        mine, _ = distributed.local_positions(BATCH, batch_size=BATCH)
        for step in range(STEPS):
            rows = embedding(batch(step, mine))
            sum((each * each).sum() for each in rows.values()).backward()
            embedding.apply_gradients()
            del rows
            tte.runtime.sync()
        found.append(embedding.read_rows(table, tte.hash_ids(ASKED)).tolist())
    return found


if __name__ == "__main__":
    vectors = run()
    if distributed.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(vectors))
