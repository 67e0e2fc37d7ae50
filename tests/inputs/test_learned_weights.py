"""Weights that require grad: gradients where the lookup is plain torch, one clear error on a device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import helpers
from models.keyed import Jagged, Keyed
from torch import Tensor

import torch_tpu_embedding as tte

COMBINERS = ("sum", "mean", "sqrtn")
ROWS = [[1, 2, 2], [], [3], [0, 4]]
PLACES = torch.tensor([[0, 0, 0, 2, 3, 3], [0, 1, 2, 0, 0, 1]])
FLAT, SPLITS = torch.tensor([1, 2, 2, 3, 0, 4]), torch.tensor([0, 3, 3, 4, 6])
Made = tuple[object, object]


def features(combiner: str = "sum", **options: object) -> dict[str, tte.FeatureConfig]:
    table = tte.TableConfig(5, 3, combiner=combiner, name="t")
    return {"f": tte.FeatureConfig(table, **options)}  # type: ignore[arg-type]


def ragged(weights: Tensor) -> Made:
    return tte.Ragged(FLAT, SPLITS), tte.Ragged(weights, SPLITS)


def jagged(weights: Tensor) -> Made:
    nested = torch.nested.nested_tensor_from_jagged
    return nested(FLAT, SPLITS), nested(weights, SPLITS)


def sparse(weights: Tensor) -> Made:
    return in_order(weights, torch.arange(6))


def sparse_unsorted(weights: Tensor) -> Made:
    return in_order(weights, torch.tensor([4, 2, 0, 5, 1, 3]))


def in_order(weights: Tensor, order: Tensor) -> Made:
    places, size = PLACES[:, order], (4, 3)
    ids = torch.sparse_coo_tensor(places, FLAT[order], size)
    return ids, torch.sparse_coo_tensor(places, weights[order], size)


def sparse_coalesced(weights: Tensor) -> Made:
    ids, of_ids = sparse_unsorted(weights)
    assert isinstance(ids, Tensor)
    assert isinstance(of_ids, Tensor)
    return ids.coalesce(), of_ids.coalesce()


def jagged_of_torchrec(weights: Tensor) -> Made:
    made = Jagged(FLAT.tolist(), SPLITS.diff().tolist())
    made._weights = weights
    return {"f": made}, None


def keyed_of_torchrec(weights: Tensor) -> Made:
    inverse = (["f"], [[0, 1, 2, 3]])
    made = Keyed("f", FLAT.tolist(), SPLITS.diff().tolist(), inverse=inverse)
    made._weights = weights
    return made, None


KINDS = [
    ragged,
    jagged,
    sparse,
    sparse_unsorted,
    sparse_coalesced,
    jagged_of_torchrec,
    keyed_of_torchrec,
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def inputs(made: Made) -> Made:
    """(features, weights) of a call."""
    ids, weights = made
    return (ids, None) if weights is None else ({"f": ids}, {"f": weights})


def call(embedding: tte.TPUEmbedding, made: Made) -> Tensor:
    out: Tensor = embedding(*inputs(made))["f"]
    return out


def expected(table: Tensor, weights: Tensor, combiner: str) -> Tensor:
    out, at = [], 0
    for row in ROWS:
        w = weights[at : at + len(row)]
        at += len(row)
        divisor = {"sum": 1.0, "mean": w.sum(), "sqrtn": (w * w).sum().sqrt()}[combiner]
        total = (table[row] * w[:, None]).sum(0)
        out.append(total / divisor if row else total)
    return torch.stack(out)


@each_kind
@pytest.mark.parametrize("combiner", COMBINERS)
def test_on_the_cpu_weights_get_the_gradient_of_the_definition(
    kind: Callable[[Tensor], Made], combiner: str
) -> None:
    embedding = tte.TPUEmbeddingForServing(features(combiner))
    (table,) = embedding.embedding_tables.values()
    coefficients = torch.linspace(-1, 1, 12).view(4, 3)
    gradients = []
    for find in (
        lambda w: call(embedding, kind(w)),
        lambda w: expected(table, w, combiner),
    ):
        weights = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 1.5], requires_grad=True)
        (find(weights) * coefficients).sum().backward()
        gradients.append(weights.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_bag_whose_weights_add_up_to_zero_gives_no_gradient_that_is_not_finite(
    combiner: str,
) -> None:
    embedding = tte.TPUEmbeddingForServing(features(combiner))
    weights = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.25, 1.5], requires_grad=True)
    call(embedding, ragged(weights)).sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_sparse_weights_at_one_place_are_an_error_for_torch_has_one_gradient_for_both() -> None:
    weights = torch.ones(2, requires_grad=True)
    places = torch.tensor([[0, 0], [1, 1]])
    ids = torch.sparse_coo_tensor(places, torch.tensor([1, 2]), (1, 2))
    made = ids, torch.sparse_coo_tensor(places, weights, (1, 2))
    with pytest.raises(
        ValueError, match=r"'f'.*two entries at one position.*ids and weights as Ragged"
    ):
        call(tte.TPUEmbeddingForServing(features()), made)


@pytest.fixture(scope="module")
def on_device() -> tte.TPUEmbedding:
    return tte.TPUEmbedding(features(), 4, tte.SGD())


@each_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_on_a_device_they_are_an_error_before_anything_is_sent(
    on_device: tte.TPUEmbedding,
    kind: Callable[[Tensor], Made],
    training: bool,
    mode: Callable[[], torch.no_grad],
) -> None:
    batch = inputs(kind(torch.ones(6, requires_grad=True)))
    message = (
        r"feature 'f' \(table 't'\): its weights require grad, .*detach their values, or, to learn"
    )
    with mode(), pytest.raises(ValueError, match=message):
        on_device.enqueue(*batch, training=training)
    with pytest.raises(RuntimeError, match="no batch waits"):
        on_device.dequeue()


@each_kind
def test_the_loader_raises_the_same_error_at_the_batch(
    on_device: tte.TPUEmbedding, kind: Callable[[Tensor], Made]
) -> None:
    batch = inputs(kind(torch.ones(6, requires_grad=True)))
    batches = tte.EmbeddingLoader(
        [batch], on_device, features=lambda b: b[0], weights=lambda b: b[1]
    )
    with pytest.raises(ValueError, match="its weights require grad"):
        next(iter(batches))


def test_both_remedies_of_the_error_work(on_device: tte.TPUEmbedding) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 1.5], requires_grad=True)
    served = tte.TPUEmbeddingForServing(features())
    served.load_state_dict(helpers.tensors(on_device), strict=False)
    wanted = call(served, ragged(weights))
    torch.testing.assert_close(
        call(on_device.eval(), ragged(weights.detach())).cpu(), wanted.detach()
    )

    padded = torch.zeros(4, 3).index_put((PLACES[0], PLACES[1]), weights)
    sequence = tte.TPUEmbeddingForServing(features(max_sequence_length=3))
    sequence.load_state_dict(served.state_dict())
    found = (sequence({"f": tte.Ragged(FLAT, SPLITS)})["f"] * padded[:, :, None]).sum(1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        *(
            torch.autograd.grad(each.square().sum(), weights, retain_graph=True)
            for each in (found, wanted)
        )
    )
