"""The documentation that comes with the code: what `help` and an editor show of every public name."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import torch_tpu_embedding as tte

Documented = Callable[..., Any]
MODULES: list[ModuleType] = [
    tte,
    *(getattr(tte, name) for name in tte.__all__ if inspect.ismodule(getattr(tte, name))),
]


def is_called(value: object) -> bool:
    """True for functions and for classes whose objects a user makes: no protocols, no errors."""
    if inspect.isclass(value):
        return not getattr(value, "_is_protocol", False) and not issubclass(value, Exception)
    return inspect.isroutine(value)


def public_calls() -> Iterator[tuple[str, Documented]]:
    """Every public class, function and method of this package by its dotted name."""
    for module in MODULES:
        for public in module.__all__:
            value, name = getattr(module, public), f"{module.__name__}.{public}"
            if is_called(value):
                yield name, value
            if inspect.isclass(value):
                yield from ((f"{name}.{each}", getattr(value, each)) for each in methods(value))


def methods(kind: type) -> list[str]:
    own = [base for base in kind.__mro__ if base.__module__.startswith(tte.__name__)]
    names = {name for base in own for name in vars(base) if not name.startswith("_")}
    return sorted(name for name in names if inspect.isroutine(getattr(kind, name)))


CALLS = dict(public_calls())


def args_section(docstring: str) -> dict[str, str]:
    """Argument → its text, out of the section 'Args:' of a docstring in Google's style."""
    found = re.search(r"^Args:\n((?:(?: {4}.*)?\n)+)", docstring + "\n", re.MULTILINE)
    _, *parts = re.split(r"^ {4}\*{0,2}(\w+): ", found[1] if found else "", flags=re.MULTILINE)
    texts = (" ".join(text.split()) for text in parts[1::2])
    return dict(zip(parts[0::2], texts, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_every_public_call_documents_its_arguments_and_no_others(name: str) -> None:
    docstring = inspect.getdoc(CALLS[name])
    assert docstring
    parameters = [each for each in inspect.signature(CALLS[name]).parameters if each != "self"]
    assert [*args_section(docstring)] == parameters


@pytest.mark.parametrize("name", [name for name, value in CALLS.items() if inspect.isclass(value)])
def test_signatures_of_classes_show_names_and_no_catch_all(name: str) -> None:
    parameters = inspect.signature(CALLS[name]).parameters.values()
    assert not [each for each in parameters if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def test_properties_are_documented() -> None:
    for name, kind in CALLS.items():
        if not inspect.isclass(kind):
            continue
        for member, value in inspect.getmembers(kind, lambda each: isinstance(each, property)):
            assert member.startswith("_") or inspect.getdoc(value), f"{name}.{member}"


def test_all_optimizers_say_the_same_of_the_arguments_that_they_share() -> None:
    kinds = [
        getattr(tte, n) for n in ("SGD", "Adagrad", "RowWiseAdagrad", "AdagradMomentum", "Adam")
    ]
    sections = [args_section(inspect.getdoc(kind) or "") for kind in [*kinds, tte.FTRL]]
    shared = args_section(inspect.getdoc(tte.optimizers.Optimizer) or "")
    assert len(shared) == 8
    for section in sections:
        assert {name: section[name] for name in shared} == shared
    slotted = {section.get("slot_variable_creation_fn") for section in sections}
    assert len(slotted - {None}) == 1


@pytest.mark.parametrize("name", ["state_dict", "load_state_dict", "requires_grad_", "forward"])
def test_what_torch_modules_have_too_is_documented_for_tables(name: str) -> None:
    own = getattr(tte.TPUEmbedding, name).__doc__
    assert own
    assert own != getattr(torch.nn.Module, name).__doc__


def test_one_import_reaches_every_public_module() -> None:
    names = [module.__name__.rpartition(".")[2] for module in MODULES[1:]]
    assert {"checkpoint", "distributed", "optimizers", "runtime"} <= {*names}
    code = "import torch_tpu_embedding as tte; print(tte.checkpoint.save.__name__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["save"]


def test_help_lists_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, argument in ((tte.TableConfig, "padding_idx"), (tte.Adam, "sum_inside_sqrt")):
        help(kind)
        assert re.search(rf"\|\s+{argument}: \w+", capsys.readouterr().out)
