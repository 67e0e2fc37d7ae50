"""In-memory shards: what the checkpoint tests save and load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from scripts.support.checkpoint.memory_shard import MemoryShard
from torch_tpu_embedding.checkpoint.rows import field_widths
from torch_tpu_embedding.config.declared import TableConfig
from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.distributed.group import Alone, HostGroup
from torch_tpu_embedding.distributed.placement import Strategy
from torch_tpu_embedding.optimizers import Adagrad, Optimizer

T = TypeVar("T")
Tables = dict[str, dict[str, Tensor]]
ADAGRAD = Adagrad(0.1)


def table(name: str, rows: int, dim: int = 4, optimizer: Optimizer | None = ADAGRAD) -> Table:
    return Table(name, TableConfig(rows, dim, name=name), optimizer)


def random_values(tables: Sequence[Table], seed: int = 0) -> Tables:
    """Whole tables, every float bit pattern possible: name → field → `[V, width]`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        each.name: {
            field: torch.randint(
                -(2**31), 2**31, (each.vocabulary_size, width), generator=generator
            ).to(torch.int32).view(torch.float32)
            for field, width in field_widths(each).items()
        }
        for each in tables
    }  # fmt: skip


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaNs too."""
    return one.shape == other.shape and torch.equal(
        one.contiguous().view(torch.int32), other.contiguous().view(torch.int32)
    )


class FakeShard(MemoryShard):
    """One process's rows in memory, which a test can change."""

    def __init__(
        self,
        tables: Sequence[Table],
        group: HostGroup | None = None,
        strategy: Strategy = "mod",
        values: Tables | None = None,
    ) -> None:
        super().__init__(tables, group or Alone(), strategy)
        self._epoch = 0
        self._touched = [torch.full((len(self.ids(t)),), -1) for t in range(len(tables))]
        for number, each in enumerate(tables):
            ids = torch.tensor([*self.ids(number)], dtype=torch.int64)
            self.held.append(
                {
                    field: values[each.name][field][ids].clone()
                    if values
                    else torch.zeros(len(ids), width)
                    for field, width in field_widths(each).items()
                }
            )

    def set_mark(self) -> int:
        self._epoch += 1
        return self._epoch

    def changed_since(self, table: int, mark: int) -> Tensor:
        return (self._touched[table] >= mark).nonzero()[:, 0]

    def train(self, ids: Sequence[int], amount: float = 1.0) -> None:
        """Change these ids of every table, where they are held here."""
        for number in range(len(self.tables)):
            held = self.ids(number)
            rows = torch.tensor([held.index(i) for i in ids if i in held], dtype=torch.int64)
            for values in self.held[number].values():
                values[rows] = amount
            self._touched[number][rows] = self._epoch


class FakeEmbedding:
    """An embedding as `save` and `load` take it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.shard = FakeShard(*args, **kwargs)


def whole(shards: Sequence[FakeShard]) -> Tables:
    """The tables that shards make together."""
    found: Tables = {}
    for number, each in enumerate(shards[0].tables):
        for field, width in field_widths(each).items():
            rows = torch.full((each.vocabulary_size, width), float("nan"))
            for shard in shards:
                rows[torch.tensor([*shard.ids(number)], dtype=torch.int64)] = shard.held[number][
                    field
                ]
            found.setdefault(each.name, {})[field] = rows
    return found


def assert_same(found: Tables, wanted: Tables) -> None:
    for name, fields in wanted.items():
        for field, rows in fields.items():
            assert same(found[name][field], rows), f"{name}.{field}"


def read_independently(step: Path) -> Tables:
    """A step's tables by nothing but `json` and `safetensors`: piece → its ids, row by row."""
    index = json.loads((step / "model.safetensors.index.json").read_text())
    described = index["checkpoint"]
    found: Tables = {
        name: {
            field: torch.full((entry["vocabulary_size"], width), float("nan"))
            for field, width in entry["fields"].items()
        }
        for name, entry in described["tables"].items()
    }
    for piece in described["pieces"]:
        assert index["weight_map"][piece["key"]] == piece["file"]
        with safe_open(step / piece["file"], "pt") as file:
            rows = file.get_tensor(piece["key"])
        assert len(rows) == piece["rows"]
        for place, row in enumerate(rows):
            found[piece["table"]][piece["field"]][piece["first_id"] + place * piece["id_step"]] = (
                row
            )
    return found
