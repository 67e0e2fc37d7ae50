"""Options of tables and optimizers at work on the device: no recompilation, frozen tables, rates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from models import helpers

import torch_tpu_embedding as tte

OPTIMIZERS = {
    "sgd": tte.SGD(0.1, clipvalue=(None, 0.5), clip_weight_min=-1.0, weight_decay_factor=0.1),
    "adagrad-decay": tte.Adagrad(
        lambda: next(RATES), weight_decay_factor=0.1,
        multiply_weight_decay_factor_by_learning_rate=True,
    ),
    "momentum": tte.AdagradMomentum(0.1, momentum=0.9, use_nesterov=True, exponent=3.0, beta2=0.9),
    "ftrl": tte.FTRL(lambda: 0.1 + next(RATES), l1_regularization_strength=0.1, beta=0.1),
    "rowwise": tte.RowWiseAdagrad(lambda: next(RATES)),
    "adam-all-rows": tte.Adam(0.1, lazy_adam=False, sum_inside_sqrt=False, clipvalue=1.0),
    "adagrad-each": tte.Adagrad(lambda: next(RATES), use_gradient_accumulation=False),
}  # fmt: skip


def _rates() -> Iterator[float]:
    """0, 1 and others: torch_xla makes constants of 0 and 1 where it can."""
    while True:
        yield from (0.0, 1.0, 0.5, 0.25)


RATES = _rates()


def ragged(count: int, seed: int) -> tte.Ragged:
    """Bags of 0 to 4 ids; id 0 is in many of them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 5, (count,), generator=generator)
    ids = torch.randint(0, 60, (int(lengths.sum()),), generator=generator)
    return tte.Ragged.from_lengths(ids * (ids > 20), lengths)


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_option_compiles_anything_after_warm_up(name: str, layout: str) -> None:
    quantized = tte.QuantizationConfig(17, -1.0, 1.0)
    one = tte.TableConfig(60, 4, optimizer=OPTIMIZERS[name], combiner="sqrtn")
    two = tte.TableConfig(60, 4, optimizer=OPTIMIZERS[name], quantization_config=quantized)
    config = [
        tte.FeatureConfig(one),
        tte.FeatureConfig(one, max_sequence_length=3),
        tte.FeatureConfig(two),
    ]
    embedding = tte.TPUEmbedding(config, 16, None, layout=layout)

    def step(number: int) -> None:
        inputs = [ragged(16, 3 * number + k) for k in range(3)]
        embedding.enqueue(inputs)
        activations = embedding.dequeue()
        sum((torch.tanh(each) ** 2).sum() for each in activations).backward()
        embedding.apply_gradients()

    for number in range(8):
        step(number)
        tte.runtime.sync()
    compiled, fallbacks = tte.runtime.compile_count(), tte.runtime.cpu_fallbacks()
    for number in range(8, 40):
        step(number)
        tte.runtime.sync()
    assert tte.runtime.compile_count() == compiled
    assert tte.runtime.cpu_fallbacks() == fallbacks
    assert all(bool(each.isfinite().all()) for each in helpers.tensors(embedding).values())


def test_a_table_without_optimizer_stays_as_it_is_while_others_train() -> None:
    frozen = tte.TableConfig(5, 2, name="frozen")
    trained = tte.TableConfig(5, 2, name="trained", optimizer=tte.Adam(0.1))
    embedding = tte.TPUEmbedding([tte.FeatureConfig(frozen), tte.FeatureConfig(trained)], 2, None)
    before = helpers.tensors(embedding)
    assert list(before) == [
        "frozen.weight",
        "trained.weight",
        "trained.momenta",
        "trained.velocities",
    ]
    helpers.train_step(embedding, [torch.tensor([0, 1]), torch.tensor([0, 1])])
    after = helpers.tensors(embedding)
    assert torch.equal(after["frozen.weight"], before["frozen.weight"])
    assert not torch.equal(after["trained.weight"], before["trained.weight"])
    assert "none (frozen)" in embedding.describe()


