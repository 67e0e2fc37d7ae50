"""accumulate_gradients: K micro-batches and one update are one batch of all their samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models import helpers
from models.laws import (
    AMPLIFIED,
    CPU,
    LAYOUTS,
    OPTIMIZERS,
    Batch,
    Fast,
    assert_close,
    batches,
    config,
    join,
    step_of_several,
)
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.reference import ReferenceEmbedding
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import record_shapes
from torch_tpu_embedding.tables.start_values import start_values

SUMMED = [name for name, each in OPTIMIZERS.items() if not each.steps_per_occurrence]


@pytest.fixture(autouse=True)
def narrow_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that on CPU the tables of D = 4 have a physical row for each field, and that of D = 3 has not."""
    monkeypatch.setattr(record_shapes, "_FIELD_ROW_WIDTH", 4)


@pytest.mark.parametrize("name", SUMMED)
@settings(max_examples=4)
@given(st.lists(batches(), min_size=2, max_size=4), st.sampled_from(LAYOUTS))
def test_micro_batches_train_what_one_batch_of_all_their_samples_does(
    name: str, micro: list[Batch], kind: DeviceKind
) -> None:
    optimizer = OPTIMIZERS[name]
    fast = Fast(config(optimizer), optimizer, kind)
    reference = ReferenceEmbedding(config(optimizer), optimizer, fast.state())
    for _ in range(2):
        parts = [[helpers.gradient_of(e) for e in reference.look_up(each)] for each in micro]
        gradients = [torch.cat(of_feature) for of_feature in zip(*parts, strict=True)]
        reference.apply_gradients(join(micro), gradients)
        step_of_several(fast.engine, fast.resolved, micro, "ragged")
    assert_close(fast.state(), reference.state, AMPLIFIED.get(name, 2e-5))


@settings(max_examples=4)
@given(st.data())
def test_several_processes_have_the_tables_and_the_norm_of_one(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([2, 3]))
    optimizer = OPTIMIZERS["adagrad"]
    micro = [[data.draw(batches()) for _ in range(size)] for _ in range(2)]

    def work(group: ThreadGroup) -> tuple[float, dict[str, Tensor]]:
        resolved = resolve(config(optimizer), optimizer)
        engine = Engine(resolved, CPU, "CPU", Process(CPU, group, in_program=False))
        ids = engine.store.ids
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
        mine = [parts[group.rank] for parts in micro]
        norm = step_of_several(engine, resolved, mine, "ragged")
        held = engine.store.read()
        rows = {t: held[t]["weight"] for t in held}
        return norm, {f"{resolved.tables[t].name}": (ids(t), each) for t, each in rows.items()}

    alone = Fast(config(optimizer), optimizer, "CPU")
    every = [part for parts in micro for part in parts]
    wanted = step_of_several(alone.engine, alone.resolved, every, "ragged")
    for norm, tables in run_processes(size, work):
        assert norm == pytest.approx(wanted, rel=1e-5)
        for name, (ids, rows) in tables.items():
            whole = alone.state()[f"{name}.weight"][ids.start : ids.stop : ids.step]
            torch.testing.assert_close(rows, whole, atol=1e-5, rtol=1e-5)


# -- as a user calls it ----------------------------------------------------------------------------

B = 4


ALL, ONE = ("bag", "one", "sequence"), ("one",)


def make(names: Sequence[str] = ONE, **options: Any) -> tte.TPUEmbedding:
    """An embedding of one feature, unless more is asked for: its programs are compiled quickly."""
    optimizer = options.pop("optimizer", tte.SGD(0.5))
    bags = tte.TableConfig(9, 2, name="bags", combiner="mean", optimizer=optimizer)
    rows = tte.TableConfig(7, 3, name="rows", optimizer=tte.Adam(0.1))
    config = {
        "bag": tte.FeatureConfig(bags),
        "one": tte.FeatureConfig(bags),
        "sequence": tte.FeatureConfig(rows, max_sequence_length=2),
    }
    config = {name: config[name] for name in names}
    return tte.TPUEmbedding(config, options.pop("size", B), None, seed=0, **options)


