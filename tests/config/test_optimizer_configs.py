"""SGD, Adagrad and Adam: what their constructors accept, and one step of each against numpy."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import torch_tpu_embedding as tte
from torch_tpu_embedding import SGD, Adagrad, Adam
from torch_tpu_embedding.optimizers.base import Optimizer

each_class = pytest.mark.parametrize("cls", [SGD, Adagrad, Adam])


# -- constructors ----------------------------------------------------------------------------------


def test_the_defaults_are_those_of_tf() -> None:
    assert (SGD().learning_rate, Adagrad().learning_rate, Adam().learning_rate) == (
        0.01,
        0.001,
        0.001,
    )
    assert Adagrad().initial_accumulator_value == 0.1
    adam = Adam()
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.999, 1e-7)
    assert (adam.lazy_adam, adam.sum_inside_sqrt) == (True, True)
    for optimizer in (SGD(), Adagrad(), Adam()):
        assert optimizer.use_gradient_accumulation is True
        assert optimizer.low_dimensional_packing_status is False
        for option in (
            "clip_weight_min",
            "clip_weight_max",
            "weight_decay_factor",
            "multiply_weight_decay_factor_by_learning_rate",
            "clipvalue",
        ):
            assert getattr(optimizer, option) is None


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (SGD(), {}),
        (Adagrad(initial_accumulator_value=0.5), {"accumulators": 0.5}),
        (Adam(), {"momenta": 0.0, "velocities": 0.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_slots_have_the_names_and_start_values_of_tf(
    optimizer: Optimizer, slots: dict[str, float]
) -> None:
    assert optimizer.slot_initial_values() == slots
    assert optimizer.slot_variable_names == tuple(slots)


def rate() -> float:
    return 0.5


@each_class
@pytest.mark.parametrize(
    "learning_rate",
    [0.1, 0, -0.1, np.float64(0.1), rate],
    ids=lambda rate: getattr(rate, "__name__", repr(rate)),
)
def test_a_learning_rate_is_a_number_or_a_callable(
    cls: type[Optimizer], learning_rate: Any
) -> None:
    assert cls(learning_rate).learning_rate == learning_rate


NO_NUMBERS = ["0.1", math.nan, math.inf, True, [0.1], torch.tensor(0.1)]


@each_class
@pytest.mark.parametrize("value", [None, *NO_NUMBERS], ids=repr)
def test_a_learning_rate_that_is_no_finite_number_is_an_error(
    cls: type[Optimizer], value: Any
) -> None:
    wanted = f"{cls.__name__}: learning_rate must be a finite number, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        cls(value)


@each_class
@pytest.mark.parametrize("argument", ["clip_weight_min", "clip_weight_max", "weight_decay_factor"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_an_option_that_is_no_finite_number_is_an_error_naming_it(
    cls: type[Optimizer], argument: str, value: Any
) -> None:
    wanted = f"{cls.__name__}: {argument} must be a finite number, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        cls(**{argument: value})


@each_class
def test_weight_bounds_that_leave_no_weight_are_an_error(cls: type[Optimizer]) -> None:
    with pytest.raises(ValueError, match=r"clip_weight_min 2\.0 is above clip_weight_max 1\.0"):
        cls(clip_weight_min=2.0, clip_weight_max=1.0)
    assert cls(clip_weight_min=1.0, clip_weight_max=1.0).clip_weight_min == 1.0


@each_class
@pytest.mark.parametrize(
    ("clipvalue", "bounds"),
    [
        (None, (None, None)),
        (1.5, (-1.5, 1.5)),
        (2, (-2, 2)),
        (0.0, (0.0, 0.0)),
        ((-1.0, 2.0), (-1.0, 2.0)),
        ((None, 2.0), (None, 2.0)),
        ((-1.0, None), (-1.0, None)),
        ((None, None), (None, None)),
        ((3.0, 3.0), (3.0, 3.0)),
    ],
    ids=str,
)
def test_clipvalue_is_a_number_or_a_pair_with_open_ends(
    cls: type[Optimizer],
    clipvalue: tuple[float | None, float | None] | float | None,
    bounds: tuple[float | None, float | None],
) -> None:
    assert cls(clipvalue=clipvalue).gradient_bounds == bounds


@each_class
@pytest.mark.parametrize(
    ("clipvalue", "error", "message"),
    [
        ([-1.0, 1.0], TypeError, "clipvalue must be a number or a tuple (min, max), got a list"),
        ((1.0,), ValueError, "clipvalue must be a number or a tuple (min, max), got (1.0,)"),
        ((1.0, 2.0, 3.0), ValueError, "clipvalue must be a number or a tuple (min, max), got (1.0"),
        (-1.0, ValueError, "clipvalue -1.0 leaves no gradient: 1.0 > -1.0"),
        ((2.0, 1.0), ValueError, "clipvalue (2.0, 1.0) leaves no gradient: 2.0 > 1.0"),
        (math.nan, ValueError, "clipvalue must be a finite number"),
        (math.inf, ValueError, "clipvalue must be a finite number"),
        (("a", 1.0), ValueError, "clipvalue must be a finite number, got 'a'"),
        ((None, True), ValueError, "clipvalue must be a finite number, got True"),
        (True, ValueError, "clipvalue must be"),
        ("1.0", (TypeError, ValueError), "clipvalue must be"),
    ],
    ids=str,
)
def test_a_clipvalue_of_another_form_is_an_error(
    cls: type[Optimizer],
    clipvalue: Any,
    error: tuple[type[TypeError], type[ValueError]] | type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=f"{cls.__name__}: {re.escape(message)}"):
        cls(clipvalue=clipvalue)


@each_class
@pytest.mark.parametrize("clipvalue", [1.0, 0.0, (None, 1.0)], ids=str)
def test_clipping_needs_gradient_accumulation(
    cls: type[Optimizer], clipvalue: tuple[None, float] | float
) -> None:
    with pytest.raises(ValueError, match=r"clipvalue=.* needs use_gradient_accumulation=True"):
        cls(clipvalue=clipvalue, use_gradient_accumulation=False)


@pytest.mark.parametrize(
    ("cls", "options", "separate"),
    [
        (SGD, {}, False),
        (SGD, {"weight_decay_factor": 0.0}, False),
        (SGD, {"weight_decay_factor": 0.1}, True),
        (SGD, {"clip_weight_min": 0.0}, True),
        (SGD, {"clip_weight_max": 0.0}, True),
        (Adagrad, {}, True),
        (Adam, {}, True),
    ],
    ids=str,
)
def test_without_accumulation_each_occurrence_is_an_update_where_that_differs_from_their_sum(
    cls: type[Optimizer], options: dict[str, float], separate: bool
) -> None:
    assert cls(use_gradient_accumulation=False, **options).steps_per_occurrence == separate
    assert not cls(**options).steps_per_occurrence


def test_only_an_adam_that_is_not_lazy_moves_rows_that_were_not_looked_up() -> None:
    assert Adam(lazy_adam=False).moves_all_rows
    assert not any(optimizer.moves_all_rows for optimizer in (SGD(), Adagrad(), Adam()))


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (
            Adagrad,
            {"initial_accumulator_value": 0.0},
            "initial_accumulator_value must be above 0, got 0.0",
        ),
        (
            Adagrad,
            {"initial_accumulator_value": -1},
            "initial_accumulator_value must be above 0, got -1",
        ),
        (
            Adagrad,
            {"initial_accumulator_value": None},
            "initial_accumulator_value must be a finite number",
        ),
        (
            Adagrad,
            {"initial_accumulator_value": math.nan},
            "initial_accumulator_value must be a finite",
        ),
        (Adam, {"beta_1": -0.1}, "beta_1 must be in [0, 1), got -0.1"),
        (Adam, {"beta_1": 1.0}, "beta_1 must be in [0, 1), got 1.0"),
        (Adam, {"beta_2": -0.1}, "beta_2 must be in [0, 1), got -0.1"),
        (Adam, {"beta_2": 1}, "beta_2 must be in [0, 1), got 1"),
        (Adam, {"beta_2": "0.9"}, "beta_2 must be a finite number, got '0.9'"),
        (Adam, {"epsilon": 0.0}, "epsilon must be above 0, got 0.0"),
        (Adam, {"epsilon": -1e-7}, "epsilon must be above 0, got -1e-07"),
        (Adam, {"epsilon": None}, "epsilon must be a finite number, got None"),
        (
            Adam,
            {"lazy_adam": False, "use_gradient_accumulation": False},
            "lazy_adam=False needs use_gradient_accumulation=True",
        ),
    ],
    ids=str,
)
def test_a_setting_of_its_own_that_is_out_of_range_is_an_error_naming_it(
    cls: type[Optimizer], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__}: {re.escape(message)}"):
        cls(**options)


@pytest.mark.parametrize("beta", [0, 0.0, 0.5])
def test_the_lower_end_of_the_betas_is_inside(beta: float) -> None:
    assert Adam(beta_1=beta, beta_2=beta).beta_1 == beta


def test_options_are_given_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        Adagrad(0.1, 0.5)
    with pytest.raises(TypeError):
        Adam(0.1, 0.9)
    with pytest.raises(TypeError):
        SGD(0.1, False)


@pytest.mark.parametrize("value", [3, "zeros", {"accumulators": 1}], ids=repr)
@pytest.mark.parametrize("cls", [Adagrad, Adam])
def test_a_slot_function_that_cannot_be_called_is_an_error(
    cls: type[Optimizer], value: dict[str, int] | str | int
) -> None:
    wanted = f"{cls.__name__}: slot_variable_creation_fn must be None or a callable"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        cls(slot_variable_creation_fn=value)


def test_sgd_has_no_slots_and_takes_no_slot_function() -> None:
    with pytest.raises(TypeError, match="slot_variable_creation_fn"):
        SGD(slot_variable_creation_fn=lambda table, names, starts: {})


# -- values ----------------------------------------------------------------------------------------

CHANGES = {
    "learning_rate": 0.7,
    "clip_weight_min": -1.0,
    "clip_weight_max": 1.0,
    "weight_decay_factor": 0.1,
    "multiply_weight_decay_factor_by_learning_rate": True,
    "clipvalue": (None, 2.0),
    "low_dimensional_packing_status": True,
    "initial_accumulator_value": 0.3,
    "beta_1": 0.5,
    "beta_2": 0.5,
    "epsilon": 1e-3,
    "sum_inside_sqrt": False,
    "slot_variable_creation_fn": dict,
    "lazy_adam": False,
}


@each_class
def test_optimizers_are_equal_and_hash_alike_exactly_when_all_settings_are_equal(
    cls: type[Optimizer],
) -> None:
    names = {field.name for field in dataclasses.fields(cls)}
    changes = {name: value for name, value in CHANGES.items() if name in names}
    assert names - set(changes) == {"use_gradient_accumulation"}  # has a test of its own
    assert cls(**changes) == cls(**changes)
    assert hash(cls(**changes)) == hash(cls(**changes))
    variants = [cls(), *(cls(**{name: value}) for name, value in changes.items())]
    assert len(set(variants)) == len(variants)


def test_another_class_is_another_optimizer() -> None:
    assert len({SGD(0.1), Adagrad(0.1), Adam(0.1)}) == 3


@each_class
def test_another_accumulation_is_another_optimizer(cls: type[Optimizer]) -> None:
    assert cls(use_gradient_accumulation=False) != cls()
    assert cls(use_gradient_accumulation=False) == cls(use_gradient_accumulation=False)


def test_callable_learning_rates_are_equal_by_their_own_equality() -> None:
    assert SGD(rate) == SGD(rate)
    assert SGD(lambda: 0.5) != SGD(lambda: 0.5)


@each_class
def test_optimizers_are_read_only(cls: type[Optimizer]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().learning_rate = 1.0


# -- one step --------------------------------------------------------------------------------------


def oracle(
    optimizer: Optimizer, w: np.ndarray, slots: dict[str, np.ndarray], g: np.ndarray, lr: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """New weights and slots in numpy, from TF's description of the update."""
    clip = optimizer.clipvalue
    low, high = (-clip, clip) if isinstance(clip, float) else clip or (None, None)
    if low is not None:
        g = np.maximum(g, low)
    if high is not None:
        g = np.minimum(g, high)
    decay = optimizer.weight_decay_factor or 0.0
    if optimizer.multiply_weight_decay_factor_by_learning_rate:
        decay = decay * lr
    w = w - decay * w
    if isinstance(optimizer, SGD):
        w, slots = w - lr * g, {}
    elif isinstance(optimizer, Adagrad):
        a = slots["accumulators"] + g**2
        w, slots = w - lr * g / np.sqrt(a), {"accumulators": a}
    else:
        m = optimizer.beta_1 * slots["momenta"] + (1 - optimizer.beta_1) * g
        v = optimizer.beta_2 * slots["velocities"] + (1 - optimizer.beta_2) * g**2
        if optimizer.sum_inside_sqrt:
            w = w - lr * m / np.sqrt(v + optimizer.epsilon**2)
        else:
            w = w - lr * m / (np.sqrt(v) + optimizer.epsilon)
        slots = {"momenta": m, "velocities": v}
    if optimizer.clip_weight_min is not None:
        w = np.maximum(w, optimizer.clip_weight_min)
    if optimizer.clip_weight_max is not None:
        w = np.minimum(w, optimizer.clip_weight_max)
    return w, slots


