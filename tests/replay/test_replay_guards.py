"""Changes between two calls are noticed before a replay; what a replay would leave out, while tracing."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from models.replays import Case, Run, Step, UnseenCount, run, twins
from torch import Tensor, nn

import torch_tpu_embedding as tte


def set_lr_once(case: Case, k: int) -> None:
    if k == 10:
        case.dense_optimizer.param_groups[0]["lr"] *= 0.5


def switch_requires_grad(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].weight.requires_grad_(False)


def switch_dropout(case: Case, k: int) -> None:
    case.model.train(k % 6 < 3)


def set_dropout(case: Case, k: int) -> None:
    case.model[2].p = 0.1 if k < 10 else 0.5


def swap_layer(case: Case, k: int) -> None:
    if k == 10:
        torch.manual_seed(1)
        case.model[1] = nn.Tanh()


@pytest.mark.parametrize(
    "between",
    [
        set_lr_once,
        switch_requires_grad,
        switch_dropout,
        set_dropout,
        swap_layer,
    ],
)
def test_a_change_between_two_calls_is_traced_and_then_replayed(
    between: Callable[[Case, int], None],
) -> None:
    _, replayed = twins(between=between, dropout=0.3, steps=30)
    assert replayed.step.replayed > 8
    assert replayed.step.traced > 6, "it was verified anew"


def test_programs_are_kept_for_as_many_keys_as_are_in_use_and_no_more() -> None:
    found = run(True, make=scaled, steps=50, arguments=lambda k: (float(k),))
    assert found.step.replayed == 0
    assert len(found.step._kept) == 32
    _, replayed = twins(make=scaled, steps=30, arguments=lambda k: (float(k % 3),))
    assert replayed.step.replayed > 10


def scaled(case: Case) -> Step:
    return lambda numbers, factor: case.update(case.loss(numbers) * factor)


def refused(make: Callable[[Case], Step], why: str, steps: int = 24, **options: object) -> Run:
    """Train with a step that cannot be replayed: traced, equal, with one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, replayed = twins(make=make, steps=steps, verify=2, **options)
    assert replayed.step.replayed == 0
    assert replayed.step.traced == steps
    said = [str(each.message) for each in caught if "replay:" in str(each.message)]
    assert len(said) == 1, said
    assert why in said[0]
    assert why in replayed.step.reason
    assert "is said once" in said[0]
    return replayed


