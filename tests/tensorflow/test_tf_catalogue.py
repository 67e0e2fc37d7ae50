"""TF's own tests of TPUEmbedding, as far as they say something here that no other file tests.

The numbers (#…) are those of docs/tf_parity.md. TF's fixtures run on R replicas of two samples whose
gradients are summed; here that is one process with 2R samples.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from models import helpers
from places import ROOT
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.quantization import quantize
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.tables.layout import build_stacks

R = 2  # replicas of TF's fixture
RATE = 0.1
RAGGED = tte.Ragged.from_lists

# -- numpy's word: rows in float64, one at a time ----------------------------------------------------


Row = np.ndarray
Slots = dict[str, Row]


def ftrl(w: Row, s: Slots, g: Row) -> tuple[Row, Slots]:
    before, after = s["accumulators"], s["accumulators"] + g * g
    linear = s["linears"] + g - (np.sqrt(after) - np.sqrt(before)) * w / RATE
    return -linear * RATE / np.sqrt(after), {"accumulators": after, "linears": linear}


def adagrad_momentum(w: Row, s: Slots, g: Row) -> tuple[Row, Slots]:
    accumulators = 0.9 * s["accumulators"] + 0.1 * g * g
    scaled = g / np.cbrt(accumulators + 0.1)
    momenta = 0.9 * s["momenta"] + scaled
    new = w - RATE * (0.9 * momenta + scaled)
    return new, {"accumulators": accumulators, "momenta": momenta}


def adagrad(w: Row, s: Slots, g: Row) -> tuple[Row, Slots]:
    accumulators = s["accumulators"] + g * g
    return w - RATE * g / np.sqrt(accumulators), {"accumulators": accumulators}


RULES: dict[
    str, tuple[tte.optimizers.Optimizer, float, Callable[[Row, Slots, Row], tuple[Row, Slots]]]
] = {
    "ftrl": (tte.FTRL(RATE), 5e-5, ftrl),
    "adagrad_momentum": (
        tte.AdagradMomentum(
            RATE, momentum=0.9, use_nesterov=True, exponent=3, epsilon=0.1, beta2=0.9
        ),
        1e-5,
        adagrad_momentum,
    ),
    "adagrad": (tte.Adagrad(RATE), 1e-6, adagrad),
}

Bags = Sequence[Sequence[int]]


def combined(table: Row, bags: Bags, combiner: str) -> Row:
    """Sum or mean of the rows of each bag."""
    rows = [table[list(bag)].sum(0) for bag in bags]
    return np.stack(rows) / ([[len(bag)] for bag in bags] if combiner == "mean" else 1.0)


def trained(
    before: dict[str, Tensor], batch: Sequence[Bags], gradients: Sequence[Row], rule: str
) -> dict[str, Row]:
    """Tables and slots of the golden config after a step; `gradients[f]` is `[bags, D]`."""
    _, _, step = RULES[rule]
    state = {key: value.double().numpy().copy() for key, value in before.items()}
    for name, features in (("video", (0, 1)), ("user", (2,))):
        sums: dict[int, Row] = {}
        for feature in features:
            for bag, gradient in zip(batch[feature], gradients[feature], strict=True):
                for row in bag:
                    share = gradient / (len(bag) if name == "user" else 1)
                    sums[row] = sums.get(row, 0.0) + share
        slots = [key for key in state if key.startswith(f"{name}.") and key != f"{name}.weight"]
        for row, gradient in sums.items():
            held = {key.removeprefix(f"{name}."): state[key][row] for key in slots}
            state[f"{name}.weight"][row], new = step(state[f"{name}.weight"][row], held, gradient)
            for key in slots:
                state[key][row] = new[key.removeprefix(f"{name}.")]
    return state


def assert_state(found: dict[str, Tensor], wanted: dict[str, Row], tolerance: float) -> None:
    assert set(found) == set(wanted)
    for key, value in found.items():
        np.testing.assert_allclose(
            value.numpy(), wanted[key], rtol=tolerance, atol=tolerance, err_msg=key
        )


# -- 5.1 Correctness -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
@pytest.mark.parametrize("name", ["ftrl", "adagrad_momentum"])
def test_two_steps_on_the_fixture_are_numpys_for_sparse_and_ragged_input(
    name: str, layout: str
) -> None:
    """#4, #5, #7: two steps, for the first leaves the momentum's share of the past untested."""
    optimizer, tolerance, _ = RULES[name]
    embedding = tte.TPUEmbedding(helpers.golden_config(), 2 * R, optimizer, layout=layout)
    start = helpers.tensors(embedding)
    for kind in ("sparse", "ragged"):
        helpers.clone_into(embedding, start)
        state = start
        for _ in range(2):
            activations = helpers.train_step(
                embedding,
                tuple(helpers.as_kind(rows, kind) for rows in helpers.GOLDEN_IDS),
                gradients=None,
            )
            video, user = state["video.weight"].double(), state["user.weight"].double()
            for bags, table, found, combiner in zip(
                helpers.GOLDEN_IDS,
                (video, video, user),
                activations,
                ("sum", "sum", "mean"),
                strict=True,
            ):
                wanted = combined(table.numpy(), bags, combiner)
                np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)
            gradients = [helpers.gradient_of(each).double().numpy() for each in activations]
            wanted_state = trained(state, helpers.GOLDEN_IDS, gradients, name)
            state = helpers.tensors(embedding)
            assert_state(state, wanted_state, tolerance)


