"""One step of TF's own test fixture gives TF's own numbers."""

from __future__ import annotations

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte

LAYOUTS = ("CPU", "TPU")
ROOT = 0.1 / 0.001**0.5  # Adam's first step: m/√v = 0.1g/√(0.001g²)

ACTIVATIONS = (
    [[0, 1, 2, 3], [4, 6, 8, 10], [4, 6, 8, 10], [4, 5, 6, 7]],
    [[4, 6, 8, 10], [4, 5, 6, 7], [0, 1, 2, 3], [4, 6, 8, 10]],
    [[6, 7], [2, 3], [6, 7], [2, 3]],
)
VIDEO_GRADIENT = torch.tensor([[8.0, 13, 18, 23], [12, 17, 22, 27]])
USER_GRADIENT = torch.tensor([[2 / 3, 1.0], [2 / 3, 1], [2 / 3, 1], [6, 7]])
VIDEO = torch.arange(8.0).reshape(2, 4)
USER = torch.arange(8.0).reshape(4, 2)

EXPECTED: dict[
    str, tuple[tte.optimizers.Optimizer, float, dict[str, list[list[float]] | Tensor]]
] = {
    "sgd": (
        tte.SGD(0.1),
        1e-6,
        {
            "video.weight": [[-0.8, -0.3, 0.2, 0.7], [2.8, 3.3, 3.8, 4.3]],
            "user.weight": [[-0.066667, 0.9], [1.933333, 2.9], [3.933333, 4.9], [5.4, 6.3]],
        },
    ),
    "adagrad": (
        tte.Adagrad(0.1),
        1e-6,
        {
            "video.weight": [
                [-0.099922, 0.90003, 1.900015, 2.900009],
                [3.900035, 4.900017, 5.90001, 6.900007],
            ],
            "video.accumulators": [[64.1, 169.1, 324.1, 529.1], [144.1, 289.1, 484.1, 729.1]],
            "user.weight": [
                [-0.090351, 0.904654],
                [1.909649, 2.904654],
                [3.909649, 4.904654],
                [5.900139, 6.900102],
            ],
            "user.accumulators": [[0.544444, 1.1]] * 3 + [[36.1, 49.1]],
        },
    ),
    "adam": (
        tte.Adam(0.1),
        1e-4,
        {
            "video.weight": VIDEO - 0.1 * ROOT,
            "video.momenta": VIDEO_GRADIENT * 0.1,
            "video.velocities": VIDEO_GRADIENT**2 * 0.001,
            "user.weight": USER - 0.1 * ROOT,
            "user.momenta": USER_GRADIENT * 0.1,
            "user.velocities": USER_GRADIENT**2 * 0.001,
        },
    ),
}


def step(
    optimizer: tte.optimizers.Optimizer, kind: str, layout: str
) -> tuple[object, float, dict[str, Tensor], dict[str, Tensor]]:
    """The fixture's loss for two replicas of two samples, summed: Σ over features of |a|² / 4."""
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, optimizer, layout=layout)
    before = helpers.tensors(embedding)
    embedding.enqueue(tuple(helpers.as_kind(rows, kind) for rows in helpers.GOLDEN_IDS))
    activations = embedding.dequeue()
    loss = sum((each**2).sum() / 4 for each in activations)
    loss.backward()
    embedding.apply_gradients()
    tte.runtime.sync()
    held = [each.detach().cpu() for each in activations]
    return held, float(loss.detach()), before, helpers.tensors(embedding)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", helpers.KINDS)
@pytest.mark.parametrize("name", EXPECTED)
def test_one_step_gives_the_golden_activations_loss_tables_and_slots(
    name: str, kind: str, layout: str
) -> None:
    optimizer, tolerance, expected = EXPECTED[name]
    activations, loss, before, after = step(optimizer, kind, layout)
    for found, wanted in zip(activations, ACTIVATIONS, strict=True):
        torch.testing.assert_close(
            found, torch.tensor(wanted, dtype=torch.float32), rtol=1e-6, atol=1e-6
        )
    assert loss == pytest.approx(335.0, rel=1e-6)
    assert set(expected) == set(after)
    for key, wanted in expected.items():
        rows = torch.as_tensor(wanted)
        torch.testing.assert_close(
            after[key][: len(rows)],
            rows,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, key=key: f"{key}: {m}",
        )
        assert torch.equal(after[key][len(rows) :], before[key][len(rows) :]), (
            f"{key}: untouched rows"
        )


@pytest.mark.parametrize("name", EXPECTED)
def test_an_inference_batch_gives_the_same_activations_and_changes_nothing(name: str) -> None:
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, EXPECTED[name][0])
    before = helpers.tensors(embedding)
    embedding.enqueue(
        tuple(helpers.as_kind(rows, "ragged") for rows in helpers.GOLDEN_IDS), training=False
    )
    activations = embedding.dequeue()
    assert not any(each.requires_grad for each in activations)
    for found, wanted in zip(activations, ACTIVATIONS, strict=True):
        torch.testing.assert_close(found.cpu(), torch.tensor(wanted, dtype=torch.float32))
    tte.runtime.sync()
    after = helpers.tensors(embedding)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_scheduled_learning_rate_is_read_at_each_apply() -> None:
    """TF's test_variable_learning_rate: the k-th activation is minus the sum of the rates so far."""
    steps = iter(range(10))
    table = tte.TableConfig(
        2, 1, initializer=torch.zeros, combiner="sum",
        optimizer=tte.SGD(lambda: max(0.5, 1 - 0.05 * next(steps))),
    )  # fmt: skip
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 1, None)
    seen = []
    for _ in range(10):
        (activation,) = helpers.train_step(
            embedding, [torch.tensor([0])], gradients=[torch.ones(1, 1)]
        )
        seen.append(float(activation))
    wanted = [0, 1, 1.95, 2.85, 3.7, 4.5, 5.25, 5.95, 6.6, 7.2]
    assert seen == pytest.approx([-each for each in wanted], abs=1e-5)
