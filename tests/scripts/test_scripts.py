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


def run_here(path: Path, *options: str) -> None:
    """Run a script in this process, as its command would."""
    with pytest.MonkeyPatch.context() as patched, mock.patch.dict(os.environ):
        patched.syspath_prepend(str(SCRIPTS))
        patched.setattr(sys, "argv", [str(path), *options])
        runpy.run_path(str(path), run_name="__main__")


def parser_of(path: Path) -> argparse.ArgumentParser:
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", ask),
        pytest.raises(Asked) as asked,
    ):
        run_here(path)
    return asked.value.parser


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_help_explains_every_option_and_shows_its_default(path: Path) -> None:
    parser = parser_of(path)
    formatter = parser._get_formatter()
    assert parser.format_help()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        shown = formatter._expand_help(action)
        assert shown, action.option_strings
        if action.default not in (None, argparse.SUPPRESS) and action.default is not False:
            assert "default" in shown, action.option_strings


WRITTEN = {
    "output_file": "give the path of a file, in a folder that you may write to",
    "picture_file": "give the path of a file, in a folder that you may write to",
    "work_folder": "give a folder that exists and that you may write to",
    "output_folder": "give a folder, in one that you may write to",
}
"""The types of options for paths, and the remedy of each."""


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_a_path_that_cannot_be_written_is_refused_in_one_sentence_before_any_work(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    parser = parser_of(path)
    assert [each.option_strings for each in parser._actions if each.type is Path] == []
    for action in parser._actions:
        kind = getattr(action.type, "__name__", "")
        if kind not in WRITTEN:
            continue
        wrong = [file / "below.png"]
        if kind in ("output_file", "picture_file"):
            wrong += [tmp_path, tmp_path / "missing" / "new.png"]
        if kind == "work_folder":
            wrong += [file, tmp_path / "missing"]
        if kind == "output_folder":
            wrong += [file, file / "below" / "it"]
        for each in wrong:
            with pytest.raises(SystemExit) as ended:
                run_here(path, action.option_strings[0], str(each))
            assert ended.value.code == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert f"error: argument {action.option_strings[0]}: " in error
            assert f"{each}" in error
            assert error.endswith(WRITTEN[kind])
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b""


@pytest.mark.parametrize("kind", WRITTEN)
def test_paths_that_can_be_written_are_taken_and_left_as_they_are(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    option = getattr(importlib.import_module("support.paths"), kind)
    old = tmp_path / "old.png"
    old.write_text("as it was")
    good = {
        "output_file": [old, tmp_path / "new.json"],
        "picture_file": [old, tmp_path / "new.svg"],
        "work_folder": [tmp_path],
        "output_folder": [tmp_path, tmp_path / "new" / "and" / "deep"],
    }
    for path in good[kind]:
        assert option(str(path)) == path
    assert [each.name for each in tmp_path.iterdir()] == ["old.png"]
    assert old.read_text() == "as it was"


def test_a_picture_has_a_format_that_can_be_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_here(SCRIPTS / "bench.py", "--plot", str(tmp_path / "chart.bmp2"))
    assert "does not name a picture; let it end with .png or .svg" in capsys.readouterr().err


def test_an_interpreter_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(
        SystemExit, match="/nowhere/python cannot be run: No such file or directory;"
    ):
        run_here(SCRIPTS / "tpu_report.py", "--compiler-python", "/nowhere/python")