def test_one_callable_of_many_tables_is_read_once_a_step_and_others_on_their_own() -> None:
    calls = {"shared": 0, "own": 0}

    def shared() -> float:
        calls["shared"] += 1
        return 0.1

    def own() -> float:
        calls["own"] += 1
        return 0.2

    tables = [tte.TableConfig(4, 2, optimizer=tte.SGD(rate)) for rate in (shared, own, shared)]
    tables.append(tte.TableConfig(4, 3, optimizer=tte.Adagrad(shared)))
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table) for table in tables], 1, None)
    for _ in range(3):
        helpers.train_step(embedding, [torch.tensor([1])] * 4)
    assert calls == {"shared": 3, "own": 3}


def test_ftrl_refuses_a_rate_of_zero_before_anything_changes() -> None:
    one = tte.TableConfig(4, 2, optimizer=tte.SGD(0.1), name="one")
    two = tte.TableConfig(4, 2, optimizer=tte.FTRL(0.0), name="two")
    embedding = tte.TPUEmbedding([tte.FeatureConfig(one), tte.FeatureConfig(two)], 1, None)
    before = helpers.tensors(embedding)
    with pytest.raises(ValueError, match="table 'two': FTRL divides by the learning rate"):
        helpers.train_step(embedding, [torch.tensor([1])] * 2)
    after = helpers.tensors(embedding)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_slots_start_as_slot_variable_creation_fn_says() -> None:
    def create(
        table: torch.Tensor, names: list[str], initializers: list[object]
    ) -> dict[str, torch.Tensor]:
        assert table.shape == (4, 2)
        assert names == ["momenta", "velocities"]
        return {"momenta": table * 2, "velocities": initializers[1]((4, 2), torch.float32) + 3}

    table = tte.TableConfig(
        4, 2, optimizer=tte.Adam(slot_variable_creation_fn=create), initializer=helpers.arange_table
    )
    state = helpers.tensors(tte.TPUEmbedding([tte.FeatureConfig(table)], 1, None))
    assert torch.equal(state["table_0.momenta"], torch.arange(8.0).reshape(4, 2) * 2)
    assert torch.equal(state["table_0.velocities"], torch.full((4, 2), 3.0))


def test_describe_shows_tables_features_and_arrays() -> None:
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, tte.Adagrad(0.1))
    assert "stack" not in embedding.describe(), "nothing lies on the device yet"
    embedding.build()
    text = embedding.describe()
    for part in (
        "video  8           4    sum       Adagrad    accumulators",
        "friends    user   [4, 2]",
        "weight | accumulators",
    ):
        assert part in text


def test_unconnected_processes_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RuntimeError,
        match=r"2 processes were started, but they are not connected; call .*initialize\(\) first",
    ):
        tte.TPUEmbedding(helpers.golden_config(), 4, tte.SGD())
    tte.TPUEmbedding(helpers.golden_config(), 4, tte.SGD(), device="cpu")  # serving may


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "meta"}, "device must be an XLA device or 'cpu', got meta"),
        (
            {"device": "cpu", "initialize_tpu_embedding": False},
            "needs an XLA device, got device='cpu'",
        ),
        ({"layout": "GPU"}, "layout must be None, 'CPU' or 'TPU', got 'GPU'"),
        (
            {"id_bounds": "clamp"},
            "id_bounds must be one of 'raise', 'drop', 'warn_and_drop', got 'clamp'",
        ),
        ({"enqueue_depth": 0}, "enqueue_depth must be an int of at least 1, got 0"),
        ({"batch_size": True}, "batch_size must be an int of at least 1, got True"),
    ],
)
def test_a_wrong_constructor_argument_says_what_is_allowed(
    options: dict[str, object], message: str
) -> None:
    given = {"batch_size": 4, "optimizer": tte.SGD(), **options}
    with pytest.raises(ValueError, match=message):
        tte.TPUEmbedding(helpers.golden_config(), **given)
