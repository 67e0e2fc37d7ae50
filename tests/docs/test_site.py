"""The site: its navigation has every page, and its reference every public name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from places import DOCS, ROOT

import torch_tpu_embedding as tte

CONFIG = ROOT / "mkdocs.yml"
MODULES = [tte, *(each for name in tte.__all__ if inspect.ismodule(each := getattr(tte, name)))]


def public() -> dict[str, Any]:
    """Every public class and function by its dotted name."""
    found = {
        f"{module.__name__}.{n}": getattr(module, n) for module in MODULES for n in module.__all__
    }
    return {n: v for n, v in found.items() if inspect.isclass(v) or inspect.isroutine(v)}


def test_the_navigation_has_every_page_once() -> None:
    named = re.findall(r": ([\w/]+\.md)$", CONFIG.read_text(), re.MULTILINE)
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    assert sorted(named) == sorted(pages)


def test_every_public_module_has_a_page_of_reference() -> None:
    shown = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    found = re.findall(r"^::: (\S+)$", shown, re.MULTILINE)
    assert {module.__name__ for module in MODULES} <= {*found}


def test_the_site_is_built_without_a_warning_and_its_reference_is_complete(tmp_path: Path) -> None:
    for library in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(library, reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    inventory = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    shown = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    missing = []
    for path, value in public().items():
        # a function with a file of its own name is shown by its place
        missing += [path] if not {path, f"{value.__module__}.{value.__qualname__}"} & shown else []
        for member, method in vars(value).items() if inspect.isclass(value) else ():
            documented = inspect.isfunction(method) and method.__doc__
            if documented and not member.startswith("_") and f"{path}.{member}" not in shown:
                missing.append(f"{path}.{member}")
    assert missing == []
