"""padding_idx: an id that counts as none, in every kind of input, on the device, the CPU and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models import helpers
from models.laws import AMPLIFIED, OPTIMIZERS, Fast

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.bags import NO_ID, parse
from torch_tpu_embedding.reference import ReferenceEmbedding, Sample
from torch_tpu_embedding.tables.start_values import start_values, table_values

V, PADDING = 6, 2
COMBINERS = ("mean", "sum", "sqrtn")
Rows = list[list[int]]
rows_of_ids = st.lists(st.lists(st.integers(0, V - 1), max_size=5), min_size=4, max_size=4)


def table(**options: object) -> tte.TableConfig:
    given: dict[str, object] = {"padding_idx": PADDING, "name": "t", **options}
    return tte.TableConfig(V, 3, **given)  # type: ignore[arg-type]


def without_padding(rows: Rows) -> Rows:
    return [[i for i in row if i != PADDING] for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows_of_ids, st.sampled_from(COMBINERS), st.sampled_from(helpers.KINDS), st.booleans())
def test_a_pooled_feature_is_as_if_the_padding_were_not_given(
    rows: Rows, combiner: str, kind: str, weighted: bool
) -> None:
    def bags(of: Rows) -> object:
        weights = [[1.0 + i / 8 for i in row] for row in of]
        given_weights = helpers.as_kind(weights, kind, torch.float32) if weighted else None
        resolved = resolve(tte.FeatureConfig(table(combiner=combiner)), None)
        ids = helpers.as_kind(of, kind)
        made = parse(resolved.features[0], resolved.tables[0], ids, given_weights)
        return [x if x is None or isinstance(x, tuple) else x.tolist() for x in (made.ids, made.bag,
                made.gain, made.shape)], made.num_ids, made.num_dropped  # fmt: skip

    assert bags(rows) == bags(without_padding(rows))


@settings(max_examples=30, deadline=None)
@given(rows_of_ids, st.sampled_from(helpers.KINDS))
def test_a_place_of_a_sequence_with_padding_has_no_id_and_the_others_keep_theirs(
    rows: Rows, kind: str
) -> None:
    feature, of = resolve(tte.FeatureConfig(table(), max_sequence_length=3), None), parse
    found = of(feature.features[0], feature.tables[0], helpers.as_kind(rows, kind))
    cut = [[*row, NO_ID, NO_ID, NO_ID][:3] for row in rows]
    wanted = [NO_ID if i == PADDING else i for row in cut for i in row]
    assert found.ids.tolist() == wanted
    assert (found.num_ids, found.num_dropped) == (sum(i != NO_ID for i in wanted), 0)


def test_an_id_outside_the_vocabulary_is_dropped_and_counted_beside_the_padding() -> None:
    resolved = resolve(tte.FeatureConfig(table()), None)
    feature, of = resolved.features[0], resolved.tables[0]
    ragged = tte.Ragged.from_lists([[PADDING, 1, 99], [PADDING]])
    for value in (ragged, torch.tensor([PADDING, 99, 1])):
        found = parse(feature, of, value, id_bounds="drop")
        assert (found.num_ids, found.num_dropped) == (1, 1)
    with pytest.raises(ValueError, match="id 99 at sample 0, position 2"):
        parse(feature, of, ragged)


@pytest.mark.parametrize("combiner", ["mean", "sum"])
@pytest.mark.parametrize("padding", [0, 2, V - 1, -1, -V])
def test_values_and_gradients_are_those_of_torchs_embedding_bag(
    combiner: str, padding: int
) -> None:
    bag = torch.nn.EmbeddingBag(V, 3, mode=combiner, padding_idx=padding, include_last_offset=True)
    served = tte.TPUEmbeddingForServing(
        tte.FeatureConfig(table(combiner=combiner, padding_idx=padding))
    )
    served.load_state_dict({"t.weight": bag.weight.detach()}, strict=False)
    rows = [[0, 2, 5, 2], [], [2, 2], [5, 0], [1, 3, 4], [0]]
    ragged = tte.Ragged.from_lists(rows)
    found, wanted = served(ragged), bag(ragged.values, ragged.row_splits)
    torch.testing.assert_close(found, wanted)
    for each in (found, wanted):
        (each * torch.linspace(-1, 1, each.numel()).view_as(each)).sum().backward()
    torch.testing.assert_close(next(iter(served.embedding_tables.values())).grad, bag.weight.grad)


def test_dense_ids_and_sequences_are_those_of_torchs_embedding() -> None:
    plain = torch.nn.Embedding(V, 3, padding_idx=PADDING)
    of = table()
    config = {"dense": tte.FeatureConfig(of), "rows": tte.FeatureConfig(of, max_sequence_length=4)}
    served = tte.TPUEmbeddingForServing(config)
    served.load_state_dict({"t.weight": plain.weight.detach()}, strict=False)
    padded = torch.tensor([[1, 2, 4, 2], [2, 2, 2, 2], [5, 3, 0, 1]])
    found = served({"dense": padded[:, 1], "rows": tte.Ragged.from_lists(padded)})
    torch.testing.assert_close(found["dense"], plain(padded[:, 1]))
    torch.testing.assert_close(found["rows"], plain(padded))
    (found["dense"].sum() + found["rows"].square().sum()).backward()
    (plain(padded[:, 1]).sum() + plain(padded).square().sum()).backward()
    torch.testing.assert_close(served.embedding_tables[of].grad, plain.weight.grad)


def test_padded_ids_are_refused_as_they_are_with_a_remedy_that_works() -> None:
    padded = torch.tensor([[1, 2, 4, 2], [2, 2, 2, 2], [5, 3, 0, 1]])
    for length, wanted in ((0, [9.0, 0.0, 17.0]), (4, [9.0, 0.0, 17.0])):
        of = table(combiner="sum", initializer=tte.RowIdInitializer(2))
        served = tte.TPUEmbeddingForServing(tte.FeatureConfig(of, max_sequence_length=length))
        with pytest.raises(ValueError, match=r"Ragged\.from_lists takes "):
            served(padded)
        found = served(tte.Ragged.from_lists(padded))[..., 0]
        assert (found.sum(1) if length else found).tolist() == wanted


def config(optimizer: tte.optimizers.Optimizer) -> list[tte.FeatureConfig]:
    own = tte.TableConfig(5, 3, combiner="sqrtn", name="own", padding_idx=-1)
    return [
        tte.FeatureConfig(table(combiner="mean"), name="pooled"),
        tte.FeatureConfig(own, name="other"),
        tte.FeatureConfig(own, name="sequence", max_sequence_length=3),
    ]


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
@pytest.mark.parametrize(
    "name", ["sgd-decay-clip", "adagrad", "adam", "adam-not-lazy", "sgd-each-clip"]
)
def test_training_is_that_of_the_reference_and_leaves_the_row_as_it_was(
    name: str, layout: str
) -> None:
    optimizer = OPTIMIZERS[name]
    fast = Fast(config(optimizer), optimizer, layout)  # type: ignore[arg-type]
    before = fast.state()
    slow = ReferenceEmbedding(config(optimizer), optimizer, before)
    assert not before["t.weight"][PADDING].any()
    assert not before["own.weight"][-1].any()
    for shift in range(3):
        rows = [[(i + b + shift) % 5 for i in range(b)] for b in (4, 0, 5, 3)]
        weights = [[1.0 + i / 4 for i in row] for row in rows]
        pooled: list[Sample] = [
            list(zip(*pair, strict=True)) for pair in zip(rows, weights, strict=True)
        ]
        plain: list[Sample] = [[(i, 1.0) for i in row] for row in rows]
        batch = [pooled, pooled, plain]
        activations = fast.step(batch)
        for found, wanted in zip(activations, slow.look_up(batch), strict=True):
            torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
        slow.apply_gradients(batch, [helpers.gradient_of(each) for each in activations])
    after = fast.state()
    for key, value in slow.state.items():
        atol = max(1e-5, AMPLIFIED.get(name, 0.0))
        torch.testing.assert_close(after[key].double(), value, atol=atol, rtol=1e-5)
    assert not after["t.weight"][PADDING].any()
    assert not after["own.weight"][-1].any()


def test_on_the_device_a_row_that_was_loaded_is_neither_read_nor_changed() -> None:
    of = table(combiner="mean")
    features = {
        "pooled": tte.FeatureConfig(of),
        "dense": tte.FeatureConfig(of),
        "sequence": tte.FeatureConfig(of, max_sequence_length=2),
    }
    trained = tte.TPUEmbedding(features, 2, tte.Adagrad(0.5))
    on_cpu = tte.TPUEmbeddingForServing(features)
    weight = torch.arange(3.0 * V).view(V, 3) + 1.0
    for embedding in (trained, on_cpu):
        embedding.load_state_dict({"t.weight": weight}, strict=False)
    rows = tte.Ragged.from_lists([[PADDING, 1], [PADDING, PADDING]])
    batch = {"pooled": rows, "dense": torch.tensor([PADDING, 3]), "sequence": rows}
    before = trained.state_dict()
    trained.enqueue(batch)
    found, wanted = trained.dequeue(), on_cpu(batch)
    trained.apply_gradients({name: torch.ones_like(each) for name, each in found.items()})
    tte.runtime.sync()
    for name, each in wanted.items():
        torch.testing.assert_close(found[name].detach().cpu(), each)
    assert not found["sequence"].detach().cpu()[1].any()
    after = trained.state_dict()
    changed = [
        (after[key] != before[key]).any(1).nonzero()[:, 0].tolist() for key in before if "." in key
    ]
    assert changed == [[1, 3], [1, 3]]


@pytest.mark.parametrize("padding", [None, 0, 4, 9])
@pytest.mark.parametrize(
    "initializer", [None, torch.ones, tte.RowIdInitializer(1), torch.nn.init.ones_]
)
def test_the_row_starts_as_zeros_in_whichever_shard_it_lies(
    padding: int | None, initializer: object
) -> None:
    made = tte.TableConfig(10, 2, padding_idx=padding, initializer=initializer, name="t")  # type: ignore[arg-type]
    (of,) = resolve(tte.FeatureConfig(made), tte.Adagrad()).tables
    whole = table_values(of, 0)["weight"]
    assert [row for row in range(10) if not whole[row].any()] == (
        [] if padding is None else [padding]
    )
    for ids in (range(0, 10, 3), range(1, 10, 3), range(2, 10, 3), range(4, 8), range(0)):
        assert torch.equal(table_values(of, 0, ids)["weight"], whole[list(ids)])


def test_a_slot_function_sees_the_zeros_and_a_tensor_of_the_user_stays_as_it_is() -> None:
    mine = torch.ones(V, 3)
    seen = []

    def slots(
        weight: torch.Tensor, names: list[str], initializers: list[Callable[..., Any]]
    ) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
        seen.append(weight.clone())
        return {name: make(weight.shape) for name, make in zip(names, initializers, strict=True)}

    optimizer = tte.Adagrad(slot_variable_creation_fn=slots)
    made = table(initializer=lambda shape, dtype: mine, optimizer=optimizer)
    (of,) = resolve(tte.FeatureConfig(made), None).tables
    list(start_values(of, 0))
    assert seen[0].sum(1).tolist() == [3.0, 3.0, 0.0, 3.0, 3.0, 3.0]
    assert mine.all()


@settings(max_examples=20, deadline=None)
@given(rows_of_ids)
def test_the_exported_module_gives_the_same(rows: Rows) -> None:
    features = {name: tte.FeatureConfig(table(combiner=name, name=name)) for name in COMBINERS}
    features["sequence"] = tte.FeatureConfig(features["mean"].table, max_sequence_length=3)
    features["dense"] = tte.FeatureConfig(features["mean"].table)
    embedding = tte.TPUEmbeddingForServing(features)
    weight = torch.arange(3.0 * V).view(V, 3) + 1.0
    embedding.load_state_dict({f"{name}.weight": weight for name in COMBINERS}, strict=False)
    ids = tte.Ragged.from_lists(rows)
    inputs: dict[str, object] = dict.fromkeys(features, ids)
    inputs["dense"] = torch.tensor([PADDING, 0, 5, PADDING])
    module = tte.export_serving(embedding)
    exported = {
        k: (v.values, v.row_splits) if isinstance(v, tte.Ragged) else v for k, v in inputs.items()
    }
    found, wanted = module(exported), embedding(inputs)  # type: ignore[arg-type]
    for name, each in wanted.items():
        torch.testing.assert_close(found[name], each.detach())


@pytest.mark.parametrize("padding", [V, -V - 1, 1.0, True, "0", torch.tensor(1)])
def test_a_padding_idx_that_is_no_row_is_an_error_naming_it(padding: object) -> None:
    with pytest.raises(ValueError, match=r"^TableConfig: padding_idx must be .*got "):
        table(padding_idx=padding)


@pytest.mark.parametrize("module", [torch.nn.Embedding, torch.nn.EmbeddingBag])
def test_a_module_of_torch_with_another_padding_is_not_imported_in_silence(
    module: type[torch.nn.Embedding],
) -> None:
    made = module(V, 3, padding_idx=PADDING)
    for padding in (PADDING, PADDING - V):
        embedding = tte.TPUEmbeddingForServing(tte.FeatureConfig(table(padding_idx=padding)))
        checkpoint.import_modules(embedding, {"t": made})
        assert torch.equal(embedding.state_dict()["t.weight"], made.weight)
    for padding in (None, 0):
        embedding = tte.TPUEmbeddingForServing(tte.FeatureConfig(table(padding_idx=padding)))
        message = f"table 't': the module has padding_idx 2, the table {padding}; set it"
        with pytest.raises(ValueError, match=message):
            checkpoint.import_modules(embedding, {"t": made})
        checkpoint.import_modules(embedding, {"t": made.weight})
        checkpoint.import_modules(embedding, {"t": module(V, 3)})


@pytest.mark.parametrize("padding", [None, PADDING, -1])
def test_it_comes_back_from_json(padding: int | None) -> None:
    described = json.loads(
        json.dumps(tte.config_to_dict(tte.FeatureConfig(table(padding_idx=padding))))
    )
    assert tte.config_from_dict(described).table.padding_idx == padding
    for of in described["tables"]:
        del of["padding_idx"]  # as it was written before there was one
    assert tte.config_from_dict(described).table.padding_idx is None


def test_a_second_object_with_another_padding_does_not_share_the_tables() -> None:
    first = tte.TPUEmbedding(tte.FeatureConfig(table()), 2, tte.SGD())
    first.build()
    for padding, fits in ((PADDING, True), (PADDING - V, True), (None, False), (0, False)):
        features = tte.FeatureConfig(table(padding_idx=padding))
        if fits:
            tte.TPUEmbedding(features, 2, tte.SGD(), initialize_tpu_embedding=False)
        else:
            with pytest.raises(RuntimeError, match="no tables of this configuration"):
                tte.TPUEmbedding(features, 2, tte.SGD(), initialize_tpu_embedding=False)
