"""A frozen table and its slots keep every bit under every optimizer; thawed, they train on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models import helpers
from models.laws import CPU, LAYOUTS, OPTIMIZERS, Batch, Fast, batches, config, share
from processes.worlds import ThreadGroup, run_processes
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.learning_rates import FROZEN, check_rates, current_rates
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.distributed.exchange import Process
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine
from torch_tpu_embedding.program.stack_index import SentBatch
from torch_tpu_embedding.runtime import DeviceKind
from torch_tpu_embedding.tables import record_shapes
from torch_tpu_embedding.tables.start_values import start_values

DENORMAL = 1e-40
ROWS = 64
"""Rows of each table: in the TPU layout, too, the two have no physical row in common."""
State = dict[str, Tensor]


def of_table(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key.startswith(f"{name}.")}


def same_bits(found: State, wanted: State) -> bool:
    assert set(found) == set(wanted)
    return all(
        torch.equal(found[key].view(torch.int32), value.view(torch.int32))
        for key, value in wanted.items()
    )


class Halting(Fast):
    """The plain engine; a step may leave some tables frozen."""

    def send(self, batch: Batch) -> SentBatch:
        """A batch on its way; it may raise the padded sizes."""
        ids, weights = helpers.as_inputs(batch, "ragged")
        bags = [
            parse(f, self.resolved.table_of(f), i, None if f.max_sequence_length else w)
            for f, i, w in zip(self.resolved.features, ids, weights, strict=True)
        ]
        return self.engine.send(bags)

    def train(self, batch: Batch, frozen: Sequence[int] = ()) -> None:
        looked_up, activations = self.engine.look_up(self.send(batch))
        rates = current_rates(self.resolved.tables)
        gradients = [torch.linspace(-1, 1, each.numel()).view(each.shape) for each in activations]
        self.engine.update(
            looked_up, gradients, check_rates(self.resolved.tables, rates, {*frozen})
        )


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=5)
@given(st.lists(batches(), min_size=3, max_size=3), st.sampled_from([(0,), (1,), (0, 1, 2, 3)]))
def test_a_table_frozen_for_a_step_is_as_if_it_had_not_taken_that_step(
    name: str, kind: DeviceKind, steps: list[Batch], frozen: Sequence[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_shapes, "_FIELD_ROW_WIDTH", 4)
        runs = [Halting(config(OPTIMIZERS[name]), OPTIMIZERS[name], kind) for _ in range(3)]
    halted, every_step, two_steps = runs
    first, middle, last = steps
    for run in runs:
        run.train(first)
    before = halted.state()
    halted.train(middle, frozen)
    every_step.train(middle)
    for number, table in enumerate(halted.resolved.tables):
        wanted = before if number in frozen else every_step.state()
        assert same_bits(of_table(halted.state(), table.name), of_table(wanted, table.name))
    halted.train(last)
    two_steps.send(
        middle
    )  # torch's vectorized loops round a number by its place in the padded rows
    two_steps.train(last)
    for number in frozen:
        table = halted.resolved.tables[number].name
        assert same_bits(of_table(halted.state(), table), of_table(two_steps.state(), table))


@pytest.mark.parametrize("name", ["sgd-decay-clip", "adam", "ftrl", "adam-not-lazy", "adam-each"])
def test_processes_leave_their_rows_of_a_frozen_table_alone(name: str) -> None:
    optimizer = OPTIMIZERS[name]

    def work(group: ThreadGroup) -> tuple[State, State]:
        resolved = resolve(config(optimizer), optimizer)
        engine = Engine(resolved, CPU, "CPU", Process(CPU, group, in_program=False), "mod")
        ids = engine.store.ids
        engine.store.fill(lambda t: start_values(resolved.tables[t], 0, ids(t)))
        whole = [[[(s % 5, 1.0)] for s in range(12)] for _ in resolved.features]
        values, _ = helpers.as_inputs(share(whole, group.rank, group.size), "ragged")
        before = {(0, f): v.clone() for f, v in engine.store.read()[0].items()}
        rates = check_rates(resolved.tables, current_rates(resolved.tables), {0})
        for _ in range(2):
            bags = [
                parse(f, resolved.table_of(f), v)
                for f, v in zip(resolved.features, values, strict=True)
            ]
            looked_up, activations = engine.look_up(engine.send(bags))
            engine.update(looked_up, [torch.ones_like(each) for each in activations], rates)
        held = engine.store.read()
        return {str(k): v for k, v in before.items()}, {str((0, f)): v for f, v in held[0].items()}

    for before, after in run_processes(3, work):
        assert same_bits(after, before)


ON_DEVICE = {
    "SGD with decay": tte.SGD(0.1, weight_decay_factor=0.1),
    "Adagrad": tte.Adagrad(0.1),
    "momentum": tte.AdagradMomentum(0.1, momentum=0.9),
    "FTRL": tte.FTRL(0.1),
    "Adam": tte.Adam(0.1, weight_decay_factor=0.1),
    "every row": tte.Adam(0.1, lazy_adam=False),
    "each occurrence": tte.Adam(0.1, use_gradient_accumulation=False),
}


def two_tables(
    optimizer: tte.optimizers.Optimizer | None = None, pipelined: bool = False, **options: object
) -> tte.TPUEmbedding:
    """'users' and 'items' in one stack."""
    users, items = (tte.TableConfig(ROWS, 4, name=name) for name in ("users", "items"))
    features = {"user": tte.FeatureConfig(users), "item": tte.FeatureConfig(items)}
    optimizer = optimizer or tte.Adam(0.1)
    return tte.TPUEmbedding(
        features, 3, optimizer, seed=1, pipeline_execution_with_tensor_core=pipelined, **options
    )  # type: ignore[arg-type]


def step(embedding: tte.TPUEmbedding) -> None:
    rows = embedding({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
    (rows["user"].square().sum() + rows["item"].sum()).backward()
    embedding.apply_gradients()
    del rows
    tte.runtime.sync()


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", ON_DEVICE)
def test_freezing_on_the_device_keeps_every_bit_and_compiles_nothing(
    name: str, kind: DeviceKind
) -> None:
    embedding = two_tables(ON_DEVICE[name], layout=kind)
    state = embedding.state_dict()
    if not ON_DEVICE[name].moves_all_rows:
        for key in of_table(state, "users"):
            state[key][1:3] = (
                DENORMAL  # adding 0 on XLA:CPU would make it 0, as a pass over all rows does
            )
    embedding.load_state_dict(state)
    start = embedding.state_dict()
    embedding.freeze("users")
    for _ in range(3):
        step(embedding)
    found = embedding.state_dict()
    assert same_bits(of_table(found, "users"), of_table(start, "users"))
    assert not torch.equal(found["items.weight"], start["items.weight"])
    compiled = tte.runtime.compile_count()
    embedding.unfreeze("users")
    embedding.freeze("items")
    for _ in range(2):
        step(embedding)
    assert tte.runtime.compile_count() == compiled
    last = embedding.state_dict()
    assert same_bits(of_table(last, "items"), of_table(found, "items"))
    assert not torch.equal(last["users.weight"], found["users.weight"])


def test_in_pipelined_mode_the_gradients_of_the_step_before_freezing_still_count() -> None:
    plain, pipelined = two_tables(), two_tables(pipelined=True)
    for embedding in (plain, pipelined):
        step(embedding)
        embedding.freeze("users")
        if embedding is plain:
            frozen_at = embedding.state_dict()
    for _ in range(3):
        step(pipelined)
    found = pipelined.state_dict()
    assert same_bits(of_table(found, "users"), of_table(frozen_at, "users"))
    assert not torch.equal(found["items.weight"], frozen_at["items.weight"])


def test_a_frozen_table_needs_no_gradient_and_its_activations_are_not_clipped() -> None:
    embedding = two_tables()
    optimizer = tte.EmbeddingOptimizer(embedding)
    embedding.freeze("users")
    rows = embedding({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
    assert [(group["name"], len(group["params"])) for group in optimizer.param_groups] == [
        ("items", 1),
        ("users", 0),
    ]
    rows["item"].sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_the_norm_that_is_clipped_leaves_frozen_tables_out() -> None:
    embedding = two_tables(tte.SGD(1.0))
    start = embedding.state_dict()
    for squares in (3 * 4.0 + 5.0, 5.0):  # of the rows of both tables, then of 'items' alone
        rows = embedding({"user": torch.tensor([0, 1, 2]), "item": torch.tensor([3, 3, 4])})
        (2.0 * rows["user"][:, 0] + rows["item"][:, 0]).sum().backward()
        norm = embedding.clip_grad_norm_(1.0)
        embedding.apply_gradients()
        del rows
        tte.runtime.sync()
        assert float(norm) == pytest.approx(squares**0.5)
        found = embedding.state_dict()
        change = float((found["items.weight"] - start["items.weight"])[3, 0])
        assert change == pytest.approx(-2.0 / squares**0.5, rel=1e-4)
        start = found
        embedding.freeze("users")


def test_micro_batches_leave_a_frozen_table_alone() -> None:
    embedding = two_tables()
    embedding.freeze("users")
    start = embedding.state_dict()
    for call in (embedding.accumulate_gradients, embedding.apply_gradients):
        rows = embedding({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
        rows["item"].sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
    found = embedding.state_dict()
    assert same_bits(of_table(found, "users"), of_table(start, "users"))
    assert not torch.equal(found["items.weight"], start["items.weight"])


@pytest.mark.parametrize("how", ["plain", "clipped", "scaled", "unscaled", "accumulated"])
def test_a_batch_looked_up_before_unfreezing_leaves_the_table_alone(how: str) -> None:
    """Nobody has minded its gradients: they were neither unscaled nor in the norm."""
    embedding, thawed = two_tables(tte.SGD(1.0)), two_tables(tte.SGD(1.0))
    scaler = torch.amp.GradScaler("xla", init_scale=1024.0)
    for each in (embedding, thawed):
        optimizer = tte.EmbeddingOptimizer(each)
        start = each.state_dict()
        each.freeze("users")
        rows = each({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
        loss = rows["user"].sum() + rows["item"].sum()
        (scaler.scale(loss) if "scaled" in how else loss).backward()
        if how == "clipped":
            each.clip_grad_norm_(1.0)
        elif how == "unscaled":
            scaler.unscale_(optimizer)
        elif how == "accumulated":
            each.accumulate_gradients()
        if each is thawed:
            each.unfreeze("users")
            assert each.frozen_tables == ()
        if "scaled" in how:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
    found = thawed.state_dict()
    assert same_bits(of_table(found, "users"), of_table(start, "users"))
    assert same_bits(of_table(found, "items"), of_table(embedding.state_dict(), "items"))
    del rows, loss
    step(thawed)
    assert not torch.equal(thawed.state_dict()["users.weight"], start["users.weight"])


def test_with_all_tables_frozen_a_step_needs_no_backward() -> None:
    embedding = two_tables()
    start = helpers.tensors(embedding)
    assert embedding.requires_grad_(False) is embedding
    assert embedding.frozen_tables == ("items", "users")
    embedding({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
    embedding.apply_gradients()
    assert same_bits(helpers.tensors(embedding), start)
    embedding.requires_grad_()
    assert embedding.frozen_tables == ()
    step(embedding)
    assert not same_bits(helpers.tensors(embedding), start)


def test_freezing_holds_for_a_second_object_on_the_same_tables() -> None:
    first = two_tables()
    first.build()
    second = tte.TPUEmbedding(
        first.resolved.structure, 3, tte.Adam(0.1), initialize_tpu_embedding=False
    )
    start = helpers.tensors(first)
    second.freeze("users")
    assert first.frozen_tables == ("users",)
    step(first)
    assert same_bits(of_table(helpers.tensors(first), "users"), of_table(start, "users"))


def test_ftrl_with_a_rate_of_0_is_no_error_while_its_table_is_frozen() -> None:
    embedding = two_tables(tte.FTRL(0.1))
    optimizer = tte.EmbeddingOptimizer(embedding)
    optimizer.param_groups[1]["lr"] = 0.0
    embedding.freeze("users")
    rows = embedding({"user": torch.tensor([0, 1, 1]), "item": torch.tensor([3, 3, 4])})
    (rows["user"].sum() + rows["item"].sum()).backward()
    optimizer.step()


def test_on_the_cpu_a_frozen_table_is_a_parameter_without_gradient() -> None:
    embedding = two_tables(device="cpu")
    parameters = dict(embedding.named_parameters())
    embedding.freeze("users")
    assert not parameters["users.weight"].requires_grad
    assert parameters["items.weight"].requires_grad
    assert embedding.frozen_tables == ("users",)
    embedding.unfreeze("users")
    assert parameters["users.weight"].requires_grad
    torch.nn.Sequential(embedding).requires_grad_(False)
    assert embedding.frozen_tables == ("items", "users")


@pytest.mark.parametrize("call", ["freeze", "unfreeze"])
@pytest.mark.parametrize(
    ("names", "message"),
    [(("users", "movies"), r"no table is named \['movies'\]"), ((), "name the tables")],
)
def test_names_that_are_no_tables_are_refused_before_anything_is_frozen(
    call: str, names: tuple[str, ...], message: str
) -> None:
    embedding = two_tables(device="cpu")
    with pytest.raises(
        ValueError, match=rf"{call}: {message}; the tables are \['items', 'users'\]"
    ):
        getattr(embedding, call)(*names)
    assert embedding.frozen_tables == ()


def test_the_description_says_which_tables_are_frozen() -> None:
    embedding = two_tables()
    embedding.freeze("users")
    (line,) = (each for each in embedding.describe().splitlines() if each.startswith("users"))
    assert "Adam (frozen)" in line


def test_a_delta_holds_no_rows_of_a_frozen_table(tmp_path: Path) -> None:
    for optimizer in (tte.Adam(0.1), tte.Adam(0.1, lazy_adam=False)):
        embedding, run = two_tables(optimizer), tmp_path / str(optimizer.lazy_adam)
        checkpoint.save(embedding, run, 1)
        embedding.freeze("users")
        step(embedding)
        store = embedding._tables.engine.store
        changed = [len(store.changed_since(table, 1)) for table in range(2)]
        assert changed == [2 if optimizer.lazy_adam else ROWS, 0]
        checkpoint.save(embedding, run, 2, since=1)
        other = two_tables(optimizer)
        checkpoint.load(other, run)
        assert same_bits(helpers.tensors(other), helpers.tensors(embedding))


def test_no_rate_that_a_user_gives_freezes_a_table() -> None:
    tables = two_tables(device="cpu").resolved.tables
    for rate in (FROZEN, 1e39, -1e39, float("nan")):
        with pytest.raises(ValueError, match="'users': learning rate must be finite, got"):
            check_rates(tables, [0.1, rate])