def numbers(low: int, high: int) -> SearchStrategy[Any]:
    return st.floats(low, high, allow_subnormal=False)


def array(data: st.DataObject, shape: tuple[int, ...], elements: SearchStrategy[Any]) -> np.ndarray:
    size = math.prod(shape)
    flat = data.draw(st.lists(elements, min_size=size, max_size=size))
    return np.array(flat, dtype=np.float64).reshape(shape)


def optional(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | strategy


bounds = st.tuples(numbers(-2, 0.5), numbers(0.5, 3))
common = {
    "clipvalue": optional(
        numbers(0.125, 3)
        | bounds
        | bounds.map(lambda pair: (pair[0], None))
        | bounds.map(lambda pair: (None, pair[1]))
    ),
    "clip_weight_min": optional(numbers(-3, 0)),
    "clip_weight_max": optional(numbers(0, 3)),
    "weight_decay_factor": optional(st.just(0.0) | numbers(0.001, 0.9)),
    "multiply_weight_decay_factor_by_learning_rate": st.sampled_from([None, False, True]),
}
optimizers = {
    SGD: st.builds(SGD, **common),
    Adagrad: st.builds(Adagrad, **common),
    Adam: st.builds(
        Adam,
        **common,
        # A slot's change is added to it: of what a rate β leaves of the slot, digits are lost as β nears 0.
        beta_1=st.just(0.0) | numbers(0.01, 0.99),
        beta_2=st.just(0.0) | numbers(0.01, 0.999),
        epsilon=st.sampled_from([1e-7, 1e-3, 0.5]),
        sum_inside_sqrt=st.booleans(),
    ),
}
slot_values = {
    "accumulators": numbers(0.01, 9),
    "momenta": numbers(-3, 3),
    "velocities": st.just(0.0) | numbers(0.01, 9),
}


def stepped(
    optimizer: Optimizer, w: np.ndarray, slots: dict[str, np.ndarray], g: np.ndarray, lr: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """New weights and slots by `step`, in float64 so that only the formula is compared."""
    tensors = {name: torch.from_numpy(value) for name, value in slots.items()}
    change, slot_changes = optimizer.step(
        torch.from_numpy(w), tensors, torch.from_numpy(g), torch.from_numpy(lr)
    )
    return w + change.numpy(), {name: slots[name] + d.numpy() for name, d in slot_changes.items()}


@each_class
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_step_is_the_formula_of_tf_with_every_option(
    cls: type[Optimizer], data: st.DataObject
) -> None:
    optimizer = data.draw(optimizers[cls])
    shape = (data.draw(st.integers(1, 3)), 2)
    w, g = array(data, shape, numbers(-4, 4)), array(data, shape, st.just(0.0) | numbers(-4, 4))
    slots = {name: array(data, shape, slot_values[name]) for name in optimizer.slot_variable_names}
    if getattr(optimizer, "beta_2", None) == 0:
        # Nothing is left of them, but g² would lose its digits against them.
        slots["velocities"][:] = 0
    per_row = data.draw(st.booleans())
    lr = array(data, (shape[0], 1) if per_row else (1,), numbers(0, 2))
    weights, new_slots = stepped(optimizer, w, slots, g, lr)
    wanted, wanted_slots = oracle(optimizer, w, slots, g, lr)
    np.testing.assert_allclose(weights, wanted, rtol=1e-9, atol=1e-9)
    assert set(new_slots) == set(wanted_slots)
    for name, value in wanted_slots.items():
        np.testing.assert_allclose(new_slots[name], value, rtol=1e-9, atol=1e-9)


def one(value: float) -> np.ndarray:
    return np.full((1, 1), value, dtype=np.float64)


@pytest.mark.parametrize(
    ("optimizer", "w", "slots", "g", "weight", "new_slots"),
    [
        (SGD(), 1.0, {}, 2.0, 0.8, {}),
        (Adagrad(), 1.0, {"accumulators": 0.1}, 3.0, 0.900551, {"accumulators": 9.1}),
        (
            Adam(),
            0.0,
            {"momenta": 0.0, "velocities": 0.0},
            1.0,
            -0.316228,
            {"momenta": 0.1, "velocities": 0.001},
        ),
        (
            Adam(),
            0.0,
            {"momenta": 0.1, "velocities": 0.001},
            0.0,
            -0.284747,
            {"momenta": 0.09, "velocities": 0.000999},
        ),
        (
            Adam(sum_inside_sqrt=False, epsilon=0.5),
            0.0,
            {"momenta": 0.0, "velocities": 0.0},
            1.0,
            -0.1 * 0.1 / (0.001**0.5 + 0.5),
            {"momenta": 0.1, "velocities": 0.001},
        ),
        (SGD(clipvalue=0.5), 1.0, {}, 2.0, 0.95, {}),
        (SGD(clipvalue=0.5), 1.0, {}, -2.0, 1.05, {}),
        (SGD(clipvalue=(None, 0.5)), 1.0, {}, -2.0, 1.2, {}),
        (SGD(clipvalue=(-0.5, None)), 1.0, {}, -2.0, 1.05, {}),
        (SGD(clipvalue=0.0), 1.0, {}, 2.0, 1.0, {}),
        (SGD(weight_decay_factor=0.25), 1.0, {}, 0.0, 0.75, {}),
        (SGD(weight_decay_factor=0.25), 1.0, {}, 2.0, 0.55, {}),
        (
            SGD(weight_decay_factor=0.25, multiply_weight_decay_factor_by_learning_rate=True),
            1.0,
            {},
            2.0,
            0.775,
            {},
        ),
        (SGD(multiply_weight_decay_factor_by_learning_rate=True), 1.0, {}, 2.0, 0.8, {}),
        (SGD(clip_weight_max=0.7), 1.0, {}, 2.0, 0.7, {}),
        (SGD(clip_weight_min=0.9), 1.0, {}, 2.0, 0.9, {}),
        (SGD(clip_weight_min=-0.5, clip_weight_max=0.5), 3.0, {}, 0.0, 0.5, {}),
        (SGD(clip_weight_max=0.8, weight_decay_factor=0.5), 2.0, {}, -5.0, 0.8, {}),
        (
            Adagrad(clipvalue=1.0),
            1.0,
            {"accumulators": 0.1},
            3.0,
            1.0 - 0.1 / 1.1**0.5,
            {"accumulators": 1.1},
        ),
    ],
)
def test_steps_with_a_learning_rate_of_a_tenth(
    optimizer: Optimizer,
    w: float,
    slots: dict[str, float],
    g: float,
    weight: float,
    new_slots: dict[str, float],
) -> None:
    held = {name: one(value) for name, value in slots.items()}
    got, got_slots = stepped(optimizer, one(w), held, one(g), np.array([0.1]))
    np.testing.assert_allclose(got, one(weight), atol=1e-6)
    assert {name: round(float(v[0, 0]), 6) for name, v in got_slots.items()} == new_slots


@pytest.mark.parametrize(
    "optimizer",
    [
        cls(**options)
        for cls in (SGD, Adagrad, Adam)
        for options in (
            {},
            {"clipvalue": 1.0, "weight_decay_factor": 0.1, "clip_weight_min": 0.0},
        )
    ],
    ids=lambda optimizer: f"{type(optimizer).__name__}-{optimizer.clipvalue}",
)
def test_a_step_gives_changes_and_touches_none_of_its_inputs(optimizer: Optimizer) -> None:
    w, g, lr = torch.ones(2, 3), torch.full((2, 3), 2.0), torch.tensor([0.1])
    slots = {name: torch.full((2, 3), 0.5) for name in optimizer.slot_variable_names}
    held = [w, g, lr, *slots.values()]
    copies = [each.clone() for each in held]
    change, slot_changes = optimizer.step(w, slots, g, lr)
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    assert change.shape == w.shape
    assert {name: d.shape for name, d in slot_changes.items()} == dict.fromkeys(slots, w.shape)


# -- slot_variable_creation_fn ---------------------------------------------------------------------


def embedding_with(optimizer: Optimizer) -> tte.TPUEmbedding:
    """Two rows of two; on the CPU, where a state_dict needs no device."""

    def start(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        return torch.arange(4, dtype=dtype).view(shape)

    table = tte.TableConfig(2, 2, name="user", initializer=start)
    return tte.TPUEmbedding(tte.FeatureConfig(table), 1, optimizer, device="cpu")


def test_a_slot_function_is_given_the_table_the_names_and_working_initializers() -> None:
    calls = []

    def create(
        table: torch.Tensor, names: list[str], initializers: list[Callable[..., Any]]
    ) -> dict[str, torch.Tensor]:
        calls.append((table.clone(), list(names)))
        starts = [start((2, 2), torch.float32) for start in initializers]
        assert [start.dtype for start in starts] == [torch.float32] * len(starts)
        return {name: start + 10 for name, start in zip(names, starts, strict=True)}

    optimizer = Adagrad(initial_accumulator_value=0.5, slot_variable_creation_fn=create)
    state = embedding_with(optimizer).state_dict()
    assert torch.equal(state["user.accumulators"], torch.full((2, 2), 10.5))
    state = embedding_with(Adam(slot_variable_creation_fn=create)).state_dict()
    assert torch.equal(state["user.momenta"], torch.full((2, 2), 10.0))
    assert torch.equal(state["user.velocities"], torch.full((2, 2), 10.0))
    weight = torch.arange(4.0).view(2, 2)
    assert [names for _, names in calls] == [["accumulators"], ["momenta", "velocities"]]
    assert all(torch.equal(table, weight) for table, _ in calls)
    assert torch.equal(state["user.weight"], weight)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, r"must return a dict with the keys \['accumulators'\], got NoneType"),
        ({}, r"must return a dict with the keys \['accumulators'\], got \[\]"),
        ({"momenta": torch.ones(2, 2)}, r"keys \['accumulators'\], got \['momenta'\]"),
        ({"accumulators": 0.1}, r"'accumulators' must return a torch.Tensor, got float"),
        ({"accumulators": torch.ones(2)}, r"float32 CPU tensor of shape \[2, 2\], got .*\[2\]"),
        ({"accumulators": torch.ones(2, 2).double()}, "float32 CPU tensor .*got torch.float64"),
        ({"accumulators": torch.ones(2, 2, device="meta")}, "float32 CPU tensor .* on meta"),
        ({"accumulators": torch.tensor([[1, 1], [math.nan, 1]])}, "nan at row 1, column 0"),
    ],
    ids=["none", "missing", "other_key", "number", "shape", "dtype", "device", "nan"],
)
def test_a_slot_function_that_gives_something_else_is_an_error_naming_table_and_reason(
    made: dict[str, float | torch.Tensor] | None, message: str
) -> None:
    optimizer = Adagrad(slot_variable_creation_fn=lambda table, names, starts: made)
    with pytest.raises(ValueError, match=f"table 'user': slot_variable_creation_fn.*{message}"):
        embedding_with(optimizer)
