"""The commands in scripts/: each is executable, and its --help explains all options and shows defaults."""

from __future__ import annotations

import argparse
import doctest
import importlib
import os
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
from places import SCRIPTS

COMMANDS = sorted(path for path in SCRIPTS.iterdir() if path.is_file())
PYTHON = [path for path in COMMANDS if path.suffix == ".py"]


class Asked(Exception):  # noqa: N818 (not an error: the end of a script that asked for its options)
    """A script has built its parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def ask(parser: argparse.ArgumentParser) -> None:
    raise Asked(parser)


DOCUMENTED = [path for path in SCRIPTS.rglob("*.py") if "\n    >>> " in path.read_text()]


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.name)
def test_examples_in_docstrings_are_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    name = ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_scripts_holds_commands_that_can_be_executed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_help_explains_every_option_and_shows_its_default(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", ask)
    with mock.patch.dict(os.environ), pytest.raises(Asked) as asked:
        runpy.run_path(str(path), run_name="__main__")
    parser = asked.value.parser
    formatter = parser._get_formatter()
    assert parser.format_help()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        shown = formatter._expand_help(action)
        assert shown, action.option_strings
        if action.default not in (None, argparse.SUPPRESS) and action.default is not False:
            assert "default" in shown, action.option_strings
