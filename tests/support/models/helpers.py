"""The golden fixture of TF's own tests, and inputs in every form."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.reference import Sample

KINDS = ("ragged", "sparse", "jagged")


def arange_table(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The start values of TF's fixture: 0, 1, 2, … row by row."""
    return torch.arange(torch.Size(shape).numel(), dtype=dtype).reshape(shape)


def golden_config() -> tuple[tte.FeatureConfig, ...]:
    """Two features on 'video' (8 x 4, sum), one on 'user' (16 x 2, mean)."""
    video = tte.TableConfig(8, 4, initializer=arange_table, combiner="sum", name="video")
    user = tte.TableConfig(16, 2, initializer=arange_table, combiner="mean", name="user")
    return (
        tte.FeatureConfig(video, name="watched"),
        tte.FeatureConfig(video, name="favorited"),
        tte.FeatureConfig(user, name="friends"),
    )


GOLDEN_IDS = (
    [[0], [0, 1], [0, 1], [1]],
    [[0, 1], [1], [0], [0, 1]],
    [[3], [0, 1, 2], [3], [0, 1, 2]],
)


def as_kind(rows: Sequence[Sequence[float]], kind: str, dtype: torch.dtype = torch.int64) -> object:
    """One feature's samples as Ragged, sparse COO or jagged nested tensor."""
    if kind == "ragged":
        return tte.Ragged.from_lists(rows, dtype=dtype)
    if kind == "jagged":
        return torch.nested.nested_tensor(
            [torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged
        )
    places = [(b, j) for b, row in enumerate(rows) for j in range(len(row))]
    indices = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T
    values = torch.tensor([v for row in rows for v in row], dtype=dtype)
    width = max([1, *(len(row) for row in rows)])
    return torch.sparse_coo_tensor(indices, values, (len(rows), width))


def as_inputs(batch: Sequence[Sequence[Sample]], kind: str) -> tuple[list[object], list[object]]:
    """The reference's batch as `features` and `weights` of enqueue, one per feature."""
    ids = [as_kind([[i for i, _ in row] for row in rows], kind) for rows in batch]
    weights = [
        as_kind([[w for _, w in row] for row in rows], kind, torch.float32) for rows in batch
    ]
    return ids, weights


def tensors(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    """Tables and slots as the device holds them."""
    state = embedding.state_dict()
    return {key: value for key, value in state.items() if key != "_extra_state"}


def train_step(
    embedding: tte.TPUEmbedding,
    features: object,
    weights: object = None,
    gradients: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """One step of a config that is a flat list or tuple; gives the activations on the host.

    The loss is Σ a·c/2·a with fixed coefficients, or the gradients given.
    """
    embedding.enqueue(features, weights)
    activations = embedding.dequeue()
    tte.runtime.sync()  # one program for all of them, not one per fetch
    out = [each.detach().cpu() for each in activations]
    if gradients is None:
        gradients = [gradient_of(each) for each in out]
    embedding.apply_gradients(type(activations)(each.to(embedding.device) for each in gradients))
    tte.runtime.sync()
    return out


def gradient_of(activation: Tensor) -> Tensor:
    """A gradient that depends on the activation and differs from element to element."""
    coefficients = torch.linspace(0.5, 1.5, activation.numel()).reshape(activation.shape)
    return activation * coefficients.to(activation.dtype) + 0.1


def clone_into(embedding: tte.TPUEmbedding, state: dict[str, Tensor]) -> None:
    """Reset tables and slots to `state`."""
    embedding.load_state_dict(copy.copy(state))


def flatten(rows: Sequence[Sequence[int]]) -> list[int]:
    """All ids of all samples."""
    return list(itertools.chain.from_iterable(rows))
