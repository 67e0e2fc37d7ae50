"""Changes of hooks and attributes between two calls are noticed, and memory that tensors share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from models.replays import Case, Step, twins
from torch import Tensor, nn

import torch_tpu_embedding as tte


def halve_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output * 0.5


def add_hook(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].register_forward_hook(halve_output)


def add_hook_before_forward(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,))


def add_backward_hook(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].register_full_backward_hook(
            lambda module, of_inputs, of_outputs: (of_inputs[0] * 0.5,)
        )


def add_hook_before_backward(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].register_full_backward_pre_hook(
            lambda module, of_outputs: (of_outputs[0] * 0.5,)
        )


def add_hook_of_parameter(case: Case, k: int) -> None:
    if k == 10:
        case.model[0].weight.register_hook(lambda gradient: gradient * 0.5)


def move_hook_to_another_parameter(case: Case, k: int) -> None:
    if k in (0, 10):
        parameter = case.model[0].weight if k == 0 else case.model[3].weight
        if k == 10:
            case.handle.remove()  # type: ignore[attr-defined]
        case.handle = parameter.register_hook(  # type: ignore[attr-defined]
            lambda gradient: gradient * 0.5
        )


def replace_hook(case: Case, k: int) -> None:
    if k in (0, 10):
        factor = 0.5 if k == 0 else 0.25
        if k == 10:
            case.handle.remove()  # type: ignore[attr-defined]
        case.handle = case.model[0].register_forward_hook(  # type: ignore[attr-defined]
            lambda module, inputs, output: output * factor
        )


def add_hook_after_gradient(case: Case, k: int) -> None:
    def halve(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad = parameter.grad * 0.5

    if k == 10:
        case.model[0].weight.register_post_accumulate_grad_hook(halve)


def halve_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.grad = each.grad * 0.5


def add_hook_of_optimizer(case: Case, k: int) -> None:
    if k == 10:
        case.dense_optimizer.register_step_pre_hook(halve_gradients)


def add_hook_of_all_modules(case: Case, k: int) -> None:
    if k == 10:
        case.handle = nn.modules.module.register_module_forward_hook(  # type: ignore[attr-defined]
            lambda module, inputs, output: output * 0.5 if isinstance(module, nn.ReLU) else None
        )
    elif k == 29:
        case.handle.remove()  # type: ignore[attr-defined]


def rebind_hooks(case: Case, k: int) -> None:
    if k == 0:
        add_hook(case, 10)
    elif k == 10:
        case.model[0]._forward_hooks = OrderedDict()


def replace_attributes(case: Case, k: int) -> None:
    if k == 10:
        hooks = OrderedDict({1: halve_output})
        case.model[0].__dict__ = {**vars(case.model[0]), "_forward_hooks": hooks}


def exchange_hook_in_its_place(case: Case, k: int) -> None:
    if k == 0:
        add_hook(case, 10)
    elif k == 10:
        (number,) = case.model[0]._forward_hooks
        case.model[0]._forward_hooks[number] = lambda module, inputs, output: output * 0.25


def add_hook_of_table_optimizer(case: Case, k: int) -> None:
    if k == 10:
        case.embedding_optimizer.register_step_pre_hook(
            lambda *_: halve_gradients(case.dense_optimizer)
        )


def change_class(case: Case, k: int) -> None:
    class Halved(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs) * 0.5

    if k == 10:
        case.model[0].__class__ = Halved


def swap_one_attribute_for_another(case: Case, k: int) -> None:
    if k == 0:
        vars(case.model[0])["one"] = case
    elif k == 10:
        vars(case.model[0])["two"] = vars(case.model[0]).pop("one")


@pytest.mark.parametrize(
    "between",
    [
        add_hook,
        add_hook_before_forward,
        add_backward_hook,
        add_hook_before_backward,
        add_hook_of_parameter,
        move_hook_to_another_parameter,
        replace_hook,
        add_hook_after_gradient,
        add_hook_of_optimizer,
        add_hook_of_all_modules,
        rebind_hooks,
        replace_attributes,
        exchange_hook_in_its_place,
        add_hook_of_table_optimizer,
        change_class,
        swap_one_attribute_for_another,
    ],
)
def test_such_a_change_is_traced_at_once_and_then_replayed(
    between: Callable[[Case, int], None],
) -> None:
    _, replayed = twins(between=between, dropout=0.3, steps=30, check_every=10**6)
    assert replayed.step.replayed > 8
    assert replayed.step.traced > 6, "it was verified anew"


def test_a_state_that_is_cleared_is_no_failed_check() -> None:
    def between(case: Case, k: int) -> None:
        if k == 14:
            case.dense_optimizer.state.clear()

    _, replayed = twins(between=between, dense="momentum", check_every=64)
    assert replayed.step.replayed > 10


def test_a_hook_that_is_taken_off_and_put_on_again_is_replayed() -> None:
    def between(case: Case, k: int) -> None:
        if k:
            case.handle.remove()  # type: ignore[attr-defined]
        case.handle = case.model[0].register_forward_hook(halve_output)  # type: ignore[attr-defined]

    _, replayed = twins(between=between)
    assert replayed.step.replayed > 10


def tie_by_barrier(beside: Tensor, weight: Tensor) -> None:
    import torch_xla.core.xla_model as xm

    xm.optimization_barrier_([beside, weight])


def gather_into(beside: Tensor, weight: Tensor) -> None:
    import torch_xla.core.xla_model as xm

    xm.all_gather(weight.data, output=beside)


@pytest.mark.parametrize("trace", [tie_by_barrier, gather_into])
def test_what_torch_xla_traces_in_place_between_steps_reads_memory_that_is_there(
    trace: Callable[[Tensor, Tensor], None],
) -> None:
    def between(case: Case, k: int) -> None:
        if k == 0:
            case.beside = torch.zeros(6, 11).to(case.embedding.device)  # type: ignore[attr-defined]
            tte.runtime.sync()
        elif k == 14:
            trace(case.beside, case.model[0].weight)  # type: ignore[attr-defined]

    traced, replayed = twins(between=between)
    assert replayed.step.replayed > 10
    found = [each.case.beside.cpu() for each in (traced, replayed)]  # type: ignore[attr-defined]
    assert torch.equal(*found)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(11, 6), nn.Linear(11, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.one(inputs) + self.two(inputs).sin()
        return found


def tie_to_another(case: Case) -> None:
    case.model[0].one.weight.data = case.model[0].two.weight.data


def tie_both_to_a_third(case: Case) -> None:
    case.third = torch.ones(6, 11).to(case.embedding.device)  # type: ignore[attr-defined]
    for layer in (case.model[0].one, case.model[0].two):
        layer.weight.data = case.third  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:replay")
@pytest.mark.parametrize("tie", [tie_to_another, tie_both_to_a_third])
def test_two_weights_that_get_one_memory_are_traced(tie: Callable[[Case], None]) -> None:
    def make(case: Case) -> Step:
        torch.manual_seed(0)
        case.model[0] = TwoLayers().to(case.embedding.device)
        case.dense_optimizer = torch.optim.SGD(case.model.parameters(), 0.1)
        tte.runtime.sync()
        return case.step

    def between(case: Case, k: int) -> None:
        if k == 14:
            tie(case)

    _, replayed = twins(make=make, between=between)
    assert replayed.step.replayed > 5
    assert "share memory" in replayed.step.reason


@pytest.mark.filterwarnings("ignore:replay")
def test_parameters_that_are_views_of_one_tensor_are_traced_with_a_warning() -> None:
    def make(case: Case) -> Step:
        parameters = [*case.model.parameters()]
        flat = torch.cat([each.detach().reshape(-1) for each in parameters])
        tte.runtime.sync()
        sizes = [each.numel() for each in parameters]
        for each, part in zip(parameters, flat.split(sizes), strict=True):
            each.data = part.view(each.shape)
        return case.step

    _, replayed = twins(make=make)
    assert "a view of another tensor" in replayed.step.reason
