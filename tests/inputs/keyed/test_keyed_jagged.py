"""TorchRec's KeyedJaggedTensor and JaggedTensor as inputs, by stand-ins that have their methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.keyed import Jagged, Keyed
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.inputs.keyed_jagged import holds_jagged, split_jagged

TABLE = tte.TableConfig(8, 2, combiner="sum", initializer=tte.RowIdInitializer(1), name="t")


def served(**features: tte.FeatureConfig) -> tte.TPUEmbeddingForServing:
    return tte.TPUEmbeddingForServing(features or {key: tte.FeatureConfig(TABLE) for key in "ab"})


def column(activations: dict[str, Tensor]) -> dict[str, list[float]]:
    return {key: each[..., 0].tolist() for key, each in activations.items()}


PLAIN = Keyed("ab", [1, 2, 3, 4], [1, 1, 0, 2])
WEIGHTED = Keyed("ab", [1, 2, 3, 4], [1, 1, 0, 2], [1.0, 2.0, 3.0, 4.0])


def test_keys_become_features_with_their_weights_in_any_nest() -> None:
    assert column(served()(PLAIN)) == {"a": [2, 3], "b": [0, 9]}
    assert column(served()(WEIGHTED)) == {"a": [2, 6], "b": [0, 32]}
    nested = tte.TPUEmbeddingForServing(
        ({key: tte.FeatureConfig(TABLE) for key in "ab"}, [tte.FeatureConfig(TABLE)])
    )
    keyed, (dense,) = nested((WEIGHTED, [torch.tensor([7, 0])]))
    assert column(keyed) == {"a": [2, 6], "b": [0, 32]}
    assert dense[:, 0].tolist() == [8, 1]


@pytest.mark.parametrize("keyed", [PLAIN, WEIGHTED], ids=["plain", "weighted"])
def test_its_dict_of_jagged_tensors_gives_the_same(keyed: Keyed) -> None:
    wanted = column(served()(keyed))
    assert column(served()(keyed.to_dict())) == wanted
    assert column(served()({**keyed.to_dict(), "a": keyed["a"]})) == wanted


def test_on_the_device_it_trains_as_the_ragged_features_it_holds() -> None:
    ragged, weights = split_jagged(WEIGHTED)
    embedding = tte.TPUEmbedding({key: tte.FeatureConfig(TABLE) for key in "ab"}, 2, tte.SGD(0.5))
    start, states = embedding.state_dict(), []
    for batch, given in ((WEIGHTED, None), (WEIGHTED.to_dict(), None), (ragged, weights)):
        embedding.load_state_dict(start)
        embedding.enqueue(batch, given)
        rows = embedding.dequeue()
        embedding.apply_gradients({key: torch.ones_like(each) for key, each in rows.items()})
        states.append(embedding.state_dict()["t.weight"])
    assert not torch.equal(states[0], start["t.weight"])
    assert torch.equal(states[0], states[2])
    assert torch.equal(states[1], states[2])


def test_a_feature_that_is_not_weighted_leaves_its_weights_out() -> None:
    config = {
        "a": tte.FeatureConfig(TABLE, is_weighted=False),
        "b": tte.FeatureConfig(TABLE, is_weighted=False, max_sequence_length=2),
    }
    for keyed in (WEIGHTED, WEIGHTED.to_dict()):
        assert column(served(**config)(keyed)) == {"a": [2, 3], "b": [[0, 0], [4, 5]]}
    restored = tte.config_from_dict(tte.config_to_dict(config))
    assert [restored[key].is_weighted for key in "ab"] == [False, False]
    dense = {"a": tte.FeatureConfig(TABLE, is_weighted=False)}
    assert column(served(**dense)({"a": torch.tensor([3])}, {"a": torch.ones(1)})) == {"a": [4]}
    ids, weights = PLAIN["a"], torch.tensor([5.0, 6.0])
    exported = tte.export_serving(served(**dense))({"a": (ids.values(), ids.offsets(), weights)})
    assert column(exported) == {"a": [2, 3]}
    with pytest.raises(ValueError, match="is_weighted must be a bool, got 0"):
        tte.FeatureConfig(TABLE, is_weighted=0)


def test_weights_of_a_sequence_are_an_error_whose_remedy_works() -> None:
    weighted = {
        "a": tte.FeatureConfig(TABLE),
        "b": tte.FeatureConfig(TABLE, max_sequence_length=2),
    }
    with pytest.raises(
        ValueError, match=r"'b'.*sequence.*set is_weighted=False in its FeatureConfig"
    ):
        served(**weighted)(WEIGHTED)
    weighted["b"] = tte.FeatureConfig(TABLE, max_sequence_length=2, is_weighted=False)
    assert column(served(**weighted)(WEIGHTED)) == {"a": [2, 6], "b": [[0, 0], [4, 5]]}


def test_inverse_indices_say_which_sample_each_of_the_batch_is() -> None:
    inverse = (["b", "a"], [[1, 1, 0], [0, 1, 0]])
    expanded = Keyed("ab", [1, 2, 3, 4], [1, 1, 0, 2], [1.0, 2.0, 3.0, 4.0], inverse)
    assert column(served()(expanded)) == {"a": [2, 6, 2], "b": [32, 32, 0]}
    varying = Keyed("ab", [1, 2, 3], [2, 0, 1], None, (["a", "b"], [[0, 0], [1, 0]]), [1, 2])
    assert column(served()(varying)) == {"a": [5, 5], "b": [4, 0]}
    embedding = tte.TPUEmbedding({key: tte.FeatureConfig(TABLE) for key in "ab"}, 3, None).eval()
    assert column({k: v.cpu() for k, v in embedding(expanded).items()}) == column(
        served()(expanded)
    )


def test_some_of_the_keys_can_be_served() -> None:
    some = Keyed("b", [3, 4], [0, 2])
    assert column(served()(some)) == {"b": [0, 9]}
    assert column(served()(some.to_dict())) == {"b": [0, 9]}


@pytest.mark.parametrize("on_device", [False, True])
def test_keys_without_a_feature_are_an_error_whose_remedy_works(on_device: bool) -> None:
    features: Any = Keyed("cab", [9, 1, 2, 3, 4], [1, 0, 1, 1, 0, 2])
    feature_config = {key: tte.FeatureConfig(TABLE) for key in "ab"}
    embedding = tte.TPUEmbedding(
        feature_config, 2, None, device=None if on_device else "cpu"
    ).eval()
    with pytest.raises(ValueError, match=r"unexpected \['c'\]; leave others out by (.*)") as error:
        embedding(features)
    remedy = str(error.value).partition("leave others out by ")[2]
    chosen = eval(remedy, {"features": features, "feature_config": feature_config})
    assert column({k: v.cpu() for k, v in embedding(chosen).items()}) == {"a": [2, 3], "b": [0, 9]}


def on_meta(method: str) -> Keyed:
    keyed = Keyed("ab", [1, 2, 3, 4], [1, 1, 0, 2], [1.0, 2.0, 3.0, 4.0])
    moved = getattr(keyed, method)().to("meta")
    setattr(keyed, method, lambda: moved)
    return keyed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Keyed("ab", [1, 2, 3], [1, 0, 0, 1]),
            "cover the values from 0 to 2, but it has 3",
        ),
        (lambda: Keyed("ab", [1], [1, 0, 0, 1]), "cover the values from 0 to 2, but it has 1"),
        (lambda: Keyed("aa", [1, 2], [1, 1]), "key 'a' is there twice"),
        (lambda: Keyed("ab", [1, 2, 3], [1, 1, 1]), "3 lengths, but its 2 keys have 2 samples"),
        (lambda: Keyed("ab", [1, 2], [1, 1], [1.0]), "1 weights for 2 values"),
        (lambda: Keyed("ab", [1, 2], [1, 1], [1.0] * 3), "3 weights for 2 values"),
        (lambda: Keyed("ab", [1, 2, 3], [1, 1, 1], strides=[1, 2]), "the same number of samples"),
        (
            lambda: Keyed("ab", [1, 2], [1, 1], inverse=(["a"], [[0]])),
            "do not have one row for each",
        ),
        (
            lambda: Keyed("ab", [1, 2], [1, 1], inverse=(["a", "b"], [[0, 0]])),
            "do not have one row",
        ),
        (
            lambda: Keyed("ab", [1, 2], [1, 1], inverse=(["a", "b"], [[0, 0], [0, 1]])),
            "inverse_indices of key 'b' have 1 for sample 1, but that key has 1 samples",
        ),
        (lambda: on_meta("values"), "must be a host .* on meta"),
        (lambda: on_meta("offsets"), "must be a host .* on meta"),
        (lambda: on_meta("weights_or_none"), "must be a host .* on meta"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_an_error(
    make: Callable[[], Keyed], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^KeyedJaggedTensor: .*{message}"):
        served()(make())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Jagged([1, 2, 3], [1, 1]), "cover the values from 0 to 2, but it has 3"),
        (Jagged([1, 2, 3], [1, 1], offsets=[1, 2, 3]), "cover the values from 1 to 3"),
        (Jagged([1, 2, 3], [1, 1], offsets=[0, 2, 3]), "lengths are not those of its offsets"),
        (Jagged([1, 2], [1, 1], [1.0]), "1 weights for 2 values"),
    ],
    ids=range(4),
)
def test_a_jagged_tensor_whose_parts_do_not_fit_is_an_error(value: Jagged, message: str) -> None:
    with pytest.raises(ValueError, match=f"^JaggedTensor at 'b': .*{message}"):
        served()({"a": PLAIN["a"], "b": value})


def test_weights_beside_it_are_an_error() -> None:
    for features in (
        PLAIN,
        PLAIN.to_dict(),
        {**PLAIN.to_dict(), "a": tte.Ragged.from_lists([[1], [2]])},
    ):
        with pytest.raises(ValueError, match="beside a KeyedJaggedTensor, which brings its own"):
            served()(features, {"a": None, "b": None})


def test_a_batch_of_no_sample_is_one() -> None:
    empty = Keyed("ab", [], [])
    assert column(served()(empty)) == {"a": [], "b": []}
    nothing = Jagged([], [], offsets=[])
    assert column(served()({"a": nothing, "b": nothing})) == {"a": [], "b": []}


def test_ordinary_features_are_left_as_they_are() -> None:
    ragged, dense = tte.Ragged.from_lists([[1]]), torch.tensor([1])
    jagged = torch.nested.nested_tensor([dense], layout=torch.jagged)
    assert not holds_jagged({"a": [ragged, (dense, jagged)], "b": None, "c": {"d": 3}})
