"""The line at which a step reads a tensor that is none of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..io.warn import caller_line
from ..runtime.torch_xla import programs

Form = tuple[torch.dtype, torch.Size]


class UnknownReads(TorchFunctionMode):
    """Within this context, looks for the first use of a tensor of one dtype and shape that the step makes
    from numbers of the host, or has from elsewhere.

    Args:
        form: the dtype and the shape.
        known: tensors that the step may read.
    """

    def __init__(self, form: Form, known: Iterable[Tensor | None]) -> None:
        super().__init__()
        self._form = form
        self._known = {id(each) for each in known}
        self.line = ""
        """File and line of the use, as 'model.py:7'; empty if there was none."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, and look at what goes in and, of one that makes tensors, comes out."""
        kwargs = kwargs or {}
        if self.line:
            return func(*args, **kwargs)
        given = [e for e in pytree.tree_leaves((args, kwargs)) if isinstance(e, Tensor)]
        unknown = any(self._is_it(each) and self._is_unknown(each) for each in given)
        result = func(*args, **kwargs)
        if not given and isinstance(result, Tensor):
            unknown = programs.is_on_device(result) and self._is_it(result)
        if unknown:
            self.line = caller_line()
        return result

    def _is_it(self, value: Tensor) -> bool:
        return (value.dtype, value.shape) == self._form and id(value) not in self._known

    def _is_unknown(self, value: Tensor) -> bool:
        return not programs.is_on_device(value) or not programs.pending([value])[0]
