"""The names that users may rely on: a change of it is a decision, and shows in public_surface.txt.

After such a decision: `scripts/run python tests/test_public_surface.py` writes the list again.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

LIST = Path(__file__).with_name("public_surface.txt")
MODULES = ("", ".checkpoint", ".dense_optimizers", ".distributed", ".optimizers", ".runtime")


def signature(value: object) -> str:
    """The parameters with their defaults; types are left to the type checker."""
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def members(name: str, kind: type) -> Iterator[str]:
    """The public methods and properties that a class has from this package."""
    own = [each for each in kind.__mro__ if each.__module__.startswith(tte.__name__)]
    for member in sorted({each for base in own for each in vars(base) if not each.startswith("_")}):
        value = inspect.getattr_static(kind, member)
        if isinstance(value, property):
            yield f"{name}.{member}"
        elif inspect.isroutine(value) or isinstance(value, classmethod | staticmethod):
            yield f"{name}.{member}{signature(getattr(kind, member))}"


def surface() -> list[str]:
    """One line for each public name."""
    lines = []
    for suffix in MODULES:
        module: ModuleType = importlib.import_module(tte.__name__ + suffix)
        for public in sorted(module.__all__):
            value, name = getattr(module, public), f"{module.__name__}.{public}"
            if inspect.ismodule(value):
                continue
            lines.append(name + (signature(value) if callable(value) else ""))
            if inspect.isclass(value):
                lines += members(name, value)
    return lines


def test_the_public_surface_is_the_one_that_was_decided() -> None:
    assert surface() == LIST.read_text().splitlines()


def test_every_public_name_exists_and_is_documented() -> None:
    for module in (
        tte,
        checkpoint,
        tte.dense_optimizers,
        tte.distributed,
        tte.optimizers,
        tte.runtime,
    ):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                assert inspect.getdoc(value), name


if __name__ == "__main__":
    LIST.write_text("\n".join(surface()) + "\n")
    print(f"{len(LIST.read_text().splitlines())} lines written to {LIST.name}", file=sys.stderr)
