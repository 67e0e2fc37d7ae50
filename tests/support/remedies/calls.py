"""The cases that are about the order of calls, rates and optimizers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from remedies.cases import IDS, Step, make, says, train

import torch_tpu_embedding as tte

# -- the order of calls --------------------------------------------------------------------------------


@says(
    r"enqueue: 2 batches already wait, which is all that enqueue_depth=2 allows; call dequeue first"
)
def full(_: Path) -> tuple[Step, ...]:
    embedding = make()
    for _ in range(2):
        embedding.enqueue({"f": IDS}, training=False)

    def after_dequeue() -> None:
        embedding.dequeue()
        embedding.enqueue({"f": IDS}, training=False)

    return lambda: embedding.enqueue({"f": IDS}), after_dequeue


@says(r"1 enqueued batches wait; dequeue them first, or use enqueue and dequeue throughout")
def waiting(_: Path) -> tuple[Step, ...]:
    embedding = make().eval()
    embedding.enqueue({"f": IDS}, training=False)

    def dequeue_first() -> None:
        embedding.dequeue()
        embedding({"f": IDS})

    def throughout() -> None:
        embedding.enqueue({"f": IDS}, training=False)
        embedding.dequeue()
        embedding.dequeue()

    return lambda: embedding({"f": IDS}), dequeue_first, throughout


@says(
    r"still awaits its gradients; call apply_gradients \(or the EmbeddingOptimizer's step\) for it, or"
)
def awaiting(_: Path) -> tuple[Step, ...]:
    embedding = make()
    embedding({"f": IDS})["f"].sum().backward()

    def then(first: Step) -> Step:
        return lambda: (first(), embedding({"f": IDS}))

    def evaluate() -> None:
        embedding.enqueue({"f": IDS}, training=False)
        embedding.dequeue()
        embedding.eval()({"f": IDS})

    optimizer = tte.EmbeddingOptimizer(embedding)
    remedies = [embedding.apply_gradients, optimizer.step, embedding.discard]
    return lambda: embedding({"f": IDS}), *map(then, remedies), evaluate


@says(r"dequeue: no batch waits; call enqueue first")
def empty(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return embedding.dequeue, lambda: (embedding.enqueue({"f": IDS}), embedding.dequeue())


@says(r"no training batch was dequeued; call enqueue and dequeue first")
def nothing_to_apply(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def follow() -> None:
        embedding.enqueue({"f": IDS})
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()

    return embedding.apply_gradients, follow


@says(r"is an inference batch .*; enqueue with training=True to train")
def inference_batch(_: Path) -> tuple[Step, ...]:
    embedding = make()
    embedding.eval()({"f": IDS})

    def follow() -> None:
        embedding.enqueue({"f": IDS}, training=True)
        embedding.dequeue()["f"].sum().backward()
        embedding.apply_gradients()

    return embedding.apply_gradients, follow


@says(
    r"already called for the training batch dequeued last; enqueue and dequeue the next one first"
)
def applied_twice(_: Path) -> tuple[Step, ...]:
    embedding = make()
    train(embedding)
    return embedding.apply_gradients, lambda: train(embedding)


@says(r"no activation has a gradient; call loss.backward\(\) first, or pass the gradients")
def no_backward(_: Path) -> tuple[Step, ...]:
    embedding = make()
    rows = embedding({"f": IDS})["f"]

    def backward() -> None:
        rows.sum().backward()
        embedding.apply_gradients()

    def passed() -> None:
        embedding.apply_gradients({"f": torch.ones_like(rows)})

    return embedding.apply_gradients, backward, passed


@says(
    r"is on the CPU.*call it directly \(forward\) for a lookup, or create it without device='cpu' to"
)
def cpu_calls(_: Path) -> tuple[Step, ...]:
    embedding = make(device="cpu")
    return (
        lambda: embedding.enqueue({"f": IDS}),
        lambda: embedding({"f": IDS}),
        lambda: train(make()),
    )


@says(r"EmbeddingLoader: this TPUEmbedding is on the CPU.*; iterate over the batches themselves")
def cpu_loader(_: Path) -> tuple[Step, ...]:
    embedding, data = make(device="cpu"), [{"f": IDS}]
    return (
        lambda: next(iter(tte.EmbeddingLoader(data, embedding))),
        lambda: [embedding(each) for each in data],
    )


@says(r"nothing is counted; call enable_metrics\(\) before training")
def metrics(_: Path) -> tuple[Step, ...]:
    embedding = make()
    return embedding.metrics, lambda: (embedding.enable_metrics(), embedding.metrics())


@says(r"profile: a trace is being written already; end that one first")
def profile(folder: Path) -> tuple[Step, ...]:
    def nested() -> None:
        with tte.profile(folder / "outer"), tte.profile(folder / "inner"):
            pass

    def one_after_another() -> None:
        for name in ("first", "second"):
            with tte.profile(folder / name):
                pass

    return nested, one_after_another


@says(r"tensorboard is not installed; .*, or write lines of JSON with JsonLinesWriter")
def tensorboard(folder: Path) -> tuple[Step, ...]:
    def without() -> None:
        with mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None}):
            tte.TensorBoardWriter(str(folder))

    def lines() -> None:
        embedding = make()
        writer = tte.JsonLinesWriter(folder / "m.jsonl")
        embedding.enable_metrics(every=1, callback=writer)
        train(embedding)
        writer.close()

    return without, lines


# -- rates and optimizers ------------------------------------------------------------------------------


@says(
    r"table 't': FTRL divides by the learning rate.*to keep the table as it is call embedding.freeze\('t'"
)
def ftrl_rate_0(_: Path) -> tuple[Step, ...]:
    embedding = make(tte.FTRL(0.1))
    optimizer = tte.EmbeddingOptimizer(embedding)
    optimizer.param_groups[0]["lr"] = 0.0

    def freeze() -> None:
        before = embedding.state_dict()
        embedding.freeze("t")
        optimizer.step()
        for key, value in embedding.state_dict().items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, before[key])

    return lambda: train(embedding, optimizer.step), freeze


@says(
    r"freeze: no table is named \['u'\]; the tables are \['t'\], and requires_grad_ is for all of them"
)
def freeze_unknown(_: Path) -> tuple[Step, ...]:
    embedding = make()

    def all_of_them() -> None:
        assert embedding.requires_grad_(False).frozen_tables == ("t",)

    return lambda: embedding.freeze("u"), lambda: embedding.freeze("t"), all_of_them


@says(r"but its optimizer's learning_rate is a callable; give that table a number to set it here")
def rate_of_a_callable(_: Path) -> tuple[Step, ...]:
    def set_rate(rate: Any) -> Step:
        embedding = make(tte.SGD(rate))
        optimizer = tte.EmbeddingOptimizer(embedding)
        optimizer.param_groups[0]["lr"] = 0.5
        return lambda: train(embedding, optimizer.step)

    return set_rate(lambda: 0.1), set_rate(0.1)


@says(r"initial_accumulator_value and epsilon are both 0.*; give one of them")
def rowwise(_: Path) -> tuple[Step, ...]:
    def build(start: float, epsilon: float) -> Step:
        return lambda: tte.RowWiseAdagrad(0.1, initial_accumulator_value=start, epsilon=epsilon)

    return build(0, 0), build(0.1, 0), build(0, 1e-8)


@says(r"must be above 0, got 0; set allow_zero_accumulator=True to start from 0")
def ftrl_zero(_: Path) -> tuple[Step, ...]:
    return (
        lambda: tte.FTRL(0.1, initial_accumulator_value=0),
        lambda: train(
            make(tte.FTRL(0.1, initial_accumulator_value=0, allow_zero_accumulator=True))
        ),
    )


@says(r"(lazy_adam=False|clipvalue=1.0) needs use_gradient_accumulation=True")
def accumulation(_: Path) -> tuple[Step, ...]:
    both = {"lazy_adam": False, "clipvalue": 1.0}
    return (
        lambda: tte.Adam(0.1, use_gradient_accumulation=False, **both),
        lambda: train(make(tte.Adam(0.1, use_gradient_accumulation=True, **both))),
    )
