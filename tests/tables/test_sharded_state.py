"""A state_dict of one process of several: what loads where, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import Resolved, resolve
from torch_tpu_embedding.distributed.agreement import agree
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.tables.start_values import start_values, table_values
from torch_tpu_embedding.tables.state_dict import EXTRA_KEY, extra_state, plan_load, state_keys


def tables() -> Resolved:
    features = [
        tte.FeatureConfig(tte.TableConfig(rows, 3, name=name))
        for name, rows in (("a", 10), ("b", 5))
    ]
    return resolve(features, tte.Adagrad(0.1))


def state_of(placement: Placement) -> dict[str, Tensor]:
    """The state that a process with this placement would give."""
    resolved = tables()
    state = {}
    for index, table in enumerate(resolved.tables):
        ids = placement.ids(index, table.vocabulary_size)
        values = table_values(table, 0, ids)
        state |= {key: values[name] for name, key in state_keys(table).items()}
    return state | {EXTRA_KEY: extra_state(resolved, placement)}


def test_a_process_loads_its_own_shard_and_its_rows_of_whole_tables() -> None:
    for strategy in ("mod", "div"):
        placement = Placement(strategy, 3, rank=2)
        own = state_of(placement)
        for state in (own, state_of(Placement())):
            plan = plan_load(tables(), placement, state, "")
            assert [plan.errors, plan.missing, plan.unexpected] == [[], [], []]
            assert torch.equal(plan.values[0]["weight"], own["a.weight"])
            assert torch.equal(plan.values[1]["accumulators"], own["b.accumulators"])


def test_the_description_says_which_shard_of_each_table_it_is() -> None:
    described = json.loads(bytes(extra_state(tables(), Placement("mod", 3, rank=2)).tolist()))
    assert (described["num_shards"], described["strategy"]) == (3, "mod")
    # ids 2, 5, 8 of a; table b is rotated by one: ids 1, 4
    assert [described["tables"][name]["shard"] for name in "ab"] == [2, 1]


@pytest.mark.parametrize(
    ("saved", "holds", "message"),
    [
        (
            Placement("mod", 3),
            Placement(),
            "one shard of 3 (mod), but this process holds whole tables",
        ),
        (
            Placement("mod", 3, 0),
            Placement("mod", 3, 1),
            "this process holds shards of 3 (mod), as process 1; states of another number of processes "
            "load with checkpoint.save and checkpoint.load",
        ),
        (Placement("div", 3, 1), Placement("mod", 3, 1), "one shard of 3 (div), but"),
        (Placement("mod", 2, 1), Placement("mod", 3, 1), "one shard of 2 (mod), but"),
    ],
)
def test_another_shard_is_refused(saved: Placement, holds: Placement, message: str) -> None:
    plan = plan_load(tables(), holds, state_of(saved), "")
    assert message in plan.message()


def test_a_shard_of_the_wrong_length_is_refused_naming_what_is_held() -> None:
    placement = Placement("mod", 3, 1)
    state = state_of(placement)
    state["a.weight"] = torch.zeros(7, 3)
    assert plan_load(tables(), placement, state, "").errors == [
        "a.weight: expected shape [3, 3] (rows held here, width), got [7, 3]"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{}", "null", "[]", "1e999", "[" * 20_000 + "]" * 20_000, '{"format": "1"}', '{"format": 1e999}',
        '{"format": 1, "num_shards": "1", "strategy": "mod", "tables": {}}',
        '{"format": 1, "num_shards": 2, "strategy": null, "tables": {}}',
        '{"format": 1, "num_shards": 2, "strategy": "mod", "tables": []}',
        '{"format": 1, "num_shards": 2, "strategy": "mod", "tables": {"a": 7}}',
        '{"format": 1, "num_shards": 2, "strategy": "mod", "tables": {"a": {"shard": "0"}}}',
    ],
)  # fmt: skip
def test_a_description_of_other_types_is_an_error_that_says_what_is_wrong(text: str) -> None:
    state = state_of(Placement())
    state[EXTRA_KEY] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    (error,) = plan_load(tables(), Placement(), state, "").errors
    assert error.startswith("_extra_state: not the description that state_dict() wrote (")
    assert error.endswith("); remove it to load anyway")
    del state[EXTRA_KEY]
    assert plan_load(tables(), Placement(), state, "").errors == []


def test_processes_take_the_seed_of_the_first_and_must_configure_alike() -> None:
    def work(group: ThreadGroup) -> int:
        return agree(group, tables(), {}, seed=group.rank + 40)[0]

    assert run_processes(3, work) == [40] * 3

    def differ(group: ThreadGroup) -> int:
        strategy = "mod" if group.rank == 0 else "div"
        return agree(group, tables(), {"sharding": strategy}, seed=0)[0]

    message = "sharding is 'mod' on process 0 and 'div' on process 1; build the same configuration"
    with pytest.raises(ValueError, match=message):
        run_processes(2, differ)


class Partitioned:
    """An initializer that knows its rows, and remembers the largest part it was asked for."""

    def __init__(self) -> None:
        self.largest = 0

    def __call__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        partition_shape: tuple[int, ...],
        partition_offset: tuple[int, ...],
    ) -> Tensor:
        self.largest = max(self.largest, partition_shape[0])
        first = torch.arange(partition_offset[0], partition_offset[0] + partition_shape[0])
        return first[:, None].expand(partition_shape).to(dtype) + torch.rand(partition_shape) / 2


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_an_initializer_that_takes_partitions_never_makes_the_whole_table(strategy: str) -> None:
    initializer = Partitioned()
    table = tte.TableConfig(200_001, 2, initializer=initializer, name="a")
    (resolved,) = resolve([tte.FeatureConfig(table)], tte.SGD()).tables
    whole = table_values(resolved, 0)["weight"]
    assert initializer.largest < 100_000
    for rank in range(3):
        ids = Placement(strategy, 3, rank).ids(0, 200_001)  # type: ignore[arg-type]
        assert torch.equal(
            table_values(resolved, 0, ids)["weight"], whole[ids.start :: ids.step][: len(ids)]
        )
        starts = [start for start, _ in start_values(resolved, 0, ids)]
        assert starts == sorted(starts)


def test_an_initializer_that_needs_the_whole_table_says_so_if_that_is_much(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = tte.TableConfig(
        1 << 20, 64, initializer=lambda s, d: torch.zeros(1).expand(s), name="a"
    )
    (resolved,) = resolve([tte.FeatureConfig(table)], None).tables
    next(start_values(resolved, 0, range(0, 1 << 20, 1 << 18)))
    assert "table 'a': its initializer takes no partition_shape and partition_offset" in caplog.text
    assert "for the sake of 4 rows" in caplog.text