def make_batch(seed: int, names: Sequence[str] = ONE) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def ragged(vocabulary: int) -> tte.Ragged:
        lengths = torch.randint(0, 4, (B,), generator=generator)
        ids = torch.randint(0, vocabulary, (int(lengths.sum()),), generator=generator)
        return tte.Ragged.from_lengths(ids, lengths)

    one = torch.randint(0, 9, (B,), generator=generator)
    batch = {"bag": ragged(9), "one": one, "sequence": ragged(7)}
    return {name: batch[name] for name in names}


def backward(embedding: tte.TPUEmbedding, batch: dict[str, Any], scale: float = 1.0) -> None:
    rows = [each.sum(-1) for each in embedding(batch).values()]
    (scale * sum(each.sin().sum() + each.square().sum() for each in rows)).backward()


def concatenated(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def ragged(name: str) -> tte.Ragged:
        parts = [each[name] for each in batches]
        lengths = torch.cat([part.row_splits.diff() for part in parts])
        return tte.Ragged.from_lengths(torch.cat([part.values for part in parts]), lengths)

    one = torch.cat([each["one"] for each in batches])
    return {"bag": ragged("bag"), "one": one, "sequence": ragged("sequence")}


def assert_same_tables(one: tte.TPUEmbedding, other: tte.TPUEmbedding) -> None:
    wanted = helpers.tensors(other)
    for key, value in helpers.tensors(one).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-6, msg=key)


def test_accumulated_calls_equal_one_batch_and_compile_nothing_after_warm_up() -> None:
    micro, whole = make(ALL), make(ALL, size=2 * B)
    optimizer = tte.EmbeddingOptimizer(micro)
    compiled = 0
    for step in range(4):
        batches = [make_batch(2 * step + k, ALL) for k in range(2)]
        for number, batch in enumerate(batches):
            backward(micro, batch)
            assert len(optimizer.param_groups[0]["params"]) == 2 * (number + 1)
            if number < 1 or step % 2:  # the last one may be accumulated, too
                micro.accumulate_gradients()
            if number < 1:
                tte.runtime.sync()
        optimizer.step()
        tte.runtime.sync()
        if step == 1:
            compiled = tte.runtime.compile_count()
    assert tte.runtime.compile_count() == compiled
    assert all(group["params"] == [] for group in optimizer.param_groups)
    for step in range(4):
        backward(whole, concatenated([make_batch(2 * step + k, ALL) for k in range(2)]))
        whole.apply_gradients()
        tte.runtime.sync()
    assert_same_tables(micro, whole)


def test_what_is_done_to_gradients_before_the_step_is_done_to_all_that_were_accumulated() -> None:
    one, other = make(), make()
    for embedding, scale in ((one, 4.0), (other, 1.0)):
        optimizer = tte.EmbeddingOptimizer(embedding)
        for seed in (1, 2):
            backward(embedding, make_batch(seed), scale)
            if seed == 1:
                embedding.accumulate_gradients()
        leaves = [each for group in optimizer.param_groups for each in group["params"]]
        assert len(leaves) == 2
        for each in leaves:
            assert each.grad is not None
            each.grad.mul_(1 / scale)
        optimizer.step()
    tte.runtime.sync()
    assert_same_tables(one, other)


def test_gradients_given_are_accumulated_like_those_of_backward() -> None:
    one, other = make(), make()
    for seed in (1, 2):
        one(make_batch(seed))
        rows = other(make_batch(seed))
        given = {name: torch.full_like(each, 0.5 / seed) for name, each in rows.items()}
        for name, each in rows.items():
            each.grad = given[name].clone()
        if seed == 1:
            one.accumulate_gradients(given)
            given["one"].zero_()  # the caller's own
            other.accumulate_gradients()
    one.apply_gradients(given)
    other.apply_gradients()
    tte.runtime.sync()
    assert_same_tables(one, other)


