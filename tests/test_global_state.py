"""torch's global state (default dtype and device, modes of the caller) changes nothing in the tables."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch.utils._device

import torch_tpu_embedding as tte

PACKAGE = Path(tte.__file__).parent
FACTORIES = {made.__name__ for made in torch.utils._device._device_constructors()} | {"frombuffer"}
TAKES_NO_DEVICE = {"frombuffer"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_every_factory_call_of_the_package_names_dtype_and_device(path: Path) -> None:
    loose = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        if name not in FACTORIES or owner not in ("torch", "torch.nested"):
            continue
        named = {keyword.arg for keyword in node.keywords}
        wanted = {"dtype", "device"} - ({"device"} if name in TAKES_NO_DEVICE else set())
        if not wanted <= named:
            loose.append(f"{path}:{node.lineno}: torch.{name} without {sorted(wanted - named)}")
    assert not loose, "\n".join(loose)
