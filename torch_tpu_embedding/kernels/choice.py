"""The choice between row kernels and XLA's scatter-add."""

from __future__ import annotations

import os
from typing import Literal, get_args

from .. import runtime

RowKernels = Literal["auto", "on", "off"]
"""Who writes rows on a TPU: kernels, or XLA."""

VARIABLE = "TORCH_TPU_EMBEDDING_ROW_KERNELS"
"""The environment variable that says what 'auto' means."""

_AUTO_IS_ON = False
"""Until somebody has run the kernels on a TPU (`scripts/tpu_smoke.py --kernels`)."""


def wants_row_kernels(choice: RowKernels) -> bool:
    """True if kernels shall write the rows where there is a TPU.

    Args:
        choice: 'on', 'off', or 'auto': the environment variable, which may be 'auto' itself.

    Raises:
        ValueError: the choice or the environment variable is none of these.
    """
    if choice not in get_args(RowKernels):
        raise ValueError(
            f"TPUEmbedding: row_kernels must be one of 'auto', 'on', 'off', got {choice!r}"
        )
    found = choice if choice != "auto" else os.environ.get(VARIABLE, "auto")
    if found not in get_args(RowKernels):
        raise ValueError(
            f"TPUEmbedding: the environment variable {VARIABLE} must be one of 'auto', 'on', 'off', got "
            f"{found!r}"
        )
    return _AUTO_IS_ON if found == "auto" else found == "on"


def on_a_tpu() -> bool:
    """True if programs are run by a TPU: no other device has these kernels, whatever its tables' layout."""
    return runtime.device_kind() == "TPU"
