"""Steps that are not taken: by a GradScaler, by a script, in any order of zero_grad, forward and step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from models import helpers
from torch import Tensor

import torch_tpu_embedding as tte

B = 4
ORDERS = ["zero_grad, forward, step", "forward, zero_grad, step", "forward, step, zero_grad"]


def make() -> tuple[tte.TPUEmbedding, tte.EmbeddingOptimizer]:
    table = tte.TableConfig(6, 2, name="rows")
    embedding = tte.TPUEmbedding({"row": tte.FeatureConfig(table)}, B, tte.SGD(0.5), seed=0)
    return embedding, tte.EmbeddingOptimizer(embedding)


def forward(embedding: tte.TPUEmbedding, step: int) -> Tensor:
    return embedding({"row": (torch.arange(B) + step) % 6})["row"].square().sum()


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_a_step_that_a_grad_scaler_skips_needs_nothing(order: str, unscale: bool) -> None:
    embedding, optimizer = make()
    plain, plain_optimizer = make()
    scaler = torch.amp.GradScaler("xla", init_scale=1024.0, growth_interval=100)
    for step, bad in enumerate((False, True, True, False)):
        if order.startswith("zero_grad"):
            optimizer.zero_grad()
        loss = forward(embedding, step)
        if order.startswith("forward, zero_grad"):
            optimizer.zero_grad()
        scaler.scale(loss * math.inf if bad else loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if order.endswith("zero_grad"):
            optimizer.zero_grad()
        tte.runtime.sync()
        if not bad:
            forward(plain, step).backward()
            plain_optimizer.step()
            tte.runtime.sync()
            continue
        with pytest.raises(RuntimeError, match=r"dequeued last was dropped, for its step was skip"):
            optimizer.step()
    assert scaler.get_scale() == 256.0
    found, wanted = helpers.tensors(embedding)["rows.weight"], helpers.tensors(plain)["rows.weight"]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("order", ["zero_grad, forward, step", "forward, step, zero_grad"])
def test_a_step_that_a_script_skips_ends_with_zero_grad_and_one_warning(
    order: str, set_to_none: bool
) -> None:
    embedding, optimizer = make()
    plain, plain_optimizer = make()
    said = []
    for step, bad in enumerate((False, True, True, False)):
        if order.startswith("zero_grad"):
            optimizer.zero_grad(set_to_none)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            forward(embedding, step).backward()
        said += [str(each.message) for each in caught]
        if not bad:
            optimizer.step()
            forward(plain, step).backward()
            plain_optimizer.step()
        if order.endswith("zero_grad"):
            optimizer.zero_grad(set_to_none)
        tte.runtime.sync()
    (message,) = said
    assert (
        "dequeued before is dropped without a step, for EmbeddingOptimizer.zero_grad()" in message
    )
    found, wanted = helpers.tensors(embedding)["rows.weight"], helpers.tensors(plain)["rows.weight"]
    assert torch.equal(found, wanted)


def test_a_step_that_was_forgotten_is_an_error_that_names_discard() -> None:
    embedding, optimizer = make()
    optimizer.zero_grad()  # before the backward pass it says nothing about the step
    loss = forward(embedding, 0)
    optimizer.zero_grad()
    loss.backward()
    with pytest.raises(
        RuntimeError, match=r"still awaits its gradients; .* or discard\(\) to drop it"
    ):
        forward(embedding, 1)
    embedding.discard()
    forward(embedding, 1).backward()
    optimizer.step()
    tte.runtime.sync()


def test_a_batch_whose_gradients_were_cleared_takes_new_ones() -> None:
    embedding, optimizer = make()
    before = helpers.tensors(embedding)["rows.weight"]
    loss = forward(embedding, 0)
    loss.backward(retain_graph=True)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    tte.runtime.sync()
    moved = before - helpers.tensors(embedding)["rows.weight"]
    torch.testing.assert_close(moved[:B], before[:B])


def test_a_cleared_step_loses_what_was_accumulated_too() -> None:
    embedding, optimizer = make()
    forward(embedding, 0).backward()
    embedding.accumulate_gradients()
    optimizer.zero_grad()
    assert optimizer.param_groups[0]["params"] == []
    with pytest.raises(RuntimeError, match=r"dequeued last was dropped, for its step was skipped"):
        optimizer.step()
    before = helpers.tensors(embedding)["rows.weight"]
    embedding({"row": torch.full((B,), 5)})["row"].sum().backward()
    optimizer.step()
    tte.runtime.sync()
    moved = before - helpers.tensors(embedding)["rows.weight"]
    torch.testing.assert_close(moved[5], torch.full((2,), 0.5 * B))
    assert not moved[:5].any()


def test_a_step_skipped_with_accumulated_batches_skips_them_too() -> None:
    embedding, optimizer = make()
    before = helpers.tensors(embedding)["rows.weight"]
    scaler = torch.amp.GradScaler("xla", init_scale=4.0)
    for bad in (True, False):
        scaler.scale(forward(embedding, 0) * (math.inf if bad else 1.0)).backward()
        embedding.accumulate_gradients()
        scaler.scale(forward(embedding, 0)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        tte.runtime.sync()
    moved = before - helpers.tensors(embedding)["rows.weight"]
    torch.testing.assert_close(moved[:B], 2 * before[:B])


def test_a_step_that_is_to_be_skipped_on_another_process_is_skipped_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OtherFoundInf:
        def gather(self, values: Tensor) -> Tensor:
            return torch.stack([values, values.new_tensor([1.0, values[1]])])

    embedding, optimizer = make()
    before = helpers.tensors(embedding)["rows.weight"]
    scaler = torch.amp.GradScaler("xla", init_scale=4.0)
    scaler.scale(forward(embedding, 0)).backward()
    with monkeypatch.context() as patch:
        patch.setattr(embedding._tables.engine.exchange, "group", OtherFoundInf())
        scaler.step(optimizer)
    assert torch.equal(helpers.tensors(embedding)["rows.weight"], before)
    forward(embedding, 1)
