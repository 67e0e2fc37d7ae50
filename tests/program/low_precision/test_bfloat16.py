"""Tables in bfloat16: what a step makes of them, on plain tensors and on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models.bfloat16 import (
    BATCH,
    SGD,
    Ids,
    as_samples,
    batches,
    config,
    exact_gradients,
    ragged,
    random_ids,
)
from models.laws import LAYOUTS, OPTIMIZERS, assert_same
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.learning_rates import current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Exchange, Process
from torch_tpu_embedding.distributed.placement import Strategy
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.reference import ReferenceEmbedding
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables.start_values import start_values

CPU = torch.device("cpu")
ROUNDINGS = ("stochastic", "nearest")
AT_ONCE = [
    name
    for name, each in OPTIMIZERS.items()
    if not each.steps_per_occurrence and not each.moves_all_rows
]


class OnTensors:
    """An engine on plain torch tensors."""

    def __init__(
        self,
        features: list[tte.FeatureConfig],
        optimizer: tte.optimizers.Optimizer = SGD,
        kind: DeviceKind = "CPU",
        exchange: Exchange | None = None,
        strategy: Strategy = "mod",
    ) -> None:
        self.resolved = resolve(features, optimizer)
        self.engine = Engine(self.resolved, CPU, kind, exchange, strategy)
        tables, store = self.resolved.tables, self.engine.store
        store.fill(lambda t: start_values(tables[t], 0, store.ids(t)))

    def step(self, ids: Ids, gradients: list[Tensor] | int) -> list[Tensor]:
        """One step; `gradients` may be the seed of exact ones."""
        bags = [
            parse(feature, self.resolved.table_of(feature), each, None)
            for feature, each in zip(self.resolved.features, ragged(ids), strict=True)
        ]
        looked_up, found = self.engine.look_up(self.engine.send(bags))
        if isinstance(gradients, int):
            gradients = exact_gradients([each.shape for each in found], gradients)
        self.engine.update(looked_up, gradients, current_rates(self.resolved.tables))
        return found

    def state(self) -> dict[str, Tensor]:
        """Table and field → the rows held here, float32."""
        return {
            f"{self.resolved.tables[t].name}.{field}": value
            for t, fields in self.engine.store.read().items()
            for field, value in fields.items()
        }


def on_device(rounding: str | None = None, **options: Any) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(config(rounding), BATCH, SGD, seed=0, **options)


def train(embedding: tte.TPUEmbedding, steps: int, first: int = 0) -> list[list[Tensor]]:
    """Steps with exact gradients; gives the activations."""
    found = []
    for step in range(first, first + steps):
        embedding.enqueue(ragged(random_ids(step)))
        activations = embedding.dequeue()
        gradients = exact_gradients([each.shape for each in activations], step)
        embedding.apply_gradients([each.to(embedding.device) for each in gradients])
        found.append([each.detach().cpu() for each in activations])
    return found


def weights(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    state = embedding.state_dict()
    return {key: value for key, value in state.items() if key != "_extra_state"}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@settings(max_examples=20)
@given(st.lists(batches(), min_size=1, max_size=3))
def test_every_layout_equals_the_reference_bit_for_bit(
    rounding: str, kind: DeviceKind, steps: list[Ids]
) -> None:
    features = config(rounding)
    fast = OnTensors(features, kind=kind)
    reference = ReferenceEmbedding(features, SGD, fast.state(), seed=0)
    for number, ids in enumerate(steps):
        wanted = reference.look_up(as_samples(ids))
        gradients = exact_gradients([each.shape for each in wanted], number)
        for found, expected in zip(fast.step(ids, gradients), wanted, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
        reference.apply_gradients(as_samples(ids), gradients)
    assert_same({key: value.double() for key, value in fast.state().items()}, reference.state)


@pytest.mark.parametrize("layout", [None, "TPU"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_device_equals_the_reference_bit_for_bit(
    rounding: str, layout: DeviceKind | None
) -> None:
    embedding = on_device(rounding, layout=layout)
    reference = ReferenceEmbedding(config(rounding), SGD, weights(embedding), seed=0)
    for step, found in enumerate(train(embedding, 4)):
        wanted = reference.look_up(as_samples(random_ids(step)))
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-7)
        gradients = exact_gradients([each.shape for each in wanted], step)
        reference.apply_gradients(as_samples(random_ids(step)), gradients)
    for key, value in weights(embedding).items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value.double(), reference.state[key]), key


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", AT_ONCE)
def test_with_any_optimizer_a_weight_becomes_a_neighbour_of_what_float32_makes_of_it_and_slots_the_same(
    name: str, kind: DeviceKind
) -> None:
    optimizer = OPTIMIZERS[name]
    if optimizer.clip_weight_max is not None:
        optimizer = replace(optimizer, clip_weight_max=0.400390625)
    plain = [
        tte.FeatureConfig(
            tte.TableConfig(each.table.vocabulary_size, each.table.dim, name=f"{n}", combiner="sum")
        )
        for n, each in enumerate(config())
    ]
    packed = [
        tte.FeatureConfig(
            tte.TableConfig(
                each.table.vocabulary_size,
                each.table.dim,
                name=each.table.name,
                combiner="sum",
                dtype=torch.bfloat16,
            )
        )
        for each in plain
    ]
    of_plain, of_packed = (OnTensors(each, optimizer, kind) for each in (plain, packed))
    for step in range(5):
        of_plain.engine.store.replace(of_packed.engine.store.read())
        ids = [samples[:BATCH] for samples in random_ids(step)]
        one, other = (each.step(ids, step) for each in (of_plain, of_packed))
        for activations, expected in zip(other, one, strict=True):
            torch.testing.assert_close(activations, expected, rtol=1e-6, atol=1e-7)
        exact = of_plain.state()
        for key, value in of_packed.state().items():
            if not key.endswith(".weight"):
                torch.testing.assert_close(value, exact[key], rtol=1e-6, atol=1e-7)
                continue
            assert torch.equal(value, value.bfloat16().float())
            ulp = 2.0 ** (torch.frexp(exact[key]).exponent.float() - 8)
            assert ((value - exact[key]).abs() <= ulp * 1.001).all()


def test_a_run_of_tiny_updates_moves_the_mean_as_float32_does_and_nearest_stands_still() -> None:
    rows, dim, steps, change = 16, 64, 128, 2.0**-12
    # weights around 1.5, where neighbours of bfloat16 are 2^-7 apart
    moved = {}
    for rounding in ROUNDINGS:
        table = tte.TableConfig(
            rows,
            dim,
            name="t",
            combiner="sum",
            dtype=torch.bfloat16,
            rounding=rounding,
            initializer=lambda shape, dtype: torch.full(shape, 1.5, dtype=dtype),
        )
        fast = OnTensors([tte.FeatureConfig(table)], tte.SGD(1.0))
        ids = [[[row] for row in range(rows)]]
        for _ in range(steps):
            fast.step(ids, [torch.full((rows, dim), -change)])
        moved[rounding] = fast.state()["t.weight"] - 1.5
    assert not moved["nearest"].any()
    wanted = steps * change
    # a weight moves by binomial numbers of 2^-7, with a variance of at most steps · change · 2^-7
    deviation = (wanted * 2.0**-7 / (rows * dim)) ** 0.5
    assert moved["stochastic"].mean().item() == pytest.approx(wanted, abs=4 * deviation)
    assert moved["stochastic"].std() > 0


def test_the_order_of_samples_does_not_matter() -> None:
    one, other = OnTensors(config()), OnTensors(config())
    order = torch.tensor([2, 0, 3, 1])
    for step in range(3):
        ids = random_ids(step)
        shapes = [each.shape for each in one.step(ids, step)]
        permuted = [[samples[place] for place in order] for samples in ids]
        gradients = exact_gradients(shapes, step)
        other.step(permuted, [each[order] for each in gradients])
    assert_same(one.state(), other.state())


@pytest.mark.parametrize("strategy", ["mod", "div"])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_have_the_tables_of_one(size: int, strategy: Strategy) -> None:
    alone = OnTensors(config())
    whole = [random_ids(step, size * BATCH) for step in range(3)]
    shapes = [[each.shape for each in alone.step(ids, n)] for n, ids in enumerate(whole)]

    def work(group: ThreadGroup) -> dict[str, tuple[range, Tensor]]:
        one = OnTensors(config(), SGD, "CPU", Process(CPU, group, in_program=False), strategy)
        mine = slice(group.rank * BATCH, (group.rank + 1) * BATCH)
        for number, ids in enumerate(whole):
            gradients = exact_gradients(shapes[number], number)
            one.step([samples[mine] for samples in ids], [each[mine] for each in gradients])
        state = one.state()
        return {
            table.name: (one.engine.store.ids(number), state[f"{table.name}.weight"])
            for number, table in enumerate(one.resolved.tables)
        }

    expected = alone.state()
    for found in run_processes(size, work):
        for name, (ids, rows) in found.items():
            assert torch.equal(rows, expected[f"{name}.weight"][ids.start : ids.stop : ids.step])


def test_another_seed_rounds_otherwise_and_the_same_seed_the_same() -> None:
    def after(seed: int) -> Tensor:
        embedding = tte.TPUEmbedding(config(), BATCH, SGD, seed=seed)
        state = embedding.state_dict()
        embedding.load_state_dict(
            {key: torch.full_like(each, 1.0) if "." in key else each for key, each in state.items()}
        )
        train(embedding, 3)
        return weights(embedding)["a.weight"]

    assert torch.equal(after(1), after(1))
    assert not torch.equal(after(1), after(2))


def test_pipelined_execution_rounds_as_the_same_steps_in_turn_do() -> None:
    # the first lookup of each row sees the start values in both, for every batch has rows of its own
    table = tte.TableConfig(12, 4, name="t", combiner="sum", dtype=torch.bfloat16)
    states = []
    for pipelined in (False, True):
        embedding = tte.TPUEmbedding(
            [tte.FeatureConfig(table)], 4, SGD, seed=0,
            pipeline_execution_with_tensor_core=pipelined,
        )  # fmt: skip
        for step in range(3):
            embedding.enqueue([torch.arange(4 * step, 4 * step + 4)])
            embedding.dequeue()
            gradients = exact_gradients([(4, 4)], step)
            embedding.apply_gradients([each.to(embedding.device) for each in gradients])
        states.append(weights(embedding))
    assert_same(*states)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_passes_no_bound_of_the_weights(rounding: str) -> None:
    def build(low: float, high: float) -> tte.TPUEmbedding:
        rule = tte.SGD(1.0, clip_weight_min=low, clip_weight_max=high)
        table = tte.TableConfig(10, 4, name="t", dtype=torch.bfloat16, rounding=rounding)
        return tte.TPUEmbedding([tte.FeatureConfig(table)], BATCH, rule, seed=0)

    message = (
        r"table 't': .*no number 0.1, .*clip_weight_max of its optimizer SGD; .* 0.10009765625$"
    )
    with pytest.raises(ValueError, match=message):
        build(-0.5, 0.1)
    embedding = build(-0.5, 0.10009765625)
    for step in range(20):
        embedding.enqueue([torch.arange(BATCH)])
        (rows,) = embedding.dequeue()
        gradients = torch.randn(rows.shape, generator=torch.Generator().manual_seed(step))
        embedding.apply_gradients([gradients.to(embedding.device)])
        tte.runtime.sync()
    found = weights(embedding)["t.weight"][:BATCH].float()
    assert found.min() == -0.5
    assert found.max() == 0.10009765625


def test_what_needs_other_updates_is_refused_with_a_remedy() -> None:
    def build(optimizer: tte.optimizers.Optimizer, dtype: torch.dtype = torch.bfloat16) -> None:
        table = tte.TableConfig(10, 4, name="t", dtype=dtype)
        tte.TPUEmbedding(tte.FeatureConfig(table), BATCH, optimizer)

    with pytest.raises(
        ValueError, match=r"table 't': with dtype=torch.bfloat16 an update .*Adagrad"
    ):
        build(tte.Adagrad(0.1, use_gradient_accumulation=False))
    build(tte.Adagrad(0.1, use_gradient_accumulation=True))
    with pytest.raises(
        ValueError, match=r"table 't': .*only rows that were looked up .*Adam moves"
    ):
        build(tte.Adam(0.1, lazy_adam=False))
    build(tte.Adam(0.1, lazy_adam=True))
    build(tte.Adam(0.1, lazy_adam=False), torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": torch.float16},
            "dtype must be torch.float32 or torch.bfloat16, got torch.float16",
        ),
        ({"dtype": torch.bfloat16, "rounding": "up"}, "rounding must be None, 'stochastic' or"),
        ({"rounding": "nearest"}, "rounding='nearest' is about tables in bfloat16; leave it out"),
    ],
)
def test_a_wrong_dtype_or_rounding_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tte.TableConfig(10, 4, **options)


def test_the_backend_torch_tpu_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tte.runtime, "backend", lambda: "torch_tpu")
    with pytest.raises(
        ValueError, match=r"tables \['a', 'b', 'c'\] .*needs torch_xla.*torch.float32"
    ):
        on_device()
