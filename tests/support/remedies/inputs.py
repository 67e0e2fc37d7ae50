"""The cases that are about the input of a feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from remedies.cases import BAGS, IDS, WEIGHTS, Step, lists, make, says, serve, train
from torch import Tensor

SEQUENCE = {"max_sequence_length": 2}


def sparse(indices: list[list[int]], values: Any, shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor(indices).T, torch.tensor(values), shape)


@says(
    r"weights were given for a dense feature.*; pass None for its weights, or the ids as Ragged or sparse"
)
def dense_weights(_: Path) -> tuple[Step, ...]:
    places = [[0, 0], [1, 0]]
    return (
        lambda: serve(IDS, torch.ones(2)),
        lambda: serve(IDS, None),
        lambda: serve(lists([1], [2]), lists([1.0], [1.0])),
        lambda: serve(sparse(places, [1, 2], (2, 1)), sparse(places, [1.0, 1.0], (2, 1))),
    )


@says(r"weights were given for a sequence feature.*; pass None for its weights")
def sequence_weights(_: Path) -> tuple[Step, ...]:
    return (
        lambda: serve(BAGS, WEIGHTS, feature=SEQUENCE),
        lambda: serve(BAGS, None, feature=SEQUENCE),
    )


@says(r"a sequence feature .* takes Ragged, jagged or sparse ids, got a dense tensor")
def dense_sequence(_: Path) -> tuple[Step, ...]:
    jagged = torch.nested.nested_tensor(
        [torch.tensor([1, 2]), torch.tensor([3])], layout=torch.jagged
    )
    return (
        lambda: serve(IDS, feature=SEQUENCE),
        lambda: serve(BAGS, feature=SEQUENCE),
        lambda: serve(jagged, feature=SEQUENCE),
        lambda: serve(sparse([[0, 0], [1, 0]], [1, 2], (2, 2)), feature=SEQUENCE),
    )


@says(
    r"a ragged input of 5 rows cannot fill the output shape \[2, 2\]: it needs 4 rows to combine, or a"
)
def rows_of_a_shape(_: Path) -> tuple[Step, ...]:
    shape = {"output_shape": [2, 2]}

    def rows(count: int) -> Step:
        return lambda: serve(lists(*([[1]] * count)), feature=shape)

    return rows(5), rows(4), rows(2)


@says(r"got rank 3; set max_sequence_length=0 to combine the last dimension")
def sparse_rank(_: Path) -> tuple[Step, ...]:
    ids = sparse([[0, 0, 0], [1, 1, 1]], [1, 2], (2, 2, 2))
    return (
        lambda: serve(ids, feature=SEQUENCE),
        lambda: serve(ids, feature={"max_sequence_length": 0}),
    )


@says(r"cancel to .*, too little to divide by for combiner 'mean'; use 'sum' or larger weights")
def cancelling(_: Path) -> tuple[Step, ...]:
    ids, weights = lists([1, 2, 3]), lists([1e20, -1e20, 1e-25], dtype=torch.float64)
    return (
        lambda: serve(ids, weights, combiner="mean"),
        lambda: serve(ids, weights, combiner="sum"),
        lambda: serve(ids, lists([2.0, 1.0, 3.0]), combiner="mean"),
    )


@says(
    r"id 99 .* is outside \[0, 9\).*; correct the ids, raise vocabulary_size, or choose id_bounds='drop'"
)
def outside(_: Path) -> tuple[Step, ...]:
    bad = {"f": torch.tensor([1, 99])}
    return (
        lambda: make(device="cpu")(bad),
        lambda: make(device="cpu")({"f": bad["f"].clamp(max=8)}),
        lambda: serve(bad["f"], vocabulary_size=100),
        lambda: make(device="cpu", id_bounds="drop")(bad),
        lambda: make(device="cpu", id_bounds="warn_and_drop")(bad),
    )


@says(
    r"a dense feature must have shape .*; add a last dimension of 1 for several activations per sample, or"
)
def dense_shape(_: Path) -> tuple[Step, ...]:
    ids = torch.tensor([[1, 2], [3, 4]])
    return (
        lambda: serve(ids),
        lambda: serve(ids[..., None]),
        lambda: serve(lists([1, 2], [3, 4])),
        lambda: serve(ids.to_sparse()),
    )


@says(r"two ids at sample 0, position 0 of a sequence feature; give each entry .* its own column")
def one_column(_: Path) -> tuple[Step, ...]:
    return (
        lambda: serve(sparse([[0, 0], [0, 0]], [1, 2], (2, 2)), feature=SEQUENCE),
        lambda: serve(sparse([[0, 0], [0, 1]], [1, 2], (2, 2)), feature=SEQUENCE),
    )


@says(
    r"ids must be integers \(int64 or int32\), got torch.float32; convert them with .to\(torch.int64\)"
)
def float_ids(_: Path) -> tuple[Step, ...]:
    ids = torch.tensor([1.0, 2.0])
    return lambda: serve(ids), lambda: serve(ids.to(torch.int64))


@says(
    r"input must be a host \(CPU\) tensor, got one on .*; leave ids on the CPU, enqueue moves what the"
)
def ids_on_the_device(_: Path) -> tuple[Step, ...]:
    embedding = make()
    on_device = {"f": IDS.to(embedding.device)}
    return lambda: embedding.enqueue(on_device), lambda: train(embedding)


@says(r"weights must have the row splits of the ids: sample 0 has 2 ids and 1 weights")
def other_splits(_: Path) -> tuple[Step, ...]:
    return lambda: serve(BAGS, lists([1.0], [2.0, 3.0])), lambda: serve(BAGS, WEIGHTS)


@says(r"weights must be a Ragged or jagged tensor, the kind of its ids, got Tensor")
def other_kind(_: Path) -> tuple[Step, ...]:
    return lambda: serve(BAGS, torch.ones(3)), lambda: serve(BAGS, WEIGHTS)


@says(
    r"weight nan at sample 0, position 0 is not finite in float32; clean the weights before enqueue"
)
def nan_weight(_: Path) -> tuple[Step, ...]:
    weights = lists([float("nan"), 2.0], [3.0])
    clean = type(weights)(weights.values.nan_to_num(), weights.row_splits)
    return lambda: serve(BAGS, weights), lambda: serve(BAGS, clean)


@says(r"features must have the keys of feature_config: missing \['f'\], unexpected \['g'\]")
def other_keys(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return lambda: embedding.enqueue({"g": IDS}), lambda: embedding.enqueue({"f": IDS})


@says(r"features: the inputs hold none; give at least one of \['f'\]")
def no_inputs(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    return lambda: embedding({}), lambda: embedding({"f": IDS})
