"""Tables in memory whose every row is known at every step: what the fault campaigns save and compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from support.checkpoint.memory_shard import MemoryShard
from torch import Tensor

from torch_tpu_embedding.checkpoint.rows import field_widths
from torch_tpu_embedding.config.declared import TableConfig
from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.distributed.group import Alone, HostGroup
from torch_tpu_embedding.optimizers import SGD, Adagrad


def make_tables(rows: int) -> list[Table]:
    """Three tables, one of them with fewer rows than there may be processes."""
    return [
        Table("user", TableConfig(rows, 16, name="user"), Adagrad()),
        Table("item", TableConfig(rows // 3, 8, name="item"), Adagrad()),
        Table("day", TableConfig(2, 3, name="day"), SGD()),
    ]


def last_change(ids: Tensor, step: int) -> Tensor:
    """The step at which each row got its value: every row changes at every tenth step."""
    last = torch.zeros_like(ids)
    for each in range(max(1, step - 9), step + 1):
        last[(ids * 40503 + each * 7919) % 10 == 0] = each
    return last


def rows_at(ids: Tensor, step: int, width: int, salt: int) -> Tensor:
    """The numbers that rows hold at a step, float32 `[n, width]` of arbitrary bit patterns."""
    seed = ids * 1_000_003 + last_change(ids, step) * 7_777_777 + salt * 31_337
    bits = (seed[:, None] + torch.arange(width) * 2_654_435) % 0x7F000000  # no NaN, all positive
    return bits.to(torch.int32).view(torch.float32)


class SteppedShard(MemoryShard):
    """The rows of one process, as they are at `step`."""

    def __init__(self, tables: Sequence[Table], group: HostGroup) -> None:
        super().__init__(tables, group)
        self.step = 0
        self._marks: list[int] = []
        self.set_step(0)

    def set_step(self, step: int) -> None:
        self.step = step
        self.held = [
            {
                name: rows_at(self._ids(number), step, width, salt)
                for salt, (name, width) in enumerate(field_widths(table).items())
            }
            for number, table in enumerate(self.tables)
        ]

    def clear(self) -> None:
        for fields in self.held:
            for values in fields.values():
                values.fill_(-1)

    def is_right(self, step: int) -> bool:
        return all(
            torch.equal(values, rows_at(self._ids(number), step, values.shape[1], salt))
            for number, fields in enumerate(self.held)
            for salt, values in enumerate(fields.values())
        )

    def _ids(self, table: int) -> Tensor:
        ids = self.ids(table)
        return torch.arange(ids.start, max(ids.start, ids.stop), ids.step)

    def set_mark(self) -> int:
        self._marks.append(self.step)
        return len(self._marks) - 1

    def changed_since(self, table: int, mark: int) -> Tensor:
        changed = last_change(self._ids(table), self.step) > self._marks[mark]
        return changed.nonzero()[:, 0]


class Holder:
    """An embedding, as far as checkpoints know one."""

    def __init__(self, tables: Sequence[Table], group: HostGroup | None = None) -> None:
        self.shard = SteppedShard(tables, group or Alone())
