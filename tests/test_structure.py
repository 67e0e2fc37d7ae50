"""The house's rules that a command can check: who imports whom, and how long files and functions get."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends import FILES_OF_TORCH_XLA

import torch_tpu_embedding as tte

PACKAGE = Path(tte.__file__).parent
REPOSITORY = PACKAGE.parent
FLOORS = (
    {"optimizers", "dense_optimizers", "runtime", "io"},
    {"config", "distributed"},
    {"tables", "inputs", "kernels", "vocabularies"},
    {"batch"},
    {"program"},
    {"monitoring"},
    {"training"},
    {"replaying"},
    {""},
    {"serving"},
    {"command"},
)
"""Folders from the lowest to the root, which is ''. A file imports from its own floor and those below.

`checkpoint` stands beside: it may import all but the root, and only `command` imports it.
"""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below the package; the package itself is ''."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in its text."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        for alias in node.names:
            inner = f"{source}.{alias.name}".strip(".")
            yield inner if inner in known else source


def graph() -> dict[str, set[str]]:
    """Module → modules that it imports."""
    known = modules()
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def folder(module: str, known: dict[str, Path]) -> str:
    """The top-level folder that a module lies in; '' for the files of the root."""
    head = module.split(".")[0]
    return head if (PACKAGE / head).is_dir() else ""


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = graph()
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, " → ".join([*path[path.index(module) :], module])
        state[module] = 1
        for each in sorted(arrows[module]):
            visit(each, (*path, module))
        state[module] = 2

    for module in arrows:
        visit(module, ())


def test_imports_go_down_or_stay_on_their_floor() -> None:
    known = modules()
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = []
    for module, targets in graph().items():
        here = folder(module, known)
        for target in targets:
            there = folder(target, known)
            if module in ("", "__main__") or here == "command":
                wrong = False  # the package names what is public, and the command runs it, wherever it lies
            elif here == "checkpoint":
                wrong = there == ""
            elif there == "checkpoint":
                wrong = True
            else:
                wrong = floor[there] > floor[here]
            if wrong:
                upward.append(f"{module} imports {target}")
    assert upward == []


def test_every_folder_has_its_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"checkpoint"} == set().union(*FLOORS) - {""}


def test_imports_go_up_or_stay_in_their_row_in_the_table_of_contributing() -> None:
    known = modules()
    table = re.findall(r"^\| (`\w+/`|root) \|", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.M)
    row = {"" if name == "root" else name.strip("`/"): at for at, name in enumerate(table)}
    assert {*row} == {folder(name, known) for name in known}
    downward = [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if module not in ("", "__main__")
        and row[folder(target, known)] > row[folder(module, known)]
    ]
    assert downward == []


def python_files() -> list[Path]:
    """All Python files of the repository but the tests, whose length follows from what they test."""
    found = [*PACKAGE.rglob("*.py")]
    for name in ("examples", "scripts"):
        found += (REPOSITORY / name).rglob("*.py")
    return sorted(found)


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_have_at_most_350_lines_and_functions_60_below_their_docstring(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 60, node.name


@pytest.mark.parametrize("name", ["torch_tpu_embedding", "examples", "scripts", "tests"])
def test_no_docstring_begins_in_the_middle_of_a_sentence(name: str) -> None:
    found = []
    for path in (REPOSITORY / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
                continue
            if str(node.value.value).split()[:1] in (["Of"], ["What"], ["Whether"]):
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("name", ["torch_tpu_embedding", "examples", "scripts", "tests"])
def test_no_folder_has_more_than_12_python_files(name: str) -> None:
    root = REPOSITORY / name
    count = {path: len([*path.glob("*.py")]) for path in [root, *root.rglob("*/")]}
    count.pop(REPOSITORY / "scripts", None)  # the commands, whose paths are what users type
    assert {str(path.relative_to(REPOSITORY)): n for path, n in count.items() if n > 12} == {}


def test_tests_that_begin_by_importing_torch_xla_are_not_collected_without_it() -> None:
    tests = Path(__file__).parent
    found = [
        path.relative_to(tests).as_posix()
        for path in tests.rglob("test_*.py")
        if re.search(r"^(import|from) torch_xla\b", path.read_text(), re.M)
    ]
    assert sorted(found) == FILES_OF_TORCH_XLA
