"""Operations on bits that torch_xla 2.9 has no lowering for (it would run them on the host), as small
computations of their own, which XLA inlines."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from ..backends import require_backend


def as_ints(values: Tensor) -> Tensor:
    """The bits of float32 numbers, as int32."""
    found: Tensor = _operations()["as_ints"](values)
    return found


def as_floats(bits: Tensor) -> Tensor:
    """The float32 numbers of these int32 bits."""
    found: Tensor = _operations()["as_floats"](bits)
    return found


def shift_right(bits: Tensor, by: int) -> Tensor:
    """int32 bits shifted to the right by a number of places, zeros coming in from the left."""
    found: Tensor = _operations()["shift_right"](bits, by=by)
    return found


@cache
def _operations() -> dict[str, Any]:
    require_backend()
    import torch_xla.core.xla_builder as xb
    from torch_xla.core.xla_op_registry import register

    def shifted(bits: Any, by: int) -> Any:
        # the builder has no shifts; XLA makes one of this
        power = xb.Op.scalar(bits.builder(), 1 << by, xb.Type.S32).cast(xb.Type.U32)
        return (bits.bitcast(xb.Type.U32) / power).bitcast(xb.Type.S32)

    return {
        "as_ints": register("as_ints", lambda values: values.bitcast(xb.Type.S32)),
        "as_floats": register("as_floats", lambda bits: bits.bitcast(xb.Type.F32)),
        "shift_right": register("shift_right", shifted),
    }