def test_a_second_batch_before_the_update_names_the_call_that_allows_it() -> None:
    embedding, other = make(), make()
    backward(embedding, make_batch(1))
    with pytest.raises(
        RuntimeError, match=r"awaits its gradients; .* or accumulate_gradients\(\) to"
    ):
        embedding(make_batch(2))
    embedding.accumulate_gradients()
    backward(embedding, make_batch(2))
    embedding.apply_gradients()
    for seed, end in ((1, other.accumulate_gradients), (2, other.apply_gradients)):
        backward(other, make_batch(seed))
        end()
    tte.runtime.sync()
    assert_same_tables(embedding, other)


def test_calls_out_of_order_change_nothing() -> None:
    embedding, other = make(), make()
    with pytest.raises(
        RuntimeError, match=r"^accumulate_gradients: no training batch was dequeued"
    ):
        embedding.accumulate_gradients()
    embedding(make_batch(1))
    with pytest.raises(RuntimeError, match=r"^accumulate_gradients: no activation has a gradient"):
        embedding.accumulate_gradients()
    embedding.discard()
    backward(embedding, make_batch(1))
    with pytest.raises(ValueError, match="gradients of feature 'one': expected a tensor or None"):
        embedding.accumulate_gradients({"one": 1.0})
    embedding.accumulate_gradients()
    with pytest.raises(
        RuntimeError, match=r"^accumulate_gradients: .* already called .* enqueue and"
    ):
        embedding.accumulate_gradients()
    with pytest.raises(
        RuntimeError, match=r"^apply_gradients: accumulate_gradients was already called"
    ):
        embedding.apply_gradients({"one": None})
    embedding.apply_gradients()
    with pytest.raises(RuntimeError, match=r"^accumulate_gradients: apply_gradients was already"):
        embedding.accumulate_gradients()
    backward(embedding, make_batch(2))
    embedding.accumulate_gradients()
    embedding.discard()
    with pytest.raises(RuntimeError, match=r"^apply_gradients: no training batch was dequeued"):
        embedding.apply_gradients()
    backward(other, make_batch(1))
    other.apply_gradients()
    tte.runtime.sync()
    assert_same_tables(embedding, other)


def test_a_name_accumulates_for_itself() -> None:
    embedding, other = make(), make()
    for each, between in ((embedding, True), (other, False)):
        for seed in (1, 2):
            each.enqueue(make_batch(seed), name="a")
            sum(row.square().sum() for row in each.dequeue("a").values()).backward()
            each.accumulate_gradients(name="a")
            if between:
                backward(each, make_batch(9))
                each.discard()
        each.apply_gradients(name="a")
    tte.runtime.sync()
    assert_same_tables(embedding, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pipeline_execution_with_tensor_core": True},
            "micro-batches of a step would read different tables; create the TPUEmbedding without",
        ),
        (
            {"optimizer": tte.Adagrad(0.1, use_gradient_accumulation=False)},
            "table 'bags' takes an optimizer step for each occurrence .* call apply_gradients for each",
        ),
        (
            {"device": "cpu"},
            "tables are plain parameters and backward accumulates .* leave the call",
        ),
    ],
    ids=["pipelined", "each occurrence", "cpu"],
)
def test_where_there_is_nothing_to_accumulate_an_error_says_what_to_do(
    options: dict[str, Any], message: str
) -> None:
    embedding = make(**options)
    backward(embedding, make_batch(1))
    with pytest.raises(RuntimeError, match=f"^accumulate_gradients: .*{message}"):
        embedding.accumulate_gradients()
    if embedding.on_accelerator:
        embedding.apply_gradients()  # the remedy, or the step that was due anyway
        tte.runtime.sync()
    else:
        backward(embedding, make_batch(1))
