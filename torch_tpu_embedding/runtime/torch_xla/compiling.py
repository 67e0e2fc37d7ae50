"""No function is compiled by itself: torch_xla traces the whole step, and compiles that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


def compiles_functions() -> bool:
    """False: a function is part of the step's program."""
    return False


def compiled(
    function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]
) -> Callable[..., list[Tensor]]:
    """The function itself, which is traced where it is called.

    Args:
        function: of tensors alone; it gives new ones.
        inputs: such as it will be called with.
    """
    return function
