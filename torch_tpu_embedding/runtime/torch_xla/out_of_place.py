"""In-place arithmetic, traced as the same out of place: several times as fast, to the same program.

torch_xla 2.9 traces `x.addcdiv_(…)` through functionalization, which runs the operator's shape function in
Python: 260 against 17 µs for `x.copy_(x.addcdiv(…))`. A program writes over an argument because it is given
the new value of the same tensor, however that was traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .held import hold

_OF_ONE = ("abs", "exp", "log", "neg", "negative", "reciprocal", "rsqrt", "sqrt", "square")
_OF_TWO = ("add", "div", "divide", "mul", "multiply", "pow", "sub", "subtract", "true_divide")
_OF_MORE = ("addcdiv", "addcmul", "clamp", "clamp_max", "clamp_min", "index_add", "lerp")


def trace_out_of_place() -> AbstractContextManager[object]:
    """A context in which in-place arithmetic on XLA tensors is traced out of place.

    For optimizers that `tte.dense_optimizers` does not have:

        with tte.runtime.trace_out_of_place():
            optimizer.step()

    `x.add_(y)` becomes `x.copy_(x.add(y))`: the same numbers, the same arguments updated in place, half of
    the time to trace or less. Operators and operands for which the two would differ (another type or shape
    of the result), or whose gradient is recorded, stay as they are, with their errors; so does everything
    on other devices. It holds for the thread that enters it, and may be nested.
    """
    return _OutOfPlace()


class _OutOfPlace(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out_of_place = _OUT_OF_PLACE.get(func)
        if out_of_place is None or not args or args[0].device.type != "xla":
            return func(*args, **given)
        target: Tensor = args[0]
        try:
            result: Tensor = out_of_place(*args, **given)
        except (RuntimeError, IndexError, TypeError, ValueError):
            return func(*args, **given)  # with its own error
        if (
            result.requires_grad  # autograd keeps what `copy_` would change
            or result.dtype != target.dtype
            or result.shape != target.shape
        ):
            return func(*args, **given)  # it converts, or refuses
        hold([target])
        target.copy_(result)
        return target


def _pairs() -> dict[Callable[..., Any], Callable[..., Any]]:
    """In-place function → the same out of place."""
    found = {}
    for name in _OF_ONE + _OF_TWO + _OF_MORE:
        for owner in (Tensor, torch):
            if hasattr(owner, f"{name}_"):
                found[getattr(owner, f"{name}_")] = getattr(owner, name)
    for name in ("add", "sub", "mul", "truediv", "pow"):
        found[getattr(Tensor, f"__i{name}__")] = getattr(Tensor, f"__{name}__")
    return found


_OUT_OF_PLACE = _pairs()