def reads_its_loss(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.step(numbers)
        loss.item()
        return loss

    return step


def prints_a_weight(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        str(case.model[0].weight)
        return case.step(numbers)

    return step


def branches_on_a_value(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        if loss > 1e9:
            loss = loss * 0.5
        return case.update(loss)

    return step


def draws_on_the_host(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        random.random()
        return case.step(numbers)

    return step


def keeps_a_tensor(case: Case) -> Step:
    kept = []

    def step(numbers: Tensor) -> Tensor:
        loss = case.step(numbers)
        kept.append(loss * 2)
        return loss

    return step


def keeps_an_unchanged_copy(case: Case) -> Step:
    kept = []

    def step(numbers: Tensor) -> Tensor:
        kept.append(case.model[0].weight.detach().clone())
        return case.step(numbers)

    return step


def copies_state_as_it_was(case: Case) -> Step:
    shadow = nn.Linear(11, 6).to(case.embedding.device)
    case.shadow = shadow  # type: ignore[attr-defined]
    tte.runtime.sync()

    def step(numbers: Tensor) -> Tensor:
        with torch.no_grad():
            shadow.weight.copy_(case.model[0].weight)
        return case.step(numbers)

    return step


def sends_a_tensor(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        factor = torch.full((1,), 0.5).to(case.embedding.device)
        return case.update(case.loss(numbers) * factor.sum())

    return step


def reads_an_undeclared_tensor(case: Case) -> Step:
    factor = torch.full((1,), 0.5).to(case.embedding.device)
    tte.runtime.sync()
    return lambda numbers: case.update(case.loss(numbers) * factor.sum())


def averages_undeclared_tensors(case: Case) -> Step:
    shadow = [each.detach().clone() for each in case.model.parameters()]
    tte.runtime.sync()

    def step(numbers: Tensor) -> Tensor:
        loss = case.step(numbers)
        with torch.no_grad():
            for mine, theirs in zip(shadow, case.model.parameters(), strict=True):
                mine.mul_(0.9).add_(theirs, alpha=0.1)
        return loss

    return step


def returns_the_graph(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        case.update(loss)
        return loss

    return step


def returns_a_weight(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        case.step(numbers)
        return case.model[0].weight.detach()

    return step


def steps_a_scheduler(case: Case) -> Step:
    scheduler = torch.optim.lr_scheduler.ExponentialLR(case.dense_optimizer, 0.9)

    def step(numbers: Tensor) -> Tensor:
        loss = case.step(numbers)
        scheduler.step()
        return loss

    return step


def ends_the_step(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.step(numbers)
        tte.runtime.sync()
        return loss

    return step


def gives_rates_by_hand(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        loss.backward()  # type: ignore[no-untyped-call]
        case.embedding.apply_gradients(learning_rates=[0.1, 0.2])
        case.model.zero_grad()
        return loss.detach()

    return step


def skips_the_update(case: Case) -> Step:
    def step(numbers: Tensor) -> Tensor:
        loss = case.loss(numbers)
        case.embedding.discard()
        return loss.detach()

    return step


def counts_in_python(case: Case) -> Step:
    calls = [0]

    def step(numbers: Tensor) -> Tensor:
        calls[0] += 1
        return case.update(case.loss(numbers) * (1.0 + 0.01 * calls[0]))

    return step


def counts_unseen(case: Case) -> Step:
    calls = UnseenCount()
    return lambda numbers: case.update(case.loss(numbers) * (1.0 + 0.01 * next(calls)))


def counts_in_a_module(case: Case) -> Step:
    case.model[0].calls = 0

    def step(numbers: Tensor) -> Tensor:
        case.model[0].calls += 1
        return case.step(numbers)

    return step


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (reads_its_loss, "a value is read from the device"),
        (prints_a_weight, "a value is read from the device"),
        (branches_on_a_value, ""),
        (draws_on_the_host, "it draws random numbers on the host"),
        (keeps_a_tensor, "1 tensors that it computes are kept by something other than its result"),
        (keeps_an_unchanged_copy, "is kept as it was before the step"),
        (sends_a_tensor, "it reads a tensor (float32 [1]) that is neither an argument"),
        (reads_an_undeclared_tensor, "register it as a buffer of a module, and name that module"),
        (averages_undeclared_tensors, "are kept by something other than its result"),
        (returns_the_graph, "it returns a tensor that requires grad; return loss.detach()"),
        (returns_a_weight, "it returns an alias of a tensor that it changes"),
        (steps_a_scheduler, "step schedulers outside of it"),
        (ends_the_step, "it ends the step itself"),
        (gives_rates_by_hand, "let an EmbeddingOptimizer have them"),
        (skips_the_update, "it has to dequeue one training batch and apply its gradients"),
        (counts_in_python, "it changes something in 'calls', which a replayed step does not do"),
        (counts_unseen, "a number in it differs from trace to trace (1."),
        (counts_in_a_module, "attribute 'calls' of a Linear has changed"),
    ],
)
def test_a_step_that_cannot_be_replayed_is_traced_with_one_warning_that_says_why(
    make: Callable[[Case], Step], why: str
) -> None:
    refused(make, why)


def test_a_copy_of_state_as_it_was_before_the_step_is_traced() -> None:
    why = "it copies one tensor of the state into another"
    refused(copies_state_as_it_was, why, modules=lambda case: [case.shadow])


def test_a_dense_rate_that_changes_at_every_step_is_traced() -> None:
    def between(case: Case, k: int) -> None:
        case.dense_optimizer.param_groups[0]["lr"] = 0.01 / (1 + k)

    refused(
        lambda case: case.step, "a hyper-parameter of an optimizer has changed", between=between
    )


def test_adam_that_is_not_capturable_is_traced() -> None:
    refused(lambda case: case.step, "a number in it differs", dense="adam on the host")


def test_what_ends_programs_by_nature_is_traced() -> None:
    rule = tte.Adagrad(0.1, use_gradient_accumulation=False)
    refused(lambda case: case.step, "it ends the step itself", tables=rule)


def test_pipelined_execution_is_traced() -> None:
    refused(
        lambda case: case.step,
        "execution is pipelined",
        pipeline_execution_with_tensor_core=True,
    )


def test_metrics_of_every_step_are_traced() -> None:
    def between(case: Case, k: int) -> None:
        if k == 0:
            case.embedding.enable_metrics(every=1)

    refused(lambda case: case.step, "metrics sample every step", between=between)


def test_autocast_around_the_call_is_refused_and_within_it_is_replayed() -> None:
    def around(case: Case) -> Step:
        def step(numbers: Tensor) -> Tensor:
            with torch.autocast("xla", dtype=torch.bfloat16):
                loss = case.loss(numbers)
            return case.update(loss)

        return step

    _, replayed = twins(make=around)
    assert replayed.step.replayed > 10
    losses = []
    for use in (False, True):
        case = Case()
        step = tte.replay(case.step, case.embedding, verify=2) if use else case.step
        losses.append([])
        for k in range(16):
            context = torch.autocast("xla", dtype=torch.bfloat16) if k > 8 else nullcontext()
            with warnings.catch_warnings(), context:
                warnings.simplefilter("ignore")
                losses[-1].append(step(case.next()))
                tte.runtime.sync()
    assert [each.item() for each in losses[0]] == [each.item() for each in losses[1]]


def test_host_tensors_and_objects_as_arguments_are_refused() -> None:
    for argument, why in (
        (torch.ones(1), "an argument is a tensor of the host; send it before the step"),
        (object(), "an argument is a object, whose content may change unseen"),
    ):
        refused(
            lambda case: lambda numbers, other: case.step(numbers),
            why,
            arguments=lambda k, argument=argument: (argument,),
        )


def test_a_missing_private_function_means_a_traced_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_tpu_embedding.runtime.torch_xla import programs

    monkeypatch.setattr(programs, "_BINDINGS", (*programs._BINDINGS, "_gone"))
    refused(lambda case: case.step, "this version of torch_xla has no _gone")


def test_a_literal_number_and_a_buffer_of_the_same_value_are_told_apart() -> None:
    def make(case: Case) -> Step:
        case.model.register_buffer("scale", torch.tensor(0.37).to(case.embedding.device))
        return lambda numbers: case.update(case.loss(numbers) * case.model.scale + 0.37)

    def between(case: Case, k: int) -> None:
        if k == 14:
            case.model.scale.fill_(0.5)
            tte.runtime.sync()

    _, replayed = twins(make=make, between=between)
    assert replayed.step.replayed > 10


def test_weights_copied_into_another_tensor_stay_there() -> None:
    found = []
    for use in (False, True):
        case = Case()
        target, best = torch.zeros_like(case.model[0].weight), []
        tte.runtime.sync()
        step = tte.replay(case.step, case.embedding, verify=2) if use else case.step
        for k in range(16):
            if k in (2, 6, 7, 12):
                target.copy_(case.model[0].weight.detach())
                best = [case.model[0].weight.detach().clone()]
            step(case.next())
            tte.runtime.sync()
            found.append([k, target.cpu().tolist(), [each.cpu().tolist() for each in best]])
    assert found[:16] == found[16:]
