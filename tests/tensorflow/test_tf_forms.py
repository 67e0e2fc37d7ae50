"""Calls and names as users of TF's releases have them: each works, or says what to call instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte

USERS = tte.TableConfig(9, 4, name="users")
FEATURES = {"user": tte.FeatureConfig(USERS), "again": tte.FeatureConfig(USERS)}
CALL = r"the call is TPUEmbedding\(feature_config, batch_size, optimizer\)"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((FEATURES, tte.SGD()), {}, f"batch_size is missing, {CALL}; TF 2.4 and later have no"),
        ((FEATURES,), {"optimizer": tte.SGD()}, f"batch_size is missing, {CALL}; TF 2.4"),
        (
            (FEATURES, 3),
            {},
            f"optimizer is missing, {CALL}; optimizer=None is for tables that do not",
        ),
        ((FEATURES,), {}, f"batch_size and optimizer is missing, {CALL}"),
    ],
)
def test_a_call_without_batch_size_or_optimizer_says_what_the_call_is(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        tte.TPUEmbedding(*arguments, **options)


def test_build_takes_the_older_name_of_the_batch_size() -> None:
    embedding = tte.TPUEmbedding(FEATURES, 3, tte.SGD(), seed=1)
    embedding.build(per_replica_batch_size=3)
    with pytest.raises(ValueError, match="per_replica_input_shapes=4, but batch_size is 3"):
        embedding.build(per_replica_batch_size=4)
    with pytest.raises(
        ValueError, match="per_replica_input_shapes or per_replica_batch_size, not both"
    ):
        embedding.build({"user": [3], "again": [3]}, per_replica_batch_size=3)


def test_a_serving_object_has_its_lookup_under_tfs_name() -> None:
    serving = tte.TPUEmbeddingForServing(FEATURES)
    features = {"user": tte.Ragged.from_lists([[1, 2], []])}
    weights = {"user": tte.Ragged.from_lists([[0.5, 2.0], []])}
    found = serving.embedding_lookup(features, weights)
    assert torch.equal(found["user"], serving(features, weights)["user"])


@pytest.mark.parametrize("inputs", [{}, {"all": {}}])
def test_serving_no_feature_at_all_names_those_that_there_are(inputs: dict[str, Any]) -> None:
    serving = tte.TPUEmbeddingForServing({"all": FEATURES})
    message = r"features: the inputs hold none; give at least one of \['all/again', 'all/user'\]"
    with pytest.raises(ValueError, match=message):
        serving(inputs)


@pytest.mark.parametrize(
    ("clipvalue", "bounds"),
    [(None, (None, None)), (2.0, (-2.0, 2.0)), ((-1.0, None), (-1.0, None))],
)
def test_an_optimizer_shows_its_gradient_bounds_under_tfs_names(
    clipvalue: Any, bounds: tuple[float | None, float | None]
) -> None:
    for kind in (tte.SGD, tte.Adagrad, tte.AdagradMomentum, tte.Adam, tte.FTRL):
        optimizer = kind(clipvalue=clipvalue)
        assert (optimizer.clip_gradient_min, optimizer.clip_gradient_max) == bounds


@pytest.mark.parametrize("eps", [1e-10, 1e-8])
def test_torchs_adagrad_is_ours_with_the_square_of_its_epsilon_as_start_value(eps: float) -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 8).view(2, 4))
    theirs = torch.optim.Adagrad([weight], lr=0.1, eps=eps)
    ours, held = tte.Adagrad(0.1, initial_accumulator_value=eps**2), weight.detach().clone()
    slots = {"accumulators": torch.full_like(held, eps**2)}
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        gradient = torch.randn(2, 4, generator=generator)
        gradient[0, :2] = 0.0 if step < 2 else gradient[0, :2]  # and elements that come in late
        weight.grad = gradient
        theirs.step()
        change, slot_changes = ours.step(held, slots, gradient, torch.tensor([0.1]))
        held += change
        slots["accumulators"] += slot_changes["accumulators"]
        torch.testing.assert_close(held, weight.detach(), rtol=1e-6, atol=1e-6)
    sums = theirs.state[weight]["sum"]
    torch.testing.assert_close(slots["accumulators"], sums, rtol=1e-6, atol=1e-12)
