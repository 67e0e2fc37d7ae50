"""`read_rows`, `write_rows`, `table_weight` and `top_k` as a user calls them, on device and CPU."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from backends import DEVICE
from hypothesis import given, settings
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.access import scoring

LAYOUTS: list[DeviceKind] = ["CPU", "TPU"]
ITEMS = 3001


def small_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Whole numbers, of which products and sums are exact, and many equal."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def make(**options: Any) -> tte.TPUEmbedding:
    """Two tables of two sizes: 'items', and 'users' with a padding row."""
    tables = {
        "items": tte.TableConfig(ITEMS, 6, name="items", initializer=small_numbers),
        "users": tte.TableConfig(40, 6, name="users", initializer=small_numbers, padding_idx=-1),
    }
    features = {name: tte.FeatureConfig(table) for name, table in tables.items()}
    return tte.TPUEmbedding(features, 4, tte.Adagrad(0.1), seed=0, **options)


@functools.cache
def built(kind: DeviceKind) -> tte.TPUEmbedding:
    """One that no test changes."""
    return make(layout=kind)


@functools.cache
def held(kind: DeviceKind) -> dict[str, Tensor]:
    return helpers.tensors(built(kind))


@pytest.fixture(params=["CPU", "TPU", "serving"])
def embedding(request: pytest.FixtureRequest) -> tte.TPUEmbedding:
    """A new one: on the device in each layout, or on the CPU."""
    return make(device="cpu") if request.param == "serving" else make(layout=request.param)


def test_ids_of_any_kind_and_shape_give_rows_of_that_shape(embedding: tte.TPUEmbedding) -> None:
    state = embedding.state_dict()
    weight, config = state["items.weight"], embedding.resolved.tables[0].config
    nested = [[5, 3000, 5], [0, 1, 2]]
    for ids in (nested, np.array(nested, np.uint16), torch.tensor(nested, dtype=torch.int32)):
        found = embedding.read_rows(config, ids)
        assert torch.equal(found, weight[torch.tensor(nested)])
    assert torch.equal(embedding.read_rows("items", 7), weight[7])
    assert torch.equal(embedding.read_rows("items", range(9, 2, -3)), weight[[9, 6, 3]])
    assert embedding.read_rows("items", []).shape == (0, 6)
    assert embedding.read_rows("items", torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, 6)
    slots = embedding.read_rows("users", [3], slot="accumulators")
    assert torch.equal(slots, state["users.accumulators"][[3]])
    found = embedding.read_rows("items", [0])
    found[:] = 99.0
    assert torch.equal(embedding.read_rows("items", [0]), weight[[0]]), "a copy"


def test_whole_tables_and_ranges_are_those_of_state_dict(embedding: tte.TPUEmbedding) -> None:
    state = embedding.state_dict()
    for key in ("items.weight", "users.accumulators"):
        table, field = key.split(".")
        slot = None if field == "weight" else field
        assert torch.equal(embedding.table_weight(table, slot=slot), state[key])
        assert torch.equal(embedding.table_weight(table, 7, 39, slot=slot), state[key][7:39])
    assert embedding.table_weight("users", 5, 5).shape == (0, 6)


def test_written_rows_change_and_no_others(embedding: tte.TPUEmbedding) -> None:
    wanted = helpers.tensors(embedding)
    wanted = {key: value.detach().clone() for key, value in wanted.items()}
    ids = torch.tensor([[9, 2999], [4, 0]])
    values = torch.rand(2, 2, 6)
    embedding.write_rows("items", ids, values)
    embedding.write_rows("users", [3], np.ones((1, 6), np.float32), slot="accumulators")
    embedding.freeze("users")
    embedding.write_rows("users", [5], torch.zeros(1, 6))
    embedding.write_rows("items", [], torch.empty(0, 6))
    wanted["items.weight"][ids] = values
    wanted["users.accumulators"][3] = 1.0
    wanted["users.weight"][5] = 0.0
    for key, value in helpers.tensors(embedding).items():
        assert torch.equal(value, wanted[key]), key


def test_slots_begin_again_with_the_rows_that_are_written() -> None:
    embedding = make()
    features = {"items": torch.tensor([1, 2, 3, 4]), "users": torch.tensor([1, 2, 3, 4])}
    embedding.enqueue(features)
    sum(each.sum() for each in embedding.dequeue().values()).backward()
    embedding.apply_gradients()
    assert embedding.read_rows("items", [2, 3], slot="accumulators").ne(0.1).all()
    embedding.write_rows("items", [2], torch.zeros(1, 6), reset_slots=True)
    slots = embedding.read_rows("items", [2, 3], slot="accumulators")
    assert torch.equal(slots[0], torch.full((6,), 0.1))
    assert slots[1].ne(0.1).all()


@pytest.mark.parametrize("kind", LAYOUTS)
@settings(max_examples=25)
@given(st.data())
def test_the_best_rows_are_those_of_the_whole_table(kind: DeviceKind, data: st.DataObject) -> None:
    embedding, state = built(kind), held(kind)
    table, last = data.draw(st.sampled_from([("items", ITEMS), ("users", 39)]))
    start = data.draw(st.integers(0, last - 1))
    stop = data.draw(st.integers(start + 1, last))
    k = data.draw(st.integers(1, min(stop - start, 40)))
    count = data.draw(st.integers(0, 9))
    seed = data.draw(st.integers(0, 99))
    queries = torch.randint(-2, 3, (count, 6), generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_CHUNK_BYTES", 1 << 13)
        found = embedding.top_k(table, queries.float(), k, start=start, stop=stop)
    scores = queries.float() @ state[f"{table}.weight"][start:stop].T
    wanted = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found[0], wanted.values[:, :k])
    assert torch.equal(found[1], wanted.indices[:, :k] + start)


def test_queries_keep_their_shape_and_may_lie_on_the_device(embedding: tte.TPUEmbedding) -> None:
    queries = small_numbers((2, 3, 6), torch.float32)
    scores, ids = embedding.top_k("items", queries, 4)
    assert (scores.shape, ids.shape) == ((2, 3, 4), (2, 3, 4))
    others = queries.to(tte.runtime.device()).requires_grad_(), queries.numpy()
    for given_queries in others:
        for found, wanted in zip(
            embedding.top_k("items", given_queries, 4), (scores, ids), strict=True
        ):
            assert torch.equal(found, wanted)
    one = embedding.top_k("items", queries[1, 2], 4)
    assert torch.equal(one[0], scores[1, 2])
    assert torch.equal(one[1], ids[1, 2])
    rows = embedding.read_rows("items", ids)
    assert torch.equal((rows * queries[:, :, None]).sum(-1), scores)


@pytest.mark.parametrize("kind", [*LAYOUTS, "serving"])
def test_floats_give_the_scores_of_torch(kind: str) -> None:
    embedding = make(device="cpu") if kind == "serving" else make(layout=kind)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(ITEMS, 6, generator=generator)
    weight[8] = 0.0
    embedding.write_rows("items", range(ITEMS), weight)
    queries = torch.randn(5, 6, generator=generator)
    scores, ids = embedding.top_k("items", queries, 9)
    wanted = torch.topk(queries @ weight.T, 9)
    torch.testing.assert_close(scores, wanted.values)
    assert torch.equal(ids, wanted.indices)
    scores, ids = embedding.top_k("items", queries, ITEMS, metric="cosine")
    cosine = torch.cosine_similarity(queries[:, None], weight[None], dim=2)
    torch.testing.assert_close(scores, cosine.sort(dim=1, descending=True).values)
    torch.testing.assert_close(cosine.gather(1, ids), scores)


def fetched_bytes(embedding: tte.TPUEmbedding, work: Callable[[], object]) -> int:
    """Bytes that travel from the device to the host meanwhile."""
    exchange = embedding._tables.engine.exchange
    count, fetch = [0], exchange.fetch

    def counted(value: Tensor) -> Tensor:
        count[0] += value.numel() * value.element_size()
        return fetch(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "fetch", counted)
        work()
    return count[0]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_few_rows_move_few_bytes(kind: DeviceKind) -> None:
    table = tte.TableConfig(50_000, 16, name="a")  # 3.2 MB, and as much of slots
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.Adagrad(0.1), layout=kind)
    ids = list(range(0, 50_000, 5_000))
    largest = 64 * 128 * 4  # 64 physical rows
    assert fetched_bytes(embedding, lambda: embedding.read_rows("a", ids)) <= largest
    rows = torch.ones(10, 16)
    assert fetched_bytes(embedding, lambda: embedding.write_rows("a", ids, rows)) <= largest
    queries = torch.ones(8, 16)
    assert fetched_bytes(embedding, lambda: embedding.top_k("a", queries, 8)) == 8 * 8 * 8
    whole = fetched_bytes(embedding, lambda: embedding.table_weight("a"))
    assert whole <= 1.3 * 2 * 4 * 50_000 * 16


@pytest.mark.parametrize("kind", LAYOUTS)
def test_other_ids_queries_and_tables_compile_nothing_again(kind: DeviceKind) -> None:
    embedding = built(kind)

    def work(shift: int) -> int:
        embedding.read_rows("items", torch.arange(shift, shift + 100 + shift) * 20)
        embedding.write_rows("items", [shift], embedding.read_rows("items", [shift]))
        embedding.table_weight("users", shift)
        embedding.top_k("items", torch.ones(5 + shift, 6), 5 + shift, start=shift)
        embedding.top_k("users", torch.ones(5, 6), 6, stop=30 + shift)
        return tte.runtime.compile_count()

    first = work(0)
    assert [work(shift) for shift in (1, 2, 3)] == [first] * 3


def test_memory_of_a_search_does_not_grow_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_CHUNK_BYTES", 1 << 12)
    largest = [0]

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(each, Tensor) and not each._is_view() and each.device.type != "cpu":
                    largest[0] = max(largest[0], each.numel())
            return out

    with Seen():
        built("CPU").top_k("items", torch.ones(8, 6), 5)
    assert 0 < largest[0] <= (8 + 12) * 128


def test_updates_that_a_pipeline_holds_back_are_in_the_rows_read() -> None:
    found = []
    for pipelined in (False, True):
        embedding = make(pipeline_execution_with_tensor_core=pipelined)
        embedding.enqueue(
            {"items": torch.tensor([1, 2, 3, 4]), "users": torch.tensor([0, 1, 1, 2])}
        )
        sum(each.sum() for each in embedding.dequeue().values()).backward()
        embedding.apply_gradients()
        tte.runtime.sync()
        best = embedding.top_k("items", torch.ones(1, 6), 3)
        embedding.write_rows("users", [1], torch.ones(1, 6))
        found.append([embedding.read_rows("items", [1, 9]), *best, embedding.table_weight("users")])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found[0][0], held("CPU")["items.weight"][[1, 9]])


def test_an_update_after_a_write_starts_from_the_written_rows() -> None:
    embedding = make()
    embedding.enqueue({"items": torch.tensor([1, 1, 1, 1]), "users": torch.tensor([0, 1, 1, 2])})
    activations = embedding.dequeue()
    embedding.write_rows("items", [1], torch.full((1, 6), 50.0))
    sum(each.sum() for each in activations.values()).backward()
    embedding.apply_gradients()
    moved = 50.0 - embedding.read_rows("items", [1])
    torch.testing.assert_close(moved, torch.full((1, 6), 0.1 * 4 / (0.1 + 16) ** 0.5))


def test_a_delta_checkpoint_takes_the_written_rows_along(tmp_path: Path) -> None:
    embedding = make()
    checkpoint.save(embedding, tmp_path, 1)
    embedding.write_rows("items", [2, 3000], torch.full((2, 6), 7.0))
    checkpoint.save(embedding, tmp_path, 2, since=1)
    other = make()
    checkpoint.load(other, tmp_path)
    assert torch.equal(other.table_weight("items"), embedding.table_weight("items"))
    assert other.read_rows("items", [2, 3000]).eq(7).all()
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*2*/*.safetensors")}
    assert sum(sizes.values()) < 4 * 6 * 100, sizes


def test_the_modes_and_defaults_of_torch_change_nothing() -> None:
    embedding, state = built("CPU"), held("CPU")
    queries = small_numbers((2, 6), torch.float32)
    wanted = embedding.top_k("items", queries, 3)
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype=torch.bfloat16),
            torch.device("meta"),
        ):
            found = embedding.top_k("items", queries, 3)
            rows = embedding.read_rows("items", [4])
            embedding.write_rows("items", [4], rows)
            whole = embedding.table_weight("items")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(rows, state["items.weight"][[4]])
    assert torch.equal(whole, state["items.weight"])


Call = Callable[[tte.TPUEmbedding], object]
ROW = torch.ones(1, 6)
INFINITE = ROW / torch.tensor([1, 1, 0, 1, 1, 1])
CASES: list[tuple[str, Call, Call]] = [
    (
        "read_rows: no table is named 'item'; the tables are ['items', 'users']",
        lambda e: e.read_rows("item", [1]),
        lambda e: e.read_rows("items", [1]),
    ),
    (
        "read_rows: this TableConfig ('items') is not one of feature_config's; the tables are ['items', "
        "'users'], give one by its name",
        lambda e: e.read_rows(tte.TableConfig(9, 6, name="items"), [1]),
        lambda e: e.read_rows("items", [1]),
    ),
    (
        "read_rows: table must be a name or a TableConfig, got int",
        lambda e: e.read_rows(0, [1]),  # type: ignore[arg-type]
        lambda e: e.read_rows("items", [1]),
    ),
    (
        "read_rows: table 'items' has no slot 'momenta'; it has the slots ['accumulators'], and slot=None "
        "is for its weights",
        lambda e: e.read_rows("items", [1], slot="momenta"),
        lambda e: e.read_rows("items", [1]),
    ),
    (
        "read_rows: table 'items': id 3001 at position [1, 0] is outside [0, 3001); 2 of 4 ids are; leave "
        "those out",
        lambda e: e.read_rows("items", [[1, 2], [3001, -1]]),
        lambda e: e.read_rows("items", [1, 2]),
    ),
    (
        "read_rows: table 'items': ids must be integers, got torch.float32; take ids.long()",
        lambda e: e.read_rows("items", torch.ones(2)),
        lambda e: e.read_rows("items", torch.ones(2).long()),
    ),
    (
        "read_rows: table 'items': ids must be integers, got float64; convert them with astype('int64')",
        lambda e: e.read_rows("items", np.ones(2)),
        lambda e: e.read_rows("items", np.ones(2).astype("int64")),
    ),
    (
        "read_rows: table 'items': ids must be integers, got bool",
        lambda e: e.read_rows("items", [True]),
        lambda e: e.read_rows("items", [1]),
    ),
    (
        "write_rows: table 'items': id 4 occurs more than once (positions 0 and 2 of the flat ids); give "
        "each id one row of values",
        lambda e: e.write_rows("items", [4, 1, 4], torch.ones(3, 6)),
        lambda e: e.write_rows("items", [4, 1], torch.ones(2, 6)),
    ),
    (
        "write_rows: table 'items': values must have shape [1, 6], a row for each id, got [6]",
        lambda e: e.write_rows("items", [1], torch.ones(6)),
        lambda e: e.write_rows("items", [1], ROW),
    ),
    (
        "write_rows: table 'items': values must be float32 on the host, got torch.float64 on cpu; take "
        "values.cpu().float()",
        lambda e: e.write_rows("items", [1], ROW.double()),
        lambda e: e.write_rows("items", [1], ROW.double().cpu().float()),
    ),
    (
        "write_rows: table 'items': values must be finite, got inf at position [1, 2], for id 8; "
        "leave that row out",
        lambda e: e.write_rows("items", [1, 8], torch.cat([ROW, INFINITE])),
        lambda e: e.write_rows("items", [1], ROW),
    ),
    (
        "write_rows: table 'items': reset_slots=True goes with weights, got slot='accumulators'; leave "
        "one of them out",
        lambda e: e.write_rows("items", [1], ROW, slot="accumulators", reset_slots=True),
        lambda e: e.write_rows("items", [1], ROW, slot="accumulators"),
    ),
    (
        "table_weight: table 'items': start 5 and stop 4 must be in order and within [0, 3001]",
        lambda e: e.table_weight("items", 5, 4),
        lambda e: e.table_weight("items", 4, 5),
    ),
    (
        "table_weight: table 'items': start must be an int, got float",
        lambda e: e.table_weight("items", 1.0, 4),  # type: ignore[arg-type]
        lambda e: e.table_weight("items", 1, 4),
    ),
    (
        "top_k: table 'users': k must be in [1, 39], for the ids 0 to 39 have 39 rows, without that of "
        "padding_idx, got 40",
        lambda e: e.top_k("users", ROW, 40),
        lambda e: e.top_k("users", ROW, 39),
    ),
    (
        "top_k: metric must be one of dot, cosine, got 'l2'",
        lambda e: e.top_k("users", ROW, 4, metric="l2"),
        lambda e: e.top_k("users", ROW, 4, metric="cosine"),
    ),
    (
        "top_k: table 'users': queries must have shape [..., 6], the dim of the table, got [1, 5]",
        lambda e: e.top_k("users", torch.ones(1, 5), 4),
        lambda e: e.top_k("users", torch.ones(1, 6), 4),
    ),
    (
        "top_k: table 'users': queries must be float32, got torch.int64; take queries.float()",
        lambda e: e.top_k("users", ROW.long(), 4),
        lambda e: e.top_k("users", ROW.long().float(), 4),
    ),
    (
        "top_k: table 'users': queries must be finite, got nan at position [0, 0]; leave that query out",
        lambda e: e.top_k("users", ROW * torch.nan, 4),
        lambda e: e.top_k("users", ROW[1:], 4),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "wrong", "right"), CASES, ids=[each[0] for each in CASES])
def test_an_error_names_table_place_and_remedy_and_changes_nothing(
    message: str, wrong: Call, right: Call
) -> None:
    for embedding in (built("CPU"), make(device="cpu")):
        before = {key: value.clone() for key, value in helpers.tensors(embedding).items()}
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            wrong(embedding)
        for key, value in helpers.tensors(embedding).items():
            assert torch.equal(value, before[key]), key
        right(embedding)
        embedding.load_state_dict(embedding.state_dict() | before)


def test_ids_on_the_device_are_refused() -> None:
    ids = torch.tensor([1]).to(tte.runtime.device())
    with pytest.raises(
        TypeError,
        match=re.escape(f"got torch.strided on {DEVICE}:0; take ids.cpu()"),
    ):
        built("CPU").read_rows("items", ids)
    assert built("CPU").read_rows("items", ids.cpu()).shape == (1, 6)


def test_slots_that_a_function_makes_cannot_begin_again() -> None:
    def slots(table: Tensor, names: Any, initializers: Any) -> dict[str, Tensor]:
        return {name: torch.ones(*table.shape) for name in names}

    table = tte.TableConfig(9, 2, name="a")
    optimizer = tte.Adagrad(0.1, slot_variable_creation_fn=slots)
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 4, optimizer, device="cpu")
    with pytest.raises(ValueError, match="leave reset_slots out, and write each slot with slot="):
        embedding.write_rows("a", [1], torch.ones(1, 2), reset_slots=True)
    embedding.write_rows("a", [1], torch.ones(1, 2))
    embedding.write_rows("a", [1], torch.zeros(1, 2), slot="accumulators")
    assert embedding.read_rows("a", [1], slot="accumulators").eq(0).all()


def test_the_serving_module_has_the_same_calls() -> None:
    table = tte.TableConfig(9, 6, name="items", initializer=small_numbers)
    serving = tte.TPUEmbeddingForServing([tte.FeatureConfig(table)])
    serving.write_rows("items", [3], 10 * ROW)
    scores, ids = serving.top_k(table, ROW, 1)
    assert (scores.item(), ids.item()) == (60.0, 3)
    assert torch.equal(serving.table_weight("items")[[3]], serving.read_rows("items", [3]))
