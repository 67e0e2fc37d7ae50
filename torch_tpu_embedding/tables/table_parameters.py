"""A table of CPU mode as a module of its own, so that its tensors have the names that torch expects."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..config.resolved import WEIGHT


class TableParameters(nn.Module):
    """The weight of one table as a parameter, its slots as buffers.

    The module that holds it saves and loads them, after checks of all tables together.

    Args:
        values: field name → `[V, width]`.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(values[WEIGHT])
        for field, value in values.items():
            if field != WEIGHT:
                self.register_buffer(field, value)

    def extra_repr(self) -> str:
        return ", ".join(str(size) for size in self.weight.shape)

    def _save_to_state_dict(self, *args: Any) -> None:
        pass

    def _load_from_state_dict(self, *args: Any) -> None:
        pass
