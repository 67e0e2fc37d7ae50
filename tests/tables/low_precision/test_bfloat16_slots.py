"""Slots in bfloat16, of tables in bfloat16: rounded as the weights are, by random bits of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import bfloat16
from models.bfloat16 import (
    BATCH,
    as_samples,
    assert_same,
    exact_gradients,
    ragged,
    random_ids,
    tensors,
)
from models.laws import LAYOUTS, OPTIMIZERS
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.config.serialization import config_from_dict, config_to_dict
from torch_tpu_embedding.distributed.exchange import Exchange, Process
from torch_tpu_embedding.distributed.placement import Placement
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.reference import random_bits_of, round_to_bfloat16
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.layout import build_stacks
from torch_tpu_embedding.tables.low_precision.keys import step_keys
from torch_tpu_embedding.tables.low_precision.rounding import random_bits
from torch_tpu_embedding.tables.start_values import start_values

CPU = torch.device("cpu")
HALVES, FLOATS = torch.bfloat16, torch.float32
ROUNDINGS = ("stochastic", "nearest")
AT_ONCE = [
    name
    for name, each in OPTIMIZERS.items()
    if not each.steps_per_occurrence and not each.moves_all_rows
]
ALL = slice(None)
ADAM = tte.Adam(0.05, epsilon=1e-3)


def config(
    rounding: str | None = None, slots: torch.dtype = HALVES, dtype: torch.dtype = HALVES
) -> list[tte.FeatureConfig]:
    """The features of `models.bfloat16`, with slots in bfloat16, too."""
    return bfloat16.config(rounding, slots, dtype)


class OnTensors:
    """An engine on plain torch tensors."""

    def __init__(
        self,
        features: list[tte.FeatureConfig],
        optimizer: tte.optimizers.Optimizer,
        kind: DeviceKind = "CPU",
        exchange: Exchange | None = None,
    ) -> None:
        self.resolved = resolve(features, optimizer)
        self.engine = Engine(self.resolved, CPU, kind, exchange)
        tables, store = self.resolved.tables, self.engine.store
        store.fill(lambda t: start_values(tables[t], 0, store.ids(t)))

    def step(self, number: int, mine: slice = ALL, size: int = BATCH) -> None:
        """Step `number`, of random ids and exact gradients."""
        ids = [samples[mine] for samples in random_ids(number, size)]
        bags = [
            parse(feature, self.resolved.table_of(feature), each, None)
            for feature, each in zip(self.resolved.features, ragged(ids), strict=True)
        ]
        looked_up, found = self.engine.look_up(self.engine.send(bags))
        shapes = [[size, *each.shape[1:]] for each in found]
        gradients = [each[mine] for each in exact_gradients(shapes, number)]
        self.engine.update(looked_up, gradients, current_rates(self.resolved.tables))

    def state(self) -> dict[str, Tensor]:
        """Table and field → the rows held here, float32."""
        return {
            f"{self.resolved.tables[t].name}.{field}": value
            for t, fields in self.engine.store.read().items()
            for field, value in fields.items()
        }


def rounded(table: str, field: str, step: int, values: Tensor, rounding: str) -> Tensor:
    """The float32 rows of ids 0, 1, … as the reference rounds them."""
    found = torch.empty_like(values)
    for row, of_row in enumerate(values.tolist()):
        slot = None if field == "weight" else field
        bits: list[int | None] = [*random_bits_of(0, table, step, row, len(of_row), slot)]
        if rounding == "nearest":
            bits = [None] * len(of_row)
        found[row] = torch.tensor([*map(round_to_bfloat16, of_row, bits)])
    return found


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", AT_ONCE)
def test_a_step_is_that_of_float32_rounded_by_the_bits_of_each_field_bit_for_bit(
    name: str, rounding: str, kind: DeviceKind
) -> None:
    optimizer = OPTIMIZERS[name]
    if optimizer.clip_weight_max is not None:
        optimizer = replace(optimizer, clip_weight_max=0.400390625)
    exact = OnTensors(config(None, FLOATS, FLOATS), optimizer, kind)
    packed = OnTensors(config(rounding), optimizer, kind)
    before = packed.state()
    for step in range(3):
        exact.engine.store.replace(packed.engine.store.read())
        exact.step(step)
        packed.step(step)
        wanted, now = exact.state(), packed.state()
        for key, value in now.items():
            table, _, field = key.rpartition(".")
            changed = (wanted[key] != before[key]).any(dim=1)
            if value.shape[1] > 1:
                expected = rounded(table, field, step, wanted[key], rounding)
                assert torch.equal(value[changed], expected[changed]), key
            else:
                assert torch.equal(value[changed], wanted[key][changed]), key
            assert torch.equal(value[~changed], before[key][~changed]), key
        before = now


def train(embedding: tte.TPUEmbedding, steps: range) -> None:
    for step in steps:
        embedding.enqueue(ragged(random_ids(step)))
        activations = embedding.dequeue()
        gradients = exact_gradients([each.shape for each in activations], step)
        embedding.apply_gradients([each.to(embedding.device) for each in gradients])
        tte.runtime.sync()


def make(
    slots: torch.dtype = HALVES, rounding: str | None = None, seed: int = 0, **options: Any
) -> tte.TPUEmbedding:
    rule = options.pop("optimizer", ADAM)
    return tte.TPUEmbedding(config(rounding, slots), BATCH, rule, seed=seed, **options)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    "rule",
    [tte.Adagrad(0.25), tte.SGD(0.25)],
    ids=["adagrad", "sgd"],
)
def test_the_reference_rounds_slots_by_the_same_bits(
    rule: tte.optimizers.Optimizer, rounding: str
) -> None:
    # each row once, so that no sum is rounded: then the accumulator is the square of the gradient
    table = tte.TableConfig(
        16, 6, name="t", dtype=HALVES, slot_dtype=HALVES, rounding=rounding, combiner="sum"
    )
    features = [tte.FeatureConfig(table)]
    embedding = tte.TPUEmbedding(features, 16, rule, seed=0)
    reference = tte.reference.ReferenceEmbedding(features, rule, tensors(embedding), seed=0)
    ids = [[[row] for row in range(16)]]
    for step in range(2):
        gradients = [torch.randn(16, 6, generator=torch.Generator().manual_seed(step))]
        embedding.enqueue([torch.arange(16)])
        embedding.dequeue()
        embedding.apply_gradients([each.to(embedding.device) for each in gradients])
        reference.apply_gradients(as_samples(ids), gradients)
        found = tensors(embedding)
        for key, value in found.items():
            if key.endswith("accumulators"):
                # float64 may fall on another side of a random number than float32
                agree = value.double() == reference.state[key]
                assert agree.double().mean() > 0.98, key
                torch.testing.assert_close(
                    value.double(), reference.state[key], rtol=2**-7, atol=1e-7
                )


def test_the_bits_of_slots_are_those_of_the_reference_and_others_than_the_weights() -> None:
    resolved = resolve(config()[:3], ADAM)
    (stack,) = build_stacks(resolved.tables, "TPU")
    assert stack.packed == ("weight", "momenta", "velocities")
    keys = step_keys(resolved, stack, Placement(), 5, 2)
    found = {}
    for number, table in enumerate(resolved.tables):
        rows = torch.arange(table.vocabulary_size, dtype=torch.int32)
        record, of_table = stack.first_records[number] + rows, torch.full_like(rows, number)
        for at, field in enumerate(stack.packed):
            bits = random_bits(keys[0], record, of_table, 4, at, 3).tolist()
            slot = None if at == 0 else field
            assert bits == [random_bits_of(5, table.name, 2, r, 4, slot) for r in rows.tolist()]
            found[table.name, field] = str(bits)
    assert len({*found.values()}) == len(found)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["adagrad", "adam", "rowwise", "ftrl"])
def test_the_device_equals_plain_tensors_bit_for_bit(name: str, layout: DeviceKind) -> None:
    plain = OnTensors(config(), OPTIMIZERS[name], layout)
    embedding = make(optimizer=OPTIMIZERS[name], layout=layout)
    assert_same({k: v.float() for k, v in tensors(embedding).items()}, plain.state())
    for step in range(3):
        train(embedding, range(step, step + 1))
        plain.step(step)
        # from here on the same, for the two compilers may round a quotient otherwise
        for key, value in plain.state().items():
            torch.testing.assert_close(
                tensors(embedding)[key].float(), value, rtol=2**-6, atol=2**-10
            )
        state = embedding.state_dict()
        plain.engine.store.replace(
            {
                t: {f: state[f"{table.name}.{f}"].float() for f in table.fields}
                for t, table in enumerate(plain.resolved.tables)
            }
        )


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_have_the_slots_of_one(size: int) -> None:
    rule = tte.Adagrad(0.25)
    alone = OnTensors(config(), rule)
    for step in range(3):
        alone.step(step, size=size * BATCH)

    def work(group: ThreadGroup) -> dict[str, tuple[range, Tensor]]:
        one = OnTensors(config(), rule, "CPU", Process(CPU, group, in_program=False))
        for step in range(3):
            one.step(step, slice(group.rank * BATCH, (group.rank + 1) * BATCH), size * BATCH)
        state = one.state()
        return {
            f"{table.name}.{field}": (one.engine.store.ids(t), state[f"{table.name}.{field}"])
            for t, table in enumerate(one.resolved.tables)
            for field in table.fields
        }

    expected = alone.state()
    for found in run_processes(size, work):
        for key, (ids, rows) in found.items():
            assert torch.equal(rows, expected[key][ids.start : ids.stop : ids.step]), key


def test_a_run_of_tiny_gradients_fills_an_accumulator_as_float32_does_and_nearest_stands_still() -> (
    None
):
    rows, dim, steps, gradient = 16, 64, 128, 2.0**-5
    added = gradient**2  # to 1, whose next neighbour above is 2^-7 away
    moved = {}
    for rounding in ROUNDINGS:
        table = tte.TableConfig(
            rows, dim, name="t", combiner="sum", dtype=HALVES, slot_dtype=HALVES, rounding=rounding
        )
        rule = tte.Adagrad(0.25, initial_accumulator_value=1.0)
        resolved = resolve([tte.FeatureConfig(table)], rule)
        engine = Engine(resolved, CPU, "CPU")
        engine.store.fill(lambda t, r=resolved: start_values(r.tables[t], 0))  # type: ignore[misc]
        bags = [parse(resolved.features[0], resolved.tables[0], torch.arange(rows), None)]
        for _ in range(steps):
            looked_up, _ = engine.look_up(engine.send(bags))
            engine.update(looked_up, [torch.full((rows, dim), gradient)], [0.25])
        moved[rounding] = engine.store.read()[0]["accumulators"] - 1
    assert not moved["nearest"].any()
    wanted = steps * added
    deviation = (wanted * 2.0**-7 / (rows * dim)) ** 0.5
    assert moved["stochastic"].mean().item() == pytest.approx(wanted, abs=4 * deviation)


def test_start_values_are_rounded_to_nearest_and_reset_to_them() -> None:
    embedding = make(optimizer=tte.Adagrad(0.1, initial_accumulator_value=0.1))
    start = torch.tensor(0.1).bfloat16()
    assert (tensors(embedding)["a.accumulators"] == start).all()
    train(embedding, range(2))
    embedding.write_rows("a", [*range(7)], torch.zeros(7, 4), reset_slots=True)
    assert (tensors(embedding)["a.accumulators"] == start).all()
    found = embedding.read_rows("a", [3], slot="accumulators")
    assert torch.equal(found, start.float().expand(1, 4))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_state_has_them_in_bfloat16_and_loads_again(device: str | None) -> None:
    trained = make()
    train(trained, range(3))
    state = trained.state_dict()
    assert state["a.momenta"].dtype == state["a.velocities"].dtype == HALVES
    other = make(seed=1, device=device)
    other.load_state_dict(state)
    assert_same(tensors(other), tensors(trained))
    with pytest.raises(RuntimeError, match=r"a.momenta: 0.1\d* at \[0, 0\] is no .*\.bfloat16\(\)"):
        other.load_state_dict({**state, "a.momenta": torch.full((7, 4), 0.1)})


def test_checkpoints_and_deltas_hold_them_in_bfloat16_bit_for_bit(tmp_path: Path) -> None:
    trained, whole = make(), make()
    train(whole, range(6))
    train(trained, range(2))
    checkpoint.save(trained, tmp_path, 1)
    train(trained, range(2, 4))
    checkpoint.save(trained, tmp_path, 2, since=1)
    with checkpoint.open(tmp_path, 1) as reader:
        entry = reader.tables["a"]
        assert (entry.dtype, entry.slot_dtype) == ("bfloat16", "bfloat16")
        size = sum(each.bytes for name, each in reader.index.files.items() if "momenta" in name)
    assert size < 2 * (7 * 4 + 5 * 4 + 9 * 3) + 400, "two bytes a number, and a header"
    resumed = make(seed=0)
    checkpoint.load(resumed, tmp_path)
    assert_same(tensors(resumed), tensors(trained))
    train(resumed, range(4, 6))
    assert_same(tensors(resumed), tensors(whole))


@pytest.mark.parametrize(("saved", "loaded"), [(HALVES, FLOATS), (FLOATS, HALVES)])
def test_a_checkpoint_with_slots_of_another_dtype_is_converted_if_that_is_asked_for(
    saved: torch.dtype, loaded: torch.dtype, tmp_path: Path
) -> None:
    source, target = make(saved), make(loaded, seed=1)
    train(source, range(2))
    checkpoint.save(source, tmp_path, 1)
    before = tensors(target)
    names = {HALVES: "bfloat16", FLOATS: "float32"}
    message = (
        rf"table 'a': slots \['momenta', 'velocities'\] are {names[saved]} in the checkpoint, "
        rf"{names[loaded]} in the embedding; pass dtype='convert' .* slots='skip'"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.load(target, tmp_path)
    assert_same(tensors(target), before)
    checkpoint.load(target, tmp_path, slots="skip")
    assert torch.equal(tensors(target)["a.weight"], tensors(source)["a.weight"])
    assert torch.equal(tensors(target)["a.momenta"], before["a.momenta"])
    checkpoint.load(target, tmp_path, dtype="convert")
    for key, value in tensors(source).items():
        wanted = value if key.endswith(".weight") else value.to(loaded)
        assert torch.equal(tensors(target)[key], wanted), key


def test_a_table_with_a_dynamic_vocabulary_starts_slots_anew_in_bfloat16() -> None:
    table = tte.TableConfig(
        12, 4, name="t", dtype=HALVES, slot_dtype=HALVES,
        vocabulary=tte.DynamicVocabulary(oov_rows=2, admission=1),
    )  # fmt: skip
    embedding = tte.TPUEmbedding(
        [tte.FeatureConfig(table)], 4, tte.Adagrad(0.0, initial_accumulator_value=0.1), seed=0
    )
    for step in range(5):
        embedding.enqueue([torch.arange(4) + 100 * step])
        (rows,) = embedding.dequeue()
        embedding.apply_gradients([torch.zeros_like(rows)])
        tte.runtime.sync()
    found = tensors(embedding)["t.accumulators"]
    assert found.dtype == HALVES
    assert (found == torch.tensor(0.1).bfloat16()).all()


def test_the_description_and_the_configuration_say_so() -> None:
    embedding = make(layout="TPU")
    embedding.build()
    assert "a (rounded by chance, slots too)" in embedding.describe()
    described = config_to_dict(config())
    assert [each.table.slot_dtype for each in config_from_dict(described)] == [HALVES] * 5
    assert "slot_dtype" not in str(config_to_dict(config(slots=FLOATS)))


def test_tables_of_other_slots_are_other_stacks_and_memory_is_halved() -> None:
    tables = [
        tte.TableConfig(100_000, 64, name=f"{n}", dtype=HALVES, slot_dtype=slots)
        for n, slots in enumerate((HALVES, FLOATS))
    ]
    plain = tte.TableConfig(100_000, 64, name="plain")
    resolved = resolve([tte.FeatureConfig(each) for each in (*tables, plain)], tte.Adagrad(0.1))
    small, large, full = build_stacks(resolved.tables, "TPU")
    sizes = [sum(each.num_elements for each in stack.arrays) for stack in (small, large, full)]
    assert sizes[0] * 2 == pytest.approx(sizes[2], rel=0.001)
    assert sizes[1] == pytest.approx(sizes[2], rel=0.001), "lanes come in powers of two"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slot_dtype": torch.float16}, "slot_dtype must be .*, got torch.float16"),
        ({"slot_dtype": HALVES, "dtype": FLOATS}, "is for tables in bfloat16; leave it out, or"),
    ],
)
def test_a_wrong_dtype_of_slots_is_refused_with_a_remedy(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tte.TableConfig(10, 4, **{"dtype": HALVES, **options})
    tte.TableConfig(10, 4, dtype=HALVES, slot_dtype=HALVES)