@pytest.mark.parametrize("name", ["ftrl", "adagrad_momentum"])
@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_an_inference_batch_changes_neither_tables_nor_slots(name: str, kind: str) -> None:
    """#6, #8."""
    embedding = untrained(name)
    before = helpers.tensors(embedding)
    embedding.enqueue(
        tuple(helpers.as_kind(rows, kind) for rows in helpers.GOLDEN_IDS), training=False
    )
    activations = embedding.dequeue()
    tte.runtime.sync()
    assert activations[0].cpu()[:2].tolist() == [[0, 1, 2, 3], [4, 6, 8, 10]]
    assert activations[2].cpu()[:2].tolist() == [[6, 7], [2, 3]]
    after = helpers.tensors(embedding)
    assert all(torch.equal(after[key], before[key]) for key in before)


@functools.cache
def untrained(name: str) -> tte.TPUEmbedding:
    return tte.TPUEmbedding(helpers.golden_config(), 2 * R, RULES[name][0])


PLACES = 4  # of the higher-rank inputs: each sample holds that many sub-samples
HIGH: list[list[list[int]]] = [
    [bags[(b + p) % 4] for b in range(2) for p in range(PLACES)] for bags in helpers.GOLDEN_IDS
]
"""HIGH[f][b * PLACES + p] is a bag."""
FIRSTS = [[bag[:1] for bag in bags] for bags in HIGH]


