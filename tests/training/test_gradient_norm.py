"""clip_grad_norm_: the norm of the whole gradient, as torch has it for dense tables."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from models import helpers
from torch import Tensor, nn
from torch.nn import functional

import torch_tpu_embedding as tte

B, DIM, ROWS = 8, 3, 5


def make(**options: Any) -> tte.TPUEmbedding:
    """A table of each kind: summed, once per occurrence, without an optimizer."""
    kinds = {
        "summed": {"optimizer": tte.SGD(1.0)},
        "each": {"optimizer": tte.Adagrad(1.0, use_gradient_accumulation=False)},
        "frozen": {},
    }
    names = options.pop("names", ["summed"])
    config = {}
    for name in names:
        table = tte.TableConfig(ROWS, DIM, initializer=torch.randn, name=name, **kinds[name])
        config |= {f"{name}-1": tte.FeatureConfig(table), f"{name}-2": tte.FeatureConfig(table)}
    return tte.TPUEmbedding(config, B, None, seed=0, **options)


def make_batch(embedding: tte.TPUEmbedding, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = [feature.name for feature in embedding.resolved.features]
    return {name: torch.randint(0, ROWS, (B,), generator=generator) for name in names}


def loss_of(rows: dict[str, Tensor], weight: Tensor) -> Tensor:
    return (torch.stack([*rows.values()]).sum(0) @ weight).square().sum()


def dense(batch: dict[str, Tensor], tables: dict[str, Tensor], weight: Tensor) -> list[Tensor]:
    """The gradients of tables that are trained, and of the dense weight, by torch alone."""
    held = {name: nn.Parameter(value.clone()) for name, value in tables.items()}
    parameter = nn.Parameter(weight.clone())
    rows = {
        name: functional.embedding(ids, held[name.split("-")[0]]) for name, ids in batch.items()
    }
    loss_of(rows, parameter).backward()
    trained = [value for name, value in held.items() if name != "frozen"]
    return [each.grad for each in (*trained, parameter) if each.grad is not None]


def tables_of(embedding: tte.TPUEmbedding) -> dict[str, Tensor]:
    held = helpers.tensors(embedding)
    return {key.split(".")[0]: value for key, value in held.items() if key.endswith(".weight")}


@pytest.mark.parametrize("norm_type", [2.0, 1, 3.0, math.inf])
def test_the_norm_and_the_clipped_gradients_are_those_of_dense_tables(norm_type: float) -> None:
    embedding = make(names=["summed", "each", "frozen"])
    before, batch = tables_of(embedding), make_batch(embedding)
    weight = torch.linspace(-1, 1, DIM)[:, None]
    head = nn.Parameter(weight.to(embedding.device))
    unused = nn.Parameter(torch.ones(2, device=embedding.device))
    loss_of(embedding(batch), head).backward()
    parameters = iter([head, unused, head])  # a generator, one without gradient, one given twice
    norm = embedding.clip_grad_norm_(0.5, norm_type, parameters)
    embedding.apply_gradients()
    tte.runtime.sync()
    wanted = [nn.Parameter(torch.zeros_like(each)) for each in dense(batch, before, weight)]
    for parameter, gradient in zip(wanted, dense(batch, before, weight), strict=True):
        parameter.grad = gradient
    total = torch.nn.utils.clip_grad_norm_(wanted, 0.5, norm_type)
    torch.testing.assert_close(norm.cpu(), total, rtol=1e-5, atol=0)
    after = tables_of(embedding)
    _, summed, of_head = (parameter.grad for parameter in wanted)
    torch.testing.assert_close(before["summed"] - after["summed"], summed, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.grad.cpu(), of_head, rtol=1e-4, atol=1e-6)
    assert torch.equal(after["frozen"], before["frozen"])
    assert not torch.equal(after["each"], before["each"])


def test_one_hot_id_counts_as_the_sum_of_its_places_where_torch_takes_each_for_itself() -> None:
    table = tte.TableConfig(3, 4, name="hot")
    embedding = tte.TPUEmbedding(tte.FeatureConfig(table), 256, tte.SGD(1.0))
    rows = embedding(torch.zeros(256, dtype=torch.int64))
    rows.sum().backward()
    of_places = torch.nn.utils.get_total_norm([rows.grad])
    norm = embedding.clip_grad_norm_(math.inf)
    embedding.discard()
    tte.runtime.sync()
    assert [float(of_places), float(norm)] == [32.0, 512.0]


def clip(embedding: tte.TPUEmbedding, batch: dict[str, Tensor], max_norm: float) -> Tensor:
    rows = embedding(batch)
    sum(each.square().sum() for each in rows.values()).backward()
    norm = embedding.clip_grad_norm_(max_norm)
    embedding.apply_gradients()
    return norm


def test_neither_a_new_limit_nor_a_gradient_that_is_small_enough_compiles_anything() -> None:
    embedding = make(names=["summed", "each"])
    clip(embedding, make_batch(embedding), 0.1)
    tte.runtime.sync()
    clip(embedding, make_batch(embedding), 0.2)
    tte.runtime.sync()
    compiled = tte.runtime.compile_count()
    before = tables_of(embedding)["summed"]
    for step, limit in enumerate((0.3, 1.0, 0.0, 0)):
        norm = clip(embedding, make_batch(embedding, step), limit)
        tte.runtime.sync()
        assert float(norm) > 1.0
        if step == 1:
            before = tables_of(embedding)["summed"]
    assert tte.runtime.compile_count() == compiled
    torch.testing.assert_close(tables_of(embedding)["summed"], before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda leaf: None, 1.0),
        (lambda leaf: leaf.grad.mul_(2.0), 2.0),
        (lambda leaf: leaf.grad.data.mul_(3.0), 3.0),
        (lambda leaf: setattr(leaf, "grad", leaf.grad * 4.0), 4.0),
        (lambda leaf: setattr(leaf, "grad", leaf.grad * 0.0), 0.0),
    ],
    ids=["none", "in place", "data", "replaced", "replaced by 0"],
)
def test_a_gradient_changed_after_clipping_is_what_is_applied(change: Any, factor: float) -> None:
    embedding = make()
    before = tables_of(embedding)["summed"]
    rows = embedding(make_batch(embedding))
    sum(each.sum() for each in rows.values()).backward()
    embedding.clip_grad_norm_(1.0)
    for each in rows.values():
        change(each)
    embedding.apply_gradients()
    tte.runtime.sync()
    moved = before - tables_of(embedding)["summed"]
    assert float(moved.norm()) == pytest.approx(factor, rel=1e-4)


def test_clipping_twice_clips_what_was_clipped_and_a_step_may_end_in_between() -> None:
    embedding = make()
    before = tables_of(embedding)["summed"]
    rows = embedding(make_batch(embedding))
    sum(each.sum() for each in rows.values()).backward()
    embedding.clip_grad_norm_(2.0)
    tte.runtime.sync()
    norm = embedding.clip_grad_norm_(1.0)
    embedding.apply_gradients({name: each.grad for name, each in rows.items()})
    tte.runtime.sync()
    assert float(norm) == pytest.approx(2.0, rel=1e-4)
    moved = before - tables_of(embedding)["summed"]
    assert float(moved.norm()) == pytest.approx(1.0, rel=1e-4)


def test_a_clipped_step_of_pipelined_execution_is_applied_clipped() -> None:
    embedding = make(pipeline_execution_with_tensor_core=True)
    before = tables_of(embedding)["summed"]
    norm = clip(embedding, make_batch(embedding), 0.5)
    tte.runtime.sync()
    moved = before - tables_of(embedding)["summed"]  # reading them applies what is held
    assert float(norm) > 0.5
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_model_whose_tables_have_no_optimizer_is_clipped_by_its_dense_gradients() -> None:
    embedding = make(names=["frozen"])
    head = nn.Parameter(torch.ones(DIM, 1, device=embedding.device))
    rows = embedding(make_batch(embedding))
    (loss_of(rows, head) * 0 + head.sum() * 3).backward()
    norm = embedding.clip_grad_norm_(1.0, dense_parameters=head)
    embedding.apply_gradients()
    tte.runtime.sync()
    assert float(norm) == pytest.approx(3 * DIM**0.5, rel=1e-5)
    assert float(head.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_a_nan_reaches_the_norm_and_all_gradients_as_in_torch() -> None:
    embedding = make()
    head = nn.Parameter(torch.ones(2, device=embedding.device))
    rows = embedding(make_batch(embedding))
    (sum(each.sum() for each in rows.values()) * math.nan + head.sum()).backward()
    norm = embedding.clip_grad_norm_(1.0, dense_parameters=[head])
    embedding.discard()
    assert math.isnan(float(norm))
    assert bool(head.grad.isnan().all())


class Elsewhere:
    """A parameter whose gradient is on the host."""

    def __new__(cls) -> Any:
        found = nn.Parameter(torch.ones(2))
        found.grad = torch.ones(2)
        return found


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1.0,), ValueError, "max_norm must not be negative, got -1.0"),
        ((math.nan,), ValueError, "max_norm must be a number, got nan"),
        (("1",), ValueError, "max_norm must be a number, got '1'"),
        ((True,), ValueError, "max_norm must be a number, got True"),
        ((1.0, 0), ValueError, "norm_type must be above 0, 2.0 for the usual norm or inf .* got 0"),
        ((1.0, 2.0, 3), TypeError, "dense_parameters must be tensors, as .* got int"),
        (
            (1.0, 2.0, [("w", 1)]),
            TypeError,
            r"dense_parameters\[0\] is a tuple, no tensor; pass model",
        ),
        ((1.0, 2.0, "activation"), ValueError, r"dense_parameters\[0\] is an activation, whose"),
        (
            (1.0, 2.0, [Elsewhere()]),
            ValueError,
            r"of shape \[2\] has its gradient on cpu, the tables",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_and_changes_nothing(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    embedding = make()
    rows = embedding(make_batch(embedding))
    sum(each.sum() for each in rows.values()).backward()
    held = [each.grad for each in rows.values()]
    if arguments[-1] == "activation":
        arguments = (*arguments[:-1], [*rows.values()])
    with pytest.raises(error, match=f"^clip_grad_norm_: .*{message}"):
        embedding.clip_grad_norm_(*arguments)
    assert all(each.grad is one for each, one in zip(rows.values(), held, strict=True))
    embedding.discard()


def test_calls_out_of_order_and_on_the_cpu_say_what_to_do() -> None:
    embedding = make()
    with pytest.raises(RuntimeError, match=r"^clip_grad_norm_: no training batch was dequeued"):
        embedding.clip_grad_norm_(1.0)
    embedding(make_batch(embedding))
    with pytest.raises(RuntimeError, match=r"^clip_grad_norm_: no activation has a gradient"):
        embedding.clip_grad_norm_(1.0)
    serving = make(device="cpu")
    remedy = (
        "use torch.nn.utils.clip_grad_norm_([*embedding.parameters(), *dense_parameters], max_norm)"
    )
    with pytest.raises(RuntimeError, match=re.escape(remedy)):
        serving.clip_grad_norm_(1.0)
    sum(each.sum() for each in serving(make_batch(serving)).values()).backward()
    torch.nn.utils.clip_grad_norm_([*serving.parameters()], 1.0)  # the remedy
    moved = torch.nn.utils.get_total_norm([each.grad for each in serving.parameters()])
    assert float(moved) == pytest.approx(1.0, rel=1e-4)
