"""EmbeddingOptimizer: schedulers, clipping and checkpoints as with any torch optimizer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import helpers

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


@pytest.mark.parametrize("negative", [-0.5, lambda: -0.5])
def test_a_negative_rate_is_refused_at_construction_and_at_the_step(negative: object) -> None:
    embedding, optimizer, features = setup()
    before = helpers.tensors(embedding)
    backward(embedding(features))
    optimizer.param_groups[1]["lr"] = -0.1
    with pytest.raises(ValueError, match=r"of table 'user' must be at least 0, got -0.1; to climb"):
        optimizer.step()
    embedding.discard()
    assert torch.equal(helpers.tensors(embedding)["user.weight"], before["user.weight"])
    with pytest.raises(ValueError, match=r"of table 'video' must be at least 0, got -0.5"):
        setup(negative)


def test_the_sign_of_the_loss_turned_climbs() -> None:
    embedding, optimizer, features = setup()
    before = helpers.tensors(embedding)["user.weight"]
    (-sum(each.sum() for each in embedding(features))).backward()
    optimizer.step()
    tte.runtime.sync()
    assert float((helpers.tensors(embedding)["user.weight"] - before).sum()) > 0


def test_it_takes_no_further_group_and_no_other_params() -> None:
    embedding, optimizer, features = setup()
    extra = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="one group for each table and takes no other"):
        optimizer.add_param_group({"params": [extra]})
    with pytest.raises(
        ValueError, match="the params of table 'user' are the activations of the step"
    ):
        optimizer.param_groups[1]["params"] = [extra]
    optimizer.param_groups[1][
        "params"
    ] = []  # as wrappers do that exchange parameters for their like
    backward(embedding(features))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    optimizer.step()
    tte.runtime.sync()


@pytest.mark.parametrize("setting", ["weight_decay", "momentum", "betas", "eps", "maximize"])
def test_a_setting_that_no_update_would_heed_is_refused_at_once(setting: str) -> None:
    _, optimizer, _ = setup()
    wanted = f"the group of table 'user' has no {setting}; the optimizer of the table sets how"
    with pytest.raises(ValueError, match=wanted):
        optimizer.param_groups[1][setting] = 0.01
    with pytest.raises(ValueError, match=wanted):
        optimizer.param_groups[1].update({setting: 0.01})
    state = optimizer.state_dict()
    state["param_groups"][1] |= {"lr": 0.7, setting: 0.01}
    with pytest.raises(ValueError, match=wanted):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[1]["lr"] == 0.1, "nothing of a refused state is taken"


def test_the_setting_named_instead_of_weight_decay_decays() -> None:
    table = tte.TableConfig(4, 2, name="t", optimizer=tte.Adam(0.0, weight_decay_factor=0.01))
    embedding = tte.TPUEmbedding(tte.FeatureConfig(table), 1, None, seed=0)
    before = embedding.state_dict()["t.weight"][1]
    embedding(torch.tensor([1])).sum().backward()
    tte.EmbeddingOptimizer(embedding).step()
    torch.testing.assert_close(embedding.state_dict()["t.weight"][1], 0.99 * before)


def test_hooks_of_its_state_dict_are_called() -> None:
    _, optimizer, _ = setup()
    called = []
    optimizer.register_state_dict_pre_hook(lambda _: called.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "epoch": 3})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: called.append(state["epoch"]))
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    optimizer.register_step_pre_hook(lambda *_: called.append("step"))
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="no training batch was dequeued"):
        optimizer.step()
    assert called == ["save", 3, "loaded", "step"]


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda way: way.__name__
)
def test_it_is_neither_copied_nor_pickled(way: Callable[[Any], Any]) -> None:
    embedding, optimizer, _ = setup()
    optimizer.param_groups[0]["lr"] = 0.3
    with pytest.raises(TypeError, match=r"make another one, EmbeddingOptimizer\(embedding\)"):
        way(optimizer)
    another = tte.EmbeddingOptimizer(embedding)
    another.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in another.param_groups] == [0.3, 0.1]


def test_what_averages_gradients_over_processes_leaves_activations_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xr

    states = []
    averaged: list[object] = []
    for several in (False, True):
        embedding, optimizer, features = setup()
        backward(embedding(features))
        if several:
            monkeypatch.setattr(xr, "world_size", lambda: 2)
            monkeypatch.setattr(xm, "all_reduce", lambda _, found, **__: averaged.extend(found))
            xm.optimizer_step(optimizer)
            assert averaged == []
        else:
            optimizer.step()
        tte.runtime.sync()
        states.append(helpers.tensors(embedding))
    assert torch.equal(states[0]["user.weight"], states[1]["user.weight"])
