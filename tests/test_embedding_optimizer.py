"""EmbeddingOptimizer: schedulers, clipping and checkpoints as with any torch optimizer."""

from __future__ import annotations

import helpers
import pytest
import torch

import torch_tpu_embedding as tte


def setup(
    rate: object = 0.1,
) -> tuple[tte.TPUEmbedding, tte.EmbeddingOptimizer, tuple[object, ...]]:
    embedding = tte.TPUEmbedding(helpers.golden_config(), 4, tte.SGD(rate))
    features = tuple(helpers.as_kind(rows, "ragged") for rows in helpers.GOLDEN_IDS)
    return embedding, tte.EmbeddingOptimizer(embedding), features


def backward(activations: tuple[torch.Tensor, ...]) -> None:
    sum((each**2).sum() / 4 for each in activations).backward()


def test_the_short_form_equals_enqueue_dequeue_apply() -> None:
    embedding, optimizer, features = setup()
    optimizer.zero_grad()
    activations = embedding(features)
    optimizer.zero_grad()  # between forward and backward, as many scripts do
    backward(activations)
    optimizer.step()
    tte.runtime.sync()
    found = helpers.tensors(embedding)["user.weight"]
    wanted = torch.tensor([[-0.066667, 0.9], [1.933333, 2.9], [3.933333, 4.9], [5.4, 6.3]])
    torch.testing.assert_close(found[:4], wanted, rtol=1e-5, atol=1e-6)


def test_a_torch_scheduler_sets_the_rate_of_each_table() -> None:
    embedding, optimizer, features = setup()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda k: 0.5**k, lambda k: 0.0])
    before = helpers.tensors(embedding)
    for _ in range(2):
        backward(embedding(features))
        optimizer.step()
        scheduler.step()
    tte.runtime.sync()
    after = helpers.tensors(embedding)
    assert torch.equal(after["user.weight"], before["user.weight"]), "its rate is 0"
    assert not torch.equal(after["video.weight"], before["video.weight"])
    assert scheduler.get_last_lr() == [0.025, 0.0]


def test_clipping_the_norm_of_a_group_clips_what_its_table_gets() -> None:
    embedding, optimizer, features = setup()
    before = helpers.tensors(embedding)
    backward(embedding(features))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[1]["params"], 1e-3)
    optimizer.step()
    tte.runtime.sync()
    after = helpers.tensors(embedding)
    assert float((after["user.weight"] - before["user.weight"]).norm()) <= 0.1 * 2e-3
    assert float((after["video.weight"] - before["video.weight"]).norm()) > 1
    assert all(group["params"] == [] for group in optimizer.param_groups)


def test_a_callable_rate_is_kept_shown_and_not_to_be_set() -> None:
    rates = iter([0.5, 0.25, 0.125, 0.0625])
    embedding, optimizer, features = setup(lambda: next(rates))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5], "called once for both"
    backward(embedding(features))
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
    backward(embedding(features))
    optimizer.param_groups[0]["lr"] = 1.0
    with pytest.raises(
        ValueError, match=r"lr of table 'video' was set to 1.0, but .* is a callable"
    ):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    tte.runtime.sync()


@pytest.mark.parametrize("bad", [float("nan"), "fast"])
def test_a_rate_that_is_no_finite_number_is_refused(bad: object) -> None:
    embedding, optimizer, features = setup()
    before = helpers.tensors(embedding)
    backward(embedding(features))
    optimizer.param_groups[1]["lr"] = bad
    with pytest.raises(ValueError, match="table 'user': learning rate must be"):
        optimizer.step()
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    tte.runtime.sync()
    assert torch.equal(helpers.tensors(embedding)["user.weight"], before["user.weight"])


def test_its_state_dict_restores_the_rates() -> None:
    _, optimizer, _ = setup()
    optimizer.param_groups[1]["lr"] = 0.7
    state = optimizer.state_dict()
    _, other, _ = setup()
    other.load_state_dict(state)
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.7]
    state["param_groups"][0]["name"] = "elsewhere"
    with pytest.raises(ValueError, match=r"of tables \['elsewhere', 'user'\]"):
        other.load_state_dict(state)


def test_a_closure_is_evaluated_and_its_value_returned() -> None:
    embedding, optimizer, features = setup()

    def closure() -> str:
        backward(embedding(features))
        return "loss"

    assert optimizer.step(closure) == "loss"
    tte.runtime.sync()


def test_step_without_a_batch_says_what_to_do() -> None:
    _, optimizer, _ = setup()
    with pytest.raises(
        RuntimeError, match="no training batch was dequeued; call enqueue and dequeue"
    ):
        optimizer.step()
