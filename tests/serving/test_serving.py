"""Lookup on the CPU: the values of the XLA path, in plain differentiable torch."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import tensor
from torch._C import Generator
from torch.nested import nested_tensor_from_jagged
from torch.nn.functional import embedding_bag

import torch_tpu_embedding as tte

B = 3
COMBINERS = ("mean", "sum", "sqrtn")
V = 7


def jagged(ragged: tte.Ragged) -> torch.Tensor:
    return nested_tensor_from_jagged(ragged.values, ragged.row_splits)


def sparse(ragged: tte.Ragged) -> torch.Tensor:
    """With the entries in reverse order."""
    lengths = ragged.row_splits.diff()
    rows = torch.arange(len(lengths)).repeat_interleave(lengths)
    columns = torch.arange(len(rows)) - ragged.row_splits[:-1].repeat_interleave(lengths)
    indices = torch.stack([rows, columns]).flip(1)
    return torch.sparse_coo_tensor(indices, ragged.values.flip(0), (len(lengths), 6))


KINDS = {"ragged": lambda ragged: ragged, "jagged": jagged, "sparse": sparse}


# -- the same as on the device ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def both() -> Any:
    """One embedding with every kind of feature and every combiner, on XLA and on the CPU."""
    tables = {c: tte.TableConfig(V, 3, combiner=c, name=c) for c in COMBINERS}
    pooled = {
        f"{c}/{kind}/{how}": tte.FeatureConfig(tables[c])
        for c in COMBINERS
        for kind in KINDS
        for how in ("weighted", "plain")
    }
    config = {
        "pooled": pooled,
        "dense": [tte.FeatureConfig(tables["mean"]), tte.FeatureConfig(tables["sum"])],
        "sequence": {
            kind: tte.FeatureConfig(tables["mean"], max_sequence_length=2) for kind in KINDS
        },
    }
    made = [
        tte.TPUEmbedding(config, B, tte.Adagrad(0.1), seed=seed, device=device, id_bounds="drop")
        for device, seed in ((None, 1), ("cpu", 2))
    ]
    for each in made:
        each.eval()
    made[1].load_state_dict(made[0].state_dict())
    return (*made, config)


def ids_of_five(
    generator: Generator, lengths: list[int], low: int = 0, high: int = V
) -> tte.Ragged:
    values = torch.randint(low, high, (5,), generator=generator)
    return tte.Ragged.from_lengths(values, tensor(lengths))


@pytest.mark.parametrize(
    ("seed", "lengths", "low", "high"),
    [
        (0, [2, 0, 3], 0, V),
        (1, [0, 5, 0], 0, V),
        (2, [1, 2, 2], -2, V + 2),
        (3, [1, 1, 3], V, V + 9),
    ],
    ids=["empty_bag", "one_bag", "some_ids_dropped", "all_ids_dropped"],
)
def test_the_cpu_and_the_device_give_the_same_for_every_kind_and_combiner(
    both: Any, seed: int, lengths: list[int], low: int, high: int
) -> None:
    on_device, on_cpu, config = both
    generator = torch.Generator().manual_seed(seed)
    pooled, weights = {}, {}
    for name in config["pooled"]:
        _, kind, how = name.split("/")
        ids = ids_of_five(generator, lengths, low, high)
        values = torch.randint(-2, 5, (5,), generator=generator) / 2  # some bags cancel to zero
        pooled[name] = KINDS[kind](ids)
        weights[name] = KINDS[kind](tte.Ragged(values, ids.row_splits))
        if how == "plain":
            weights[name] = None
    dense = torch.randint(low, high, (2, B), generator=generator)
    features = {
        "pooled": pooled,
        "dense": [dense[0], dense[1][:, None].to(torch.int32)],
        "sequence": {
            kind: make(ids_of_five(generator, lengths, low, high)) for kind, make in KINDS.items()
        },
    }
    weights = {
        "pooled": weights,
        "dense": [None, None],
        "sequence": dict.fromkeys(features["sequence"]),
    }
    expected = on_device(features, weights)
    served = on_cpu(features, weights)
    plain = tte.serving_embedding_lookup(
        features, weights, on_cpu.embedding_tables, config, id_bounds="drop"
    )
    for group, names in (
        ("pooled", list(pooled)),
        ("dense", [0, 1]),
        ("sequence", list(KINDS)),
    ):
        for name in names:
            wanted = expected[group][name].cpu()
            assert wanted.shape == ((B, 2, 3) if group == "sequence" else (B, 3))
            torch.testing.assert_close(served[group][name].detach(), wanted)
            assert torch.equal(served[group][name], plain[group][name])
            assert wanted.any() == (low < V), "zeros exactly where every id was dropped"


# -- values ----------------------------------------------------------------------------------------


def lookup(
    table: torch.Tensor,
    ids: torch.Tensor | tte.Ragged,
    weights: torch.Tensor | tte.Ragged | None = None,
    *,
    length: int = 0,
    combiner: str = "mean",
    **options: str,
) -> torch.Tensor:
    """One feature looked up in `table`."""
    config = tte.TableConfig(*table.shape, combiner=combiner, name="items")
    feature = tte.FeatureConfig(config, max_sequence_length=length, name="clicks")
    return tte.serving_embedding_lookup(ids, weights, {config: table}, feature, **options)


def some_table(dim: int = 3) -> torch.Tensor:
    return torch.randn(V, dim, generator=torch.Generator().manual_seed(5))


IDS = tte.Ragged.from_lists([[3, 1, 3], [], [6], [0, 2]])
WEIGHTS = tte.Ragged(tensor([0.5, 2.0, 0.25, 3.0, 1.0, 2.0]), IDS.row_splits)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("combiner", ["mean", "sum"])
def test_a_pooled_lookup_is_torchs_embedding_bag(make: Callable[..., Any], combiner: str) -> None:
    table = some_table()
    expected = embedding_bag(IDS.values, table, IDS.row_splits[:-1], mode=combiner)
    torch.testing.assert_close(lookup(table, make(IDS), combiner=combiner), expected)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_weighted_lookup_is_the_weighted_sum_over_its_divisor(
    make: Callable[..., Any], combiner: str
) -> None:
    table, w = some_table(), WEIGHTS.values
    offsets = IDS.row_splits[:-1]
    sums = embedding_bag(IDS.values, table, offsets, mode="sum", per_sample_weights=w)
    first, last = tensor([2.75, 0, 3, 3]), tensor([4.3125, 0, 9, 5]).sqrt()
    divisor = {"sum": torch.ones(4), "mean": first, "sqrtn": last}[combiner]
    expected = sums / divisor.clamp(min=0.1)[:, None]
    got = lookup(table, make(IDS), make(WEIGHTS), combiner=combiner)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_dense_lookup_takes_the_rows_whatever_the_combiner(
    shape: tuple[int, ...], combiner: str
) -> None:
    table, ids = some_table(), tensor([3, 0, 6, 3])
    assert torch.equal(lookup(table, ids.view(shape), combiner=combiner), table[ids])


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_sequence_is_cut_and_padded_with_zeros_whatever_the_combiner(
    make: Callable[..., Any], combiner: str
) -> None:
    table = some_table()
    got = lookup(table, make(IDS), length=2, combiner=combiner)
    expected = torch.zeros(4, 2, 3)
    expected[0] = table[[3, 1]]
    expected[2, 0] = table[6]
    expected[3] = table[[0, 2]]
    assert torch.equal(got, expected)


def test_an_empty_bag_is_zero_even_where_the_table_is_not_finite() -> None:
    table = torch.full((V, 2), math.inf)
    table[1] = 1.0
    assert lookup(table, tte.Ragged.from_lists([[], [1]])).tolist() == [[0, 0], [1, 1]]
    assert lookup(table, tte.Ragged.from_lists([[], [1]]), length=1).tolist() == [
        [[0, 0]],
        [[1, 1]],
    ]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_batch_size_is_served(size: int) -> None:
    table = some_table()
    config = tte.FeatureConfig(
        tte.TableConfig(V, 3, initializer=lambda shape, dtype: table.clone())
    )
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu")
    ids = torch.arange(size)
    assert torch.equal(embedding(ids), table[:size])
    assert torch.equal(lookup(table, ids), table[:size])


def test_the_outputs_are_nested_like_the_feature_config() -> None:
    one, other = tte.TableConfig(4, 2), tte.TableConfig(5, 3)
    config = {
        "b": (tte.FeatureConfig(one), tte.FeatureConfig(other)),
        "a": [tte.FeatureConfig(one)],
    }
    tables = {one: torch.randn(4, 2), other: torch.randn(5, 3), tte.TableConfig(1, 1): None}
    inputs = {"a": [tensor([0, 1])], "b": (tensor([2, 3]), tensor([4, 4]))}
    out = tte.serving_embedding_lookup(inputs, None, tables, config)
    assert list(out) == ["b", "a"]
    assert torch.equal(out["a"][0], tables[one][:2])
    assert torch.equal(out["b"][0], tables[one][2:])
    assert torch.equal(out["b"][1], tables[other][[4, 4]])


# -- gradients -------------------------------------------------------------------------------------

CASES = [
    pytest.param(make, weights, combiner, length, id=f"{kind}-{combiner}-{length}-{bool(weights)}")
    for kind, make in KINDS.items()
    for combiner in COMBINERS
    for weights, length in ((None, 0), (WEIGHTS, 0), (None, 2))
]


@pytest.mark.parametrize(("make", "weights", "combiner", "length"), CASES)
def test_gradients_flow_to_the_table_with_the_factors_of_the_lookup(
    make: Callable[..., Any], weights: tte.Ragged | None, combiner: str, length: int
) -> None:
    """A lookup is linear: with an identity as its table it is the matrix of that linear map."""
    options = {"combiner": combiner, "length": length}
    weights = make(weights) if weights else None
    matrix = lookup(torch.eye(V), make(IDS), weights, **options)
    table = some_table().requires_grad_()
    out = lookup(table, make(IDS), weights, **options)
    torch.testing.assert_close(out, matrix @ table)
    factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(factors)
    expected = matrix.flatten(0, -2).T @ factors.flatten(0, -2)
    torch.testing.assert_close(table.grad, expected)
    assert not table.grad[[4, 5]].any(), "rows that were not looked up"


def test_a_dropped_id_sends_no_gradient() -> None:
    table = some_table().requires_grad_()
    lookup(table, tensor([-1, 2, V]), id_bounds="drop").sum().backward()
    lookup(table, tte.Ragged.from_lists([[-1, V]]), id_bounds="drop").sum().backward()
    assert table.grad.sum(1).tolist() == [0, 0, 3, 0, 0, 0, 0]


def test_the_tables_of_a_cpu_module_train_with_any_torch_optimizer() -> None:
    config = tte.FeatureConfig(tte.TableConfig(4, 2, initializer=torch.ones))
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu")
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.5)
    embedding(tte.Ragged.from_lists([[1, 1], [2]])).sum().backward()
    optimizer.step()
    expected = [[1, 1], [0.5, 0.5], [0.5, 0.5], [1, 1]]
    assert next(embedding.parameters()).tolist() == expected
    assert embedding(tensor([1, 3])).tolist() == [[0.5, 0.5], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_cpu_module_of_another_precision_serves_in_it(
    make: Callable[..., Any], dtype: torch.dtype
) -> None:
    config = tte.FeatureConfig(tte.TableConfig(V, 3))
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu").to(dtype)
    for value in (tensor([1, 2]), make(IDS)):
        assert embedding(value).dtype == dtype


# -- parameters and checkpoints --------------------------------------------------------------------


def three_tables() -> Any:
    user = tte.TableConfig(4, 2, name="user", optimizer=tte.Adam(0.1))
    items = tte.TableConfig(5, 3)
    plain = tte.TableConfig(6, 1, name="plain", optimizer=tte.SGD(0.1))
    config = [tte.FeatureConfig(each) for each in (user, items, plain, user)]
    return (user, items, plain), tte.TPUEmbedding(config, 2, tte.Adagrad(0.1), device="cpu")


def test_tables_are_parameters_and_slots_are_buffers_under_the_checkpoint_keys() -> None:
    configs, embedding = three_tables()
    weights = {"user.weight": (4, 2), "table_1.weight": (5, 3), "plain.weight": (6, 1)}
    slots = {"user.momenta", "user.velocities", "table_1.accumulators"}
    parameters = dict(embedding.named_parameters())
    assert {name: tuple(each.shape) for name, each in parameters.items()} == weights
    assert all(each.requires_grad for each in embedding.parameters())
    assert {name for name, _ in embedding.named_buffers()} == slots
    assert set(embedding.state_dict()) == {*weights, *slots, "_extra_state"}
    held = embedding.embedding_tables
    assert list(held) == list(configs)
    for each, name in zip(configs, weights, strict=True):
        assert held[each] is parameters[name]


def test_a_table_without_optimizer_has_a_weight_and_no_slots() -> None:
    embedding = tte.TPUEmbedding(tte.FeatureConfig(tte.TableConfig(4, 2)), 2, None, device="cpu")
    assert set(embedding.state_dict()) == {"table_0.weight", "_extra_state"}


def test_a_checkpoint_moves_every_table_and_slot_to_another_cpu_module() -> None:
    (_, first), (_, second) = three_tables(), three_tables()
    with torch.no_grad():
        for number, each in enumerate([*first.parameters(), *first.buffers()]):
            each.fill_(number)
    assert second.load_state_dict(first.state_dict()).missing_keys == []
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])


def test_a_cpu_module_never_shares_memory_with_what_an_initializer_returned() -> None:
    fixed = torch.ones(4, 2)
    tables = [tte.TableConfig(4, 2, initializer=lambda shape, dtype: fixed) for _ in range(2)]
    embedding = tte.TPUEmbedding([tte.FeatureConfig(t) for t in tables], 2, None, device="cpu")
    with torch.no_grad():
        embedding.embedding_tables[tables[0]].zero_()
    assert torch.equal(fixed, torch.ones(4, 2))
    assert torch.equal(embedding.embedding_tables[tables[1]], torch.ones(4, 2))


# -- errors ----------------------------------------------------------------------------------------


def test_a_table_that_is_not_given_is_a_key_error_naming_it() -> None:
    config = tte.FeatureConfig(tte.TableConfig(V, 3, name="items"))
    lookalike = tte.TableConfig(V, 3, name="items")
    for tables in ({}, {lookalike: some_table()}):
        with pytest.raises(KeyError, match="table 'items' of feature_config is not in tables"):
            tte.serving_embedding_lookup(tensor([1]), None, tables, config)


@pytest.mark.parametrize("shape", [(V, 2), (V + 1, 3), (3, V), (V,), (V, 3, 1)], ids=str)
def test_a_table_of_another_shape_is_an_error_naming_both(shape: tuple[int, ...]) -> None:
    config = tte.TableConfig(V, 3, name="items")
    message = rf"table 'items': expected shape \[7, 3\], got \[{', '.join(map(str, shape))}\]"
    with pytest.raises(ValueError, match=message):
        tte.serving_embedding_lookup(
            tensor([1]), None, {config: torch.ones(shape)}, tte.FeatureConfig(config)
        )


def module(id_bounds: str = "raise") -> tuple[tte.TPUEmbedding, tte.FeatureConfig]:
    config = tte.FeatureConfig(tte.TableConfig(V, 3, name="items"), name="clicks")
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu", id_bounds=id_bounds)
    return embedding, config


def test_an_id_outside_the_vocabulary_is_an_error_by_default() -> None:
    embedding, config = module()
    message = r"'clicks'.*'items'.*id 7 at sample 1 is outside \[0, 7\)"
    with pytest.raises(ValueError, match=message):
        embedding(tensor([0, V]))
    with pytest.raises(ValueError, match=message):
        tte.serving_embedding_lookup(tensor([0, V]), None, embedding.embedding_tables, config)


@pytest.mark.parametrize("id_bounds", ["drop", "warn_and_drop"])
def test_an_id_outside_the_vocabulary_may_be_dropped(id_bounds: str) -> None:
    embedding, config = module(id_bounds)
    table = embedding.embedding_tables[config.table]
    ragged = tte.Ragged.from_lists([[0, V], [-1], [2, 3]])
    expected = torch.stack([table[0], torch.zeros(3), table[[2, 3]].mean(0)])

    def all_lookups() -> Iterator[Any]:
        yield embedding(ragged)
        yield tte.serving_embedding_lookup(
            ragged, None, {config.table: table}, config, id_bounds=id_bounds
        )

    if id_bounds == "warn_and_drop":
        with pytest.warns(RuntimeWarning, match="outside .*1 more like it.*; dropped") as caught:
            outputs = list(all_lookups())
        assert len(caught) == 2
    else:
        outputs = list(all_lookups())
    for output in outputs:
        torch.testing.assert_close(output, expected)


def test_unknown_id_bounds_are_an_error_listing_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"id_bounds must be one of .*'drop'.* got 'clip'"):
        lookup(some_table(), tensor([1]), id_bounds="clip")


@pytest.mark.parametrize(
    ("inputs", "weights", "error", "message"),
    [
        ([tensor([1])], None, TypeError, "features must be a tuple"),
        ((), None, ValueError, "features must have 1 items"),
        ((tensor([1]),), (), ValueError, "weights must have 1 items"),
        ((tensor([1]),), (torch.ones(1),), ValueError, "weights were given for a dense feature"),
        ((IDS,), (torch.ones(6),), ValueError, "weights must be a Ragged"),
        ((None,), None, ValueError, "got NoneType"),
    ],
    ids=range(6),
)
def test_wrong_inputs_are_the_errors_of_training(
    inputs: list[torch.Tensor] | tuple[Any],
    weights: tuple[Any] | None,
    error: type[Exception],
    message: str,
) -> None:
    config = (tte.FeatureConfig(tte.TableConfig(V, 3)),)
    embedding = tte.TPUEmbedding(config, 2, None, device="cpu")
    with pytest.raises(error, match=message):
        embedding(inputs, weights)
    with pytest.raises(error, match=message):
        tte.serving_embedding_lookup(inputs, weights, embedding.embedding_tables, config)
