"""The text of a kernel, and the program that calls it.

The text is Mosaic, the TPU compiler's language for kernels, as the sources in `scripts/support/kernels/`
lower to it; `scripts/support/kernels/text.py` writes the files, with names in place of sizes, and tests
compare the two.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from ..runtime.torch_xla import device
from .hlo_module import Array, custom_call_module


def computation(
    name: str, text: str, operands: Sequence[Array], result: Array, alias: int | None = None
) -> Any:
    """The program that torch_xla calls.

    Args:
        name: of the kernel.
        text: the kernel, for one set of sizes.
        alias: as for `custom_call_module`.
    """
    config = json.dumps({
        "custom_call_config": {
            "body": base64.b64encode(text.encode()).decode(),
            "serialization_format": 1,
            "needs_layout_passes": True,
            "disable_bounds_checks": False,
        }
    })  # fmt: skip
    return device.computation(name, custom_call_module(name, operands, result, config, alias))


@cache
def template(name: str) -> Template:
    """The file of a kernel, with names in place of sizes."""
    return Template(Path(__file__).with_name(f"{name}.mlir").read_text())
