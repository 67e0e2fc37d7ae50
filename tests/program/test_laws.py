"""Laws that hold for all inputs, each on generated batches.

Most run the engine on plain torch tensors, where the very same operators run without compiling; the XLA
law ties that to the device. Values are compared in float32 against a float64 reference.
"""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models import helpers
from models.laws import (
    AMPLIFIED,
    BATCH,
    LAYOUTS,
    OPTIMIZERS,
    Batch,
    Fast,
    assert_close,
    assert_same,
    batches,
    config,
)
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.reference import ReferenceEmbedding, Sample
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import record_shapes


@pytest.fixture(autouse=True)
def narrow_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that on CPU the tables of D = 4 have a physical row for each field, and that of D = 3 has not."""
    monkeypatch.setattr(record_shapes, "_FIELD_ROW_WIDTH", 4)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=20)
@given(st.lists(batches(), min_size=1, max_size=3))
def test_every_layout_equals_the_reference(name: str, kind: DeviceKind, steps: list[Batch]) -> None:
    optimizer = OPTIMIZERS[name]
    features = config(optimizer)
    fast = Fast(features, optimizer, kind)
    reference = ReferenceEmbedding(features, optimizer, fast.state())
    for batch in steps:
        wanted = reference.look_up(batch)
        for found, expected in zip(fast.step(batch), wanted, strict=True):
            torch.testing.assert_close(found.to(torch.float64), expected, rtol=2e-5, atol=2e-5)
        reference.apply_gradients(batch, [helpers.gradient_of(each) for each in wanted])
    assert_close(fast.state(), reference.state, AMPLIFIED.get(name, 2e-5))


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "adam-not-lazy"])
@given(batches())
def test_rows_not_looked_up_stay_bit_identical(name: str, batch: Batch) -> None:
    fast = Fast(config(OPTIMIZERS[name]), OPTIMIZERS[name], "TPU")
    # signed zeros and values that a careless product with 0 would spoil
    start = fast.state()
    for value in start.values():
        value[::2, 0] = -0.0
    touched: dict[str, set[int]] = {table.name: set() for table in fast.resolved.tables}
    for feature, samples in zip(fast.resolved.features, batch, strict=True):
        length = feature.max_sequence_length or None
        for sample in samples:
            touched[fast.resolved.table_of(feature).name] |= {i for i, _ in sample[:length]}
    names = [table.name for table in fast.resolved.tables]
    for key, value in start.items():
        if key.endswith(".weight"):
            for row in set(range(len(value))) - touched[key.split(".")[0]]:
                value[row, -1] = float("inf")
    fast.engine.store.replace(
        {
            t: {k.split(".")[1]: v for k, v in start.items() if k.split(".")[0] == n}
            for t, n in enumerate(names)
        }
    )
    before = fast.state()
    fast.step(batch)
    for key, value in fast.state().items():
        for row in set(range(len(value))) - touched[key.split(".")[0]]:
            bits = [tensor[row].view(torch.int32) for tensor in (value, before[key])]
            assert torch.equal(*bits), f"{key}[{row}]"


SUMMING = [name for name, optimizer in OPTIMIZERS.items() if not optimizer.steps_per_occurrence]


@pytest.mark.parametrize("name", SUMMING)
@settings(max_examples=12)
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_ids_in_a_bag_does_not_matter(name: str, batch: Batch, random: object) -> None:
    shuffled = [
        [
            list(sample) if feature.max_sequence_length else random.sample(sample, len(sample))
            for sample in samples
        ]
        for feature, samples in zip(config(tte.SGD()), batch, strict=True)
    ]
    optimizer = OPTIMIZERS[name]
    one, other = (Fast(config(optimizer), optimizer, "CPU") for _ in range(2))
    for a, b in zip(one.step(batch), other.step(shuffled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert_close(one.state(), other.state())


@pytest.mark.parametrize("name", SUMMING)
@settings(max_examples=12)
@given(batches())
def test_an_id_given_twice_counts_as_the_sum_of_its_weights(name: str, batch: Batch) -> None:
    def merge(sample: Sample) -> Sample:
        sums: dict[int, float] = {}
        for row, weight in sample:
            sums[row] = sums.get(row, 0.0) + weight
        return list(sums.items())

    optimizer = OPTIMIZERS[name]
    features = config(optimizer)
    merged = [
        [s if f.max_sequence_length or f.table.combiner == "sqrtn" else merge(s) for s in samples]
        for f, samples in zip(features, batch, strict=True)
    ]
    one, other = (Fast(features, optimizer, "CPU") for _ in range(2))
    for a, b in zip(one.step(batch), other.step(merged), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert_close(one.state(), other.state())


@pytest.mark.parametrize("kind", ["sparse", "jagged"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=6)
@given(batches())
def test_sparse_and_jagged_inputs_are_the_ragged_one(name: str, kind: str, batch: Batch) -> None:
    optimizer = OPTIMIZERS[name]
    one, other = (Fast(config(optimizer), optimizer, "CPU") for _ in range(2))
    for a, b in zip(one.step(batch), other.step(batch, kind), strict=True):
        assert torch.equal(a, b)
    assert_same(one.state(), other.state())


@given(st.lists(st.integers(0, 6), min_size=BATCH, max_size=BATCH))
def test_a_dense_feature_is_a_bag_of_one(ids: list[int]) -> None:
    optimizer = OPTIMIZERS["adagrad"]
    states = []
    for value in (torch.tensor(ids), tte.Ragged.from_lists([[i] for i in ids])):
        table = tte.TableConfig(7, 4, name="a")
        fast = Fast([tte.FeatureConfig(table)], optimizer, "CPU")
        (feature,) = fast.resolved.features
        bags = [parse(feature, fast.resolved.tables[0], value)]
        looked_up, activations = fast.engine.look_up(fast.engine.send(bags))
        fast.engine.update(looked_up, [helpers.gradient_of(each) for each in activations], [0.1])
        states.append(fast.state())
    assert_close(states[0], states[1])


@pytest.mark.parametrize("name", SUMMING)
@settings(max_examples=12)
@given(batches())
def test_features_of_one_table_may_come_in_any_order(name: str, batch: Batch) -> None:
    optimizer = OPTIMIZERS[name]
    features = config(optimizer)
    one = Fast(features, optimizer, "TPU")
    other = Fast(features[::-1], optimizer, "TPU")
    gradients_match = zip(
        one.step(batch, train=False), other.step(batch[::-1], train=False)[::-1], strict=True
    )
    for a, b in gradients_match:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    one.step(batch)
    other.step(batch[::-1])
    assert_close(one.state(), other.state())


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=8)
@given(batches())
def test_lookup_without_training_changes_nothing(name: str, batch: Batch) -> None:
    fast = Fast(config(OPTIMIZERS[name]), OPTIMIZERS[name], "TPU")
    before = fast.state()
    fast.step(batch, train=False)
    assert_same(fast.state(), before)


@functools.cache
def on_device(name: str, kind: DeviceKind) -> tuple[tte.TPUEmbedding, dict[str, Tensor]]:
    """One embedding for all examples of a test, for its programs are compiled once, and its start."""
    optimizer = OPTIMIZERS[name]
    embedding = tte.TPUEmbedding(config(optimizer), BATCH, optimizer, seed=0, layout=kind)
    return embedding, embedding.state_dict()


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "TPU") for name in OPTIMIZERS] + [(name, "CPU") for name in ("adagrad", "adam-each")],
)
@settings(max_examples=4)
@given(st.lists(batches(), min_size=2, max_size=2))
def test_xla_equals_plain_torch(name: str, kind: DeviceKind, steps: list[Batch]) -> None:
    fast = Fast(config(OPTIMIZERS[name]), OPTIMIZERS[name], kind)
    embedding, start = on_device(name, kind)
    embedding.load_state_dict(start)
    after_update = AMPLIFIED.get(name, 1e-5)
    for batch in steps:
        tolerance = 1e-6 if batch is steps[0] else after_update
        ids, weights = helpers.as_inputs(batch, "ragged")
        given_weights = [
            None if f.max_sequence_length else w
            for f, w in zip(fast.resolved.features, weights, strict=True)
        ]
        found = helpers.train_step(embedding, ids, given_weights)
        for a, b in zip(found, fast.step(batch), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    assert_close(helpers.tensors(embedding), fast.state(), tolerance=after_update)


@settings(max_examples=10)
@given(batches(weighted=False), batches(weighted=False))
def test_batches_come_out_in_the_order_they_went_in(first: Batch, second: Batch) -> None:
    fast = Fast(config(OPTIMIZERS["adam"]), OPTIMIZERS["adam"], "CPU")
    embedding, start = on_device("adam", "CPU")
    embedding.load_state_dict(start)
    for batch in (first, second):
        ids, _ = helpers.as_inputs(batch, "ragged")
        embedding.enqueue(ids, training=False)
    for batch in (first, second):
        for a, b in zip(embedding.dequeue(), fast.step(batch, train=False), strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-6)