def high_input(bags: Bags, kind: str) -> object:
    """The bags of one feature as `[2, PLACES, …]`, or as 2·PLACES ragged rows."""
    if kind == "ragged":
        return RAGGED(bags)
    if kind == "dense":
        return torch.tensor(bags).view(2, PLACES, 1)
    flat = helpers.as_kind(bags, "sparse").coalesce()
    bag, column = flat.indices()
    indices = torch.stack([bag // PLACES, bag % PLACES, column])
    return torch.sparse_coo_tensor(indices, flat.values(), (2, PLACES, flat.shape[1]))


def high_config() -> tuple[tte.FeatureConfig, ...]:
    return tuple(
        tte.FeatureConfig(each.table, name=each.name, output_shape=(2, PLACES))
        for each in helpers.golden_config()
    )


@pytest.mark.parametrize("name", ["adagrad", "ftrl"])
def test_sub_samples_are_combined_and_trained_each_for_itself_whatever_the_kind(name: str) -> None:
    """#9, #10, #12, #47: 3-D sparse, ragged with an output_shape, 3-D dense, and one of each."""
    optimizer, tolerance, _ = RULES[name]
    embedding = tte.TPUEmbedding(high_config(), 2, optimizer)
    start = helpers.tensors(embedding)
    video, user = (start[f"{each}.weight"].double().numpy() for each in ("video", "user"))
    for kinds in (("sparse",) * 3, ("ragged",) * 3, ("dense",) * 3, ("dense", "sparse", "ragged")):
        helpers.clone_into(embedding, start)
        batch = [(FIRSTS if k == "dense" else HIGH)[f] for f, k in enumerate(kinds)]
        inputs = tuple(high_input(bags, kind) for bags, kind in zip(batch, kinds, strict=True))
        activations = helpers.train_step(embedding, inputs)
        for bags, table, found, combiner in zip(
            batch, (video, video, user), activations, ("sum", "sum", "mean"), strict=True
        ):
            assert found.shape == (2, PLACES, table.shape[1])
            wanted = combined(table, bags, combiner).reshape(found.shape)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
        gradients = [
            helpers.gradient_of(each).double().numpy().reshape(2 * PLACES, -1)
            for each in activations
        ]
        assert_state(helpers.tensors(embedding), trained(start, batch, gradients, name), tolerance)


def sequences(*lengths: int) -> tuple[tte.FeatureConfig, ...]:
    """The golden config as sequences."""
    return tuple(
        tte.FeatureConfig(each.table, name=each.name, max_sequence_length=length)
        for each, length in zip(helpers.golden_config(), lengths, strict=True)
    )


def test_gradients_of_ones_lower_each_real_position_by_its_rows_count_and_padding_stays_zero() -> (
    None
):
    """#13, sparse and ragged: video rows fall by .3R, user rows by .1R; the masks are TF's."""
    masks = (
        [[1, 0], [1, 1], [1, 1], [1, 0]],
        [[1, 1], [1, 0], [1, 0], [1, 1]],
        [[1, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]],
    )
    embedding = tte.TPUEmbedding(sequences(2, 2, 3), 2 * R, tte.SGD(RATE))
    start = helpers.tensors(embedding)
    for kind in ("sparse", "ragged"):
        helpers.clone_into(embedding, start)
        inputs = tuple(helpers.as_kind(rows, kind) for rows in helpers.GOLDEN_IDS)
        shapes = ((2 * R, 2, 4), (2 * R, 2, 4), (2 * R, 3, 2))
        ones = [torch.ones(shape) for shape in shapes]
        first = helpers.train_step(embedding, inputs, gradients=ones)
        second = helpers.train_step(embedding, inputs, gradients=ones)
        for before, after, mask, fall in zip(
            first, second, masks, (0.3 * R, 0.3 * R, 0.1 * R), strict=True
        ):
            real = torch.tensor(mask, dtype=torch.float32)[..., None].expand_as(before)
            torch.testing.assert_close(after, before - fall * real, rtol=1e-6, atol=1e-6)
            assert not before[real == 0].any()
            assert not after[real == 0].any()


@pytest.mark.parametrize("shapes", [None, [(2, 3, 5)] * 3, [(2, 5)] * 3, [(2, None)] * 3], ids=str)
@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_a_sequence_has_its_maximal_length_whichever_shape_build_was_given(
    kind: str, shapes: list[tuple[int | None, ...]] | None
) -> None:
    """#14, #15: [batch, width] and [batch, length, width] are both taken."""
    embedding = tte.TPUEmbedding(sequences(3, 3, 3), 2, tte.SGD(RATE))
    embedding.build(tuple(shapes) if shapes else None)
    embedding.enqueue(tuple(helpers.as_kind(rows[:2], kind) for rows in helpers.GOLDEN_IDS))
    assert [each.shape for each in embedding.dequeue()] == [(2, 3, 4), (2, 3, 4), (2, 3, 2)]


# -- 5.2 Optimizers --------------------------------------------------------------------------------

CLASSES = (tte.SGD, tte.Adagrad, tte.AdagradMomentum, tte.FTRL, tte.Adam, tte.RowWiseAdagrad)


def test_the_later_optimizers_have_tfs_defaults_and_slots() -> None:
    """Reference table of constructor arguments."""
    momentum = tte.AdagradMomentum()
    assert (momentum.learning_rate, momentum.momentum, momentum.use_nesterov) == (0.001, 0, False)
    assert (momentum.exponent, momentum.beta2, momentum.epsilon) == (2, 1, 1e-10)
    assert momentum.slot_initial_values() == {"accumulators": 0, "momenta": 0}
    ftrl = tte.FTRL()
    assert (ftrl.learning_rate, ftrl.learning_rate_power, ftrl.beta) == (0.001, -0.5, 0)
    assert (ftrl.l1_regularization_strength, ftrl.l2_regularization_strength) == (0, 0)
    assert (ftrl.multiply_linear_by_learning_rate, ftrl.allow_zero_accumulator) == (False, False)
    assert ftrl.slot_initial_values() == {"accumulators": 0.1, "linears": 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tte.AdagradMomentum(epsilon=0), "AdagradMomentum: epsilon must be above 0, got 0"),
        (lambda: tte.AdagradMomentum(exponent=-1), "exponent must be above 0, got -1"),
        (lambda: tte.AdagradMomentum(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: tte.AdagradMomentum(beta2=0), r"beta2 must be in \(0, 1\], got 0"),
        (lambda: tte.FTRL(initial_accumulator_value=-1), "FTRL: initial_accumulator_value must not"),
        (lambda: tte.FTRL(initial_accumulator_value=0), "above 0, got 0; set allow_zero_accumul"),
        (lambda: tte.FTRL(learning_rate_power=0.5), "learning_rate_power must be at most 0, got"),
        (lambda: tte.FTRL(l1_regularization_strength=-1), "l1_regularization_strength must not be"),
        (lambda: tte.FTRL(beta=-0.1), "FTRL: beta must not be negative, got -0.1"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_an_error_naming_it(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_ftrl_may_start_from_zero_accumulators_if_told_so() -> None:
    """TF's documentation allows it, its check does not; without any gradient the weight becomes 0."""
    ftrl = tte.FTRL(RATE, initial_accumulator_value=0, allow_zero_accumulator=True)
    change, _ = one_step(ftrl, w=2.0, g=0.0)
    assert change == -2.0
    change, _ = one_step(ftrl, w=0.0, g=3.0)
    assert change == pytest.approx(-RATE)


def one_step(
    optimizer: tte.optimizers.Optimizer, w: float, g: float, **slots: float
) -> tuple[float, dict[str, float]]:
    """The changes of one number in float64."""
    held = optimizer.slot_initial_values() | slots
    tensors = {name: torch.full((1, 1), v, dtype=torch.float64) for name, v in held.items()}
    one = torch.ones(1, 1, dtype=torch.float64)
    change, slot_changes = optimizer.step(
        w * one, tensors, g * one, torch.tensor([optimizer.learning_rate], dtype=torch.float64)
    )
    return float(change), {name: float(value) for name, value in slot_changes.items()}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("clipvalue", [0.0, (None, 1.0)], ids=str)
def test_clipping_the_gradient_needs_accumulation(
    cls: type[tte.optimizers.Optimizer], clipvalue: object
) -> None:
    """#21, for every class."""
    with pytest.raises(ValueError, match=f"{cls.__name__}: clipvalue=.*use_gradient_accumulation"):
        cls(RATE, clipvalue=clipvalue, use_gradient_accumulation=False)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("clipvalue", "bounds"),
    [((-1.0, 1.0), (-1, 1)), (1.0, (-1, 1)), ((None, 1.0), (None, 1)), (None, (None, None))],
    ids=str,
)
def test_clipvalue_is_a_pair_of_bounds(
    cls: type[tte.optimizers.Optimizer], clipvalue: object, bounds: tuple[float | None, ...]
) -> None:
    """#22 to #24."""
    assert cls(RATE, clipvalue=clipvalue).gradient_bounds == bounds


@pytest.mark.parametrize("cls", CLASSES)
def test_optimizers_are_equal_exactly_when_their_settings_are(
    cls: type[tte.optimizers.Optimizer],
) -> None:
    """#25."""
    assert cls(0.1) == cls(0.1)
    assert hash(cls(0.1)) == hash(cls(0.1))
    assert cls(0.1) != cls(0.2)


@given(st.integers(0, 2**32 - 1))
def test_the_same_config_built_twice_is_laid_out_the_same(seed: int) -> None:
    """#27: thirty tables; half the learning rates are callables, as in its second variant."""

    def make() -> tuple[object, object, object]:
        rng = np.random.default_rng(seed)
        tables = [
            tte.TableConfig(
                int(rng.integers(1, 500)),
                int(rng.integers(1, 40)),
                optimizer=tte.Adagrad(0.1 * n if n % 2 else (lambda: 0.1)),
                name=f"t{n}" if rng.random() < 0.5 else None,
            )
            for n in range(30)
        ]
        config = {f"f{k}": tte.FeatureConfig(tables[k]) for k in rng.permutation(30)}
        resolved = resolve(config, None)
        names = [table.name for table in resolved.tables]
        stacks = build_stacks(resolved.tables, "TPU")
        return (
            names,
            [feature.name for feature in resolved.features],
            [(s.table_indices, [(a.fields, a.shape) for a in s.arrays]) for s in stacks],
        )

    assert make() == make()


@given(st.floats(-100, 100).filter(lambda g: abs(g) > 1e-2))
def test_the_first_step_of_adagrad_momentum_is_the_rate_times_the_sign(gradient: float) -> None:
    """Its accumulators start at 0, so √a = |g|."""
    change, _ = one_step(tte.AdagradMomentum(RATE), w=1.0, g=gradient)
    assert change == pytest.approx(-math.copysign(RATE, gradient), rel=1e-5)


def test_a_missing_gradient_moves_adam_by_its_momentum_and_sends_a_fresh_ftrl_row_to_zero() -> None:
    """A gradient of zero is still a step; the numbers are TF's."""
    change, _ = one_step(tte.Adam(0.1), w=1.0, g=0.0, momenta=0.1, velocities=0.001)
    assert change == pytest.approx(-0.2847, abs=1e-4)
    change, _ = one_step(tte.FTRL(0.1), w=1.0, g=0.0)
    assert change == -1.0


def test_a_learning_rate_with_the_bias_correction_makes_adam_torchs() -> None:
    """TF leaves the correction to the user; the factors are those of the reference."""
    factors = [math.sqrt(1 - 0.999**t) / (1 - 0.9**t) for t in range(1, 11)]
    assert [factors[t - 1] for t in (1, 2, 3, 10)] == pytest.approx(
        [0.316228, 0.235317, 0.202011, 0.153189], rel=1e-5
    )
    torchs = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([torchs], lr=0.1, eps=1e-15)
    ours = tte.Adam(0.1, epsilon=1e-15)
    w = 1.0
    slots = {"momenta": 0.0, "velocities": 0.0}
    for t, g in enumerate([1.0, -0.5, 0.3, 0.2, -0.9, 0.1, 2.0, 1.0, 0.4, -1.0]):
        torchs.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        scheduled = tte.Adam(0.1 * factors[t], epsilon=ours.epsilon)
        change, deltas = one_step(scheduled, w, g, **slots)
        w += change
        slots = {name: value + deltas[name] for name, value in slots.items()}
        assert w == pytest.approx(float(torchs.detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("accumulate", "weight", "accumulator"), [(True, 0.900551, 9.1), (False, 0.816092, 5.1)]
)
def test_occurrences_are_summed_before_the_step_or_are_a_step_each(
    accumulate: bool, weight: float, accumulator: float
) -> None:
    """The numbers of TF's two modes: one row, gradients 1 and 2."""
    table = tte.TableConfig(
        3, 1, initializer=torch.ones, name="t",
        optimizer=tte.Adagrad(0.1, use_gradient_accumulation=accumulate),
    )  # fmt: skip
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 2, None)
    helpers.train_step(embedding, [torch.tensor([1, 1])], gradients=[torch.tensor([[1.0], [2.0]])])
    state = helpers.tensors(embedding)
    torch.testing.assert_close(
        state["t.weight"], torch.tensor([[1.0], [weight], [1.0]]), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        state["t.accumulators"], torch.tensor([[0.1], [accumulator], [0.1]]), rtol=1e-6, atol=1e-6
    )


# -- 5.3 Input validation --------------------------------------------------------------------------


def three(table: tte.TableConfig, *shapes: tuple[int, ...] | None) -> list[tte.FeatureConfig]:
    return [
        tte.FeatureConfig(table, name=f"f{number}", output_shape=shape)
        for number, shape in enumerate(shapes)
    ]


TABLE = tte.TableConfig(8, 4, initializer=helpers.arange_table, combiner="sum", name="video")
SPARSE_2_4 = high_input(HIGH[0], "sparse")


def test_a_build_shape_at_odds_with_the_output_shape_is_an_error_naming_both() -> None:
    """#36."""
    embedding = tte.TPUEmbedding(three(TABLE, (2, 4)), 2, tte.SGD())
    with pytest.raises(
        ValueError, match=r"'f0': \[1, 1, 1\] is inconsistent with its output_shape \[2, 4\]"
    ):
        embedding.build([(1, 1, 1)])


def test_an_input_that_does_not_fill_its_output_shape_is_an_error() -> None:
    """#37."""
    embedding = tte.TPUEmbedding(three(TABLE, (1, 1)), 2, tte.SGD())
    with pytest.raises(ValueError, match=r"\[2, 4, …\] does not fill the output shape \[1, 1\]"):
        embedding.enqueue([SPARSE_2_4])


def test_an_output_shape_with_an_unknown_size_is_an_error_at_once() -> None:
    """#38."""
    with pytest.raises(ValueError, match=r"each size in output_shape must be a Python int.*None"):
        tte.FeatureConfig(TABLE, output_shape=(None, 4))


def test_a_build_shape_with_an_unknown_size_before_the_last_is_an_error() -> None:
    """#39."""
    embedding = tte.TPUEmbedding(three(TABLE, None), 1, tte.SGD())
    with pytest.raises(
        ValueError, match=r"'f0': every size but the last must be .*\[1, None, None\]"
    ):
        embedding.build([(1, None, None)])


@pytest.mark.parametrize("buckets", [0, 1, -3, 2.0, True], ids=repr)
def test_a_quantization_with_fewer_than_two_buckets_is_an_error(buckets: object) -> None:
    """#41."""
    with pytest.raises(ValueError, match="num_buckets must be an int of at least 2, got"):
        tte.QuantizationConfig(buckets, 0.0, 1.0)


# -- 5.4 Valid inputs, modes -----------------------------------------------------------------------


@functools.cache
def built() -> tuple[tte.TPUEmbedding, dict[str, Tensor]]:
    """The fixture with SGD, and its start: one embedding, so that its programs are compiled once."""
    embedding = tte.TPUEmbedding(helpers.golden_config(), 2 * R, tte.SGD(RATE))
    return embedding, helpers.tensors(embedding)


@pytest.fixture
def fixture() -> tte.TPUEmbedding:
    embedding, start = built()
    embedding.discard()
    helpers.clone_into(embedding, start)
    return embedding


def look_up(embedding: tte.TPUEmbedding, features: object, weights: object = None) -> list[Tensor]:
    embedding.enqueue(features, weights, training=False)
    activations = embedding.dequeue()
    tte.runtime.sync()
    return [each.cpu() for each in activations]


def golden(kind: str = "ragged") -> tuple[object, ...]:
    return tuple(helpers.as_kind(rows, kind) for rows in helpers.GOLDEN_IDS)


def assert_falls(before: Sequence[Tensor], after: Sequence[Tensor], falls: object) -> None:
    """Each activation of replica 0's two samples has fallen by the number given for it."""
    for first, second, fall in zip(before, after, falls, strict=True):
        wanted = first[:2] - torch.tensor(fall)[:, None]
        torch.testing.assert_close(second[:2], wanted, rtol=1e-6, atol=1e-6)


def test_a_feature_with_gradient_none_stays_as_it_was(fixture: tte.TPUEmbedding) -> None:
    """#42."""
    before = look_up(fixture, golden())
    fixture.enqueue(golden())
    friends = fixture.dequeue()[2]
    with pytest.warns(RuntimeWarning, match=r"no gradient for the features \['watched', 'favor"):
        fixture.apply_gradients((None, None, torch.ones_like(friends)))
    tte.runtime.sync()
    after = look_up(fixture, golden())
    assert_falls(before, after, ([0.0, 0.0], [0.0, 0.0], [0.1 * R, 0.1 * R / 3]))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_a_common_weight_scales_a_sum_and_leaves_a_mean(
    fixture: tte.TPUEmbedding, kind: str
) -> None:
    """#44: weight .5 for the first and third feature, None for the second."""
    halves = [
        helpers.as_kind([[0.5] * len(row) for row in rows], kind, torch.float32)
        for rows in helpers.GOLDEN_IDS
    ]
    plain = look_up(fixture, golden(kind))
    weighted = look_up(fixture, golden(kind), (halves[0], None, halves[2]))
    for factor, one, other in zip((0.5, 1.0, 1.0), plain, weighted, strict=True):
        torch.testing.assert_close(other, factor * one)


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_a_sample_without_ids_is_a_zero_vector(fixture: tte.TPUEmbedding, kind: str) -> None:
    """#45, of which TF asserts only that it runs."""
    rows = [[*each[:-1], []] for each in helpers.GOLDEN_IDS]
    full = look_up(fixture, golden(kind))
    missing = look_up(fixture, tuple(helpers.as_kind(each, kind) for each in rows))
    for one, other in zip(full, missing, strict=True):
        assert torch.equal(other[:-1], one[:-1])
        assert not other[-1].any()


def test_ragged_and_sparse_inputs_of_the_same_ids_give_the_same(fixture: tte.TPUEmbedding) -> None:
    """#40, #46: also side by side in one call, which TF 2.3 refused."""
    wanted = look_up(fixture, golden("ragged"))
    mixed = (golden("sparse")[0], golden("ragged")[1], golden("sparse")[2])
    for found in (look_up(fixture, golden("sparse")), look_up(fixture, mixed)):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_features_may_have_output_shapes_that_differ_in_every_size() -> None:
    """#48: a dense [1, 3, 1] beside two sparse [2, 4, width], once its shape is given."""
    dense = torch.tensor([[[0], [1], [2]]])
    embedding = tte.TPUEmbedding(three(TABLE, None, None, None), 2, tte.SGD())
    with pytest.raises(ValueError, match=r"'f0'.*got 1 samples.*batch_size=2"):
        embedding.enqueue([dense, SPARSE_2_4, SPARSE_2_4])
    embedding.build([(1, 3, 1), (2, 4, None), (2, 4, 7)])
    embedding.enqueue([dense, SPARSE_2_4, SPARSE_2_4], training=False)
    shapes = [tuple(each.shape) for each in embedding.dequeue()]
    assert shapes == [(1, 3, 4), (2, 4, 4), (2, 4, 4)]


def test_the_output_shape_of_a_feature_goes_before_that_of_build() -> None:
    """#49: what build leaves open is not asked again."""
    embedding = tte.TPUEmbedding(three(TABLE, (2, 4)), 2, tte.SGD())
    embedding.build([(2, None, None)])
    embedding.enqueue([RAGGED(HIGH[0])], training=False)
    assert embedding.dequeue()[0].shape == (2, 4, 4)


def test_batches_of_two_names_train_and_evaluate_side_by_side(fixture: tte.TPUEmbedding) -> None:
    """#53: a training step under one name, seen by lookups under the other."""

    def evaluated() -> list[Tensor]:
        fixture.enqueue(golden(), training=False, name="call2")
        activations = fixture.dequeue(name="call2")
        tte.runtime.sync()
        return [each.cpu() for each in activations]

    before = evaluated()
    fixture.enqueue(golden(), name="call1")
    activations = fixture.dequeue(name="call1")
    fixture.apply_gradients(tuple(torch.ones_like(each) for each in activations), name="call1")
    tte.runtime.sync()
    falls = ([0.3 * R, 0.6 * R], [0.6 * R, 0.3 * R], [0.1 * R, 0.1 * R / 3])
    assert_falls(before, evaluated(), falls)


# -- 5.5 Life cycle, checkpoint, export ------------------------------------------------------------


def one_table(optimizer: tte.optimizers.Optimizer | None, value: float = 1.0) -> tte.FeatureConfig:
    def fill(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, value, dtype=dtype)

    return tte.FeatureConfig(tte.TableConfig(6, 3, initializer=fill, name="t", optimizer=optimizer))


def test_embeddings_with_tables_of_their_own_do_not_touch_each_other() -> None:
    """#56, where TF raises: two objects on one device, each with its tables."""
    a, b = (tte.TPUEmbedding([one_table(tte.SGD(1.0), v)], 1, None) for v in (1.0, 2.0))
    helpers.train_step(a, [torch.tensor([4])], gradients=[torch.ones(1, 3)])
    assert helpers.tensors(a)["t.weight"][:, 0].tolist() == [1, 1, 1, 1, 0, 1]
    assert helpers.tensors(b)["t.weight"].unique().tolist() == [2]


def test_on_the_cpu_the_tables_are_found_by_their_configs() -> None:
    """#57."""
    config = helpers.golden_config()
    tables = tte.TPUEmbedding(config, 4, None, device="cpu").embedding_tables
    assert set(tables) == {feature.table for feature in config}
    assert [tables[config[0].table].shape, tables[config[2].table].shape] == [(8, 4), (16, 2)]


def test_what_is_saved_is_what_the_device_holds_whoever_loaded_it() -> None:
    """#58: A is saved after A was loaded, and again after B, on the same tables, was."""
    config = [one_table(tte.Adagrad())]
    a = tte.TPUEmbedding(config, 1, None)
    a.build()
    b = tte.TPUEmbedding(config, 1, None, initialize_tpu_embedding=False)
    assert helpers.tensors(a)["t.weight"].unique().tolist() == [1]
    twos = {"t.weight": torch.full((6, 3), 2.0), "t.accumulators": torch.full((6, 3), 0.5)}
    helpers.clone_into(b, twos)
    saved = helpers.tensors(a)
    assert all(torch.equal(saved[key], twos[key]) for key in twos)


def test_a_checkpoint_file_restores_another_object_before_or_after_its_build() -> None:
    """#59, #60."""
    file = io.BytesIO()
    torch.save(tte.TPUEmbedding([one_table(tte.Adam(), 1.0)], 1, None).state_dict(), file)
    for built_first in (True, False):
        file.seek(0)
        restored = tte.TPUEmbedding([one_table(tte.Adam(), 7.0)], 1, None)
        if built_first:
            restored.build()
        restored.load_state_dict(torch.load(file, weights_only=True))
        restored.build()
        (activation,) = look_up(restored, [torch.tensor([5])])
        assert activation.tolist() == [[1, 1, 1]]
        assert helpers.tensors(restored)["t.weight"].unique().tolist() == [1]


def test_a_checkpoint_of_the_device_is_served_on_the_cpu_and_exported() -> None:
    """#61: ids [1, 0] give rows 1 and 0."""
    feature = tte.FeatureConfig(TABLE, name="watched")
    trained = tte.TPUEmbedding([feature], 2, tte.Adagrad())
    serving = tte.TPUEmbeddingForServing([feature], tte.Adagrad())
    serving.load_state_dict(trained.state_dict())
    wanted = [[4.0, 5, 6, 7], [0, 1, 2, 3]]
    ids = torch.tensor([1, 0])
    (served,) = serving([ids])
    assert served.tolist() == wanted
    assert tte.export_serving(trained)({"watched": ids})["watched"].tolist() == wanted


@pytest.mark.parametrize("cls", CLASSES)
def test_a_checkpoint_has_the_same_names_and_shapes_on_the_cpu_and_on_the_device(
    cls: type[tte.optimizers.Optimizer],
) -> None:
    """#62, for every class."""
    config = helpers.golden_config()
    shapes = []
    for device in (None, "cpu"):
        state = helpers.tensors(tte.TPUEmbedding(config, 4, cls(RATE), device=device))
        shapes.append([(key, value.shape) for key, value in state.items()])
    assert shapes[0] == shapes[1]
    slots = cls(RATE).slot_variable_names
    assert [key for key, _ in shapes[0]] == [
        f"{table}.{field}" for table in ("video", "user") for field in ("weight", *slots)
    ]


def test_configs_print_their_fields_in_the_order_of_the_constructor() -> None:
    """#64."""
    table = tte.TableConfig(8, 4, optimizer=tte.SGD(0.1), combiner="sum", name="video")
    text = repr(table)
    fields = ["vocabulary_size=8", "dim=4", "initializer=None", "optimizer=SGD(learning_rate=0.1"]
    fields += ["combiner='sum'", "name='video'", "quantization_config=None"]
    places = [text.index(field) for field in fields]
    assert text.startswith("TableConfig(")
    assert places == sorted(places)
    assert repr(tte.FeatureConfig(table, name="f")).startswith(f"FeatureConfig(table={text}, max_")
    quantization = tte.QuantizationConfig(3, -1.0, 1.0)
    assert repr(quantization) == "QuantizationConfig(num_buckets=3, lower=-1.0, upper=1.0)"


def test_the_description_of_many_tables_is_not_cut_short() -> None:
    """#65: 500 tables, and no line too long for a log."""
    config = [tte.FeatureConfig(tte.TableConfig(2, 1, name=f"table{n}")) for n in range(500)]
    text = tte.TPUEmbedding(config, 1, None, device="cpu").describe()
    assert all(f"table{n} " in text for n in range(500))
    assert max(map(len, text.splitlines())) < 200


# -- 5.6 Serving -----------------------------------------------------------------------------------


def serve(feature: tte.FeatureConfig, ids: object, weights: object = None) -> Tensor:
    table = helpers.arange_table((feature.table.vocabulary_size, feature.table.dim), torch.float32)
    return tte.serving_embedding_lookup(ids, weights, {feature.table: table}, feature)


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_weighted_lookup_divides_a_mean_by_the_weights_and_not_by_their_number(kind: str) -> None:
    """#69, #70, #72: the weights are the ids themselves, so that some are 0."""
    video, _, friends = helpers.golden_config()
    for feature, rows in ((video, helpers.GOLDEN_IDS[1]), (friends, helpers.GOLDEN_IDS[2])):
        table = np.arange(32.0).reshape(-1, feature.table.dim)
        for weighted in (False, True):
            wanted = []
            for row in rows:
                w = np.array(row, dtype=float) if weighted else np.ones(len(row))
                total = (table[row] * w[:, None]).sum(0)
                divisor = w.sum() if feature.table.combiner == "mean" else 1.0
                wanted.append(total / divisor if divisor else 0 * total)
            weights = helpers.as_kind(rows, kind, torch.float32) if weighted else None
            found = serve(feature, helpers.as_kind(rows, kind), weights)
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_served_sequence_is_cut_and_padded(kind: str) -> None:
    """#74: 'friends' with two places."""
    friends = sequences(0, 0, 2)[2]
    found = serve(friends, helpers.as_kind(helpers.GOLDEN_IDS[2], kind))
    pair = [[[6, 7], [0, 0]], [[0, 1], [2, 3]]]
    assert found.tolist() == [*pair, *pair]


def test_served_ragged_rows_fill_the_output_shape_or_are_an_error() -> None:
    """#76 to #78: four rows fill [2, 2], are sequences of 2 in [2, 4], and cannot fill [3]."""
    table = helpers.golden_config()[2].table
    rows = RAGGED(helpers.GOLDEN_IDS[2])
    bags = serve(tte.FeatureConfig(table, output_shape=(2, 2)), rows)
    assert bags.tolist() == [[[6, 7], [2, 3]], [[6, 7], [2, 3]]]
    places = serve(tte.FeatureConfig(table, output_shape=(2, 4)), rows)
    two = [[6, 7], [0, 0], [0, 1], [2, 3]]
    assert places.tolist() == [two, two]
    with pytest.raises(ValueError, match=r"4 rows cannot fill the output shape \[3\]"):
        serve(tte.FeatureConfig(table, output_shape=(3,)), rows)


# -- Quantization ----------------------------------------------------------------------------------

QUANTIZATIONS = st.builds(
    lambda n, low, width: tte.QuantizationConfig(n, low, low + width),
    st.integers(2, 300),
    st.floats(-10, 10),
    st.floats(0.125, 20),
)


def test_three_buckets_from_minus_one_to_one() -> None:
    """The values of the reference."""
    values = torch.tensor([-7, -0.6, -0.5, 0.49, 0.5, 7])
    rounded = quantize(values, tte.QuantizationConfig(3, -1.0, 1.0))
    assert rounded.tolist() == [-1, -1, 0, 0, 1, 1]


@given(QUANTIZATIONS, st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=20))
def test_quantized_values_are_the_nearest_of_the_buckets_and_stay_there(
    config: tte.QuantizationConfig, values: list[float]
) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    out = quantize(x, config)
    step = (config.upper - config.lower) / (config.num_buckets - 1)
    buckets = config.lower + step * torch.arange(config.num_buckets, dtype=torch.float64)
    assert (out[:, None] - buckets).abs().min(1).values.max() < 1e-9
    distance = (x.clamp(config.lower, config.upper) - out).abs()
    assert distance.max() <= step / 2 + 1e-9
    torch.testing.assert_close(quantize(out, config), out, rtol=0, atol=1e-9)


def test_rows_are_rounded_before_they_are_combined_and_gradients_pass_unrounded() -> None:
    """On the device and on the CPU alike; the table keeps its values."""
    table = tte.TableConfig(
        4, 1, initializer=lambda shape, dtype: torch.tensor([[-0.6], [0.4], [0.4], [0.9]]),
        combiner="sum", name="t", quantization_config=tte.QuantizationConfig(3, -1.0, 1.0),
    )  # fmt: skip
    config = [tte.FeatureConfig(table)]
    ids = RAGGED([[1, 2], [0, 3]])  # .4 + .4 would round to 1; 0 + 0 is 0
    embedding = tte.TPUEmbedding(config, 2, tte.SGD(0.1))
    (activation,) = helpers.train_step(embedding, [ids], gradients=[torch.tensor([[1.0], [2.0]])])
    assert activation.tolist() == [[0], [0]]
    held = helpers.tensors(embedding)["t.weight"]
    torch.testing.assert_close(held, torch.tensor([[-0.8], [0.3], [0.3], [0.7]]))

    serving = tte.TPUEmbeddingForServing(config)
    (served,) = serving([ids])
    assert served.tolist() == [[0], [0]]
    (served * torch.tensor([[1.0], [2.0]])).sum().backward()
    gradient = serving.embedding_tables[table].grad
    assert gradient.tolist() == [[2], [1], [1], [2]]


# -- The document ----------------------------------------------------------------------------------


def test_every_test_that_the_parity_document_names_exists_and_every_number_has_a_row() -> None:
    files = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    text = (ROOT / "docs" / "tf_parity.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)::(test_\w+)`", text))
    assert len(named) > 40
    for file, name in sorted(named):
        source = files[file].read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, f"{file}::{name}"
    numbers: list[int] = []
    for cell in re.findall(r"^\| (\d[\d–, ]*) \|", text, re.MULTILINE):
        for part in cell.split(", "):
            first, _, last = part.partition("–")
            numbers += range(int(first), int(last or first) + 1)
    assert sorted(numbers) == list(range(1, 99))
