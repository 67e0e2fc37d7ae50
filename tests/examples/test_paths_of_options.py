"""Paths that an example cannot read or write are refused before it trains."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import serve_retrieval
import train_csv
import train_dlrm
import train_movielens
import train_retrieval
import train_stream
from places import EXAMPLES

from torch_tpu_embedding.io.paths import path_option

OUTPUTS = {
    train_dlrm: ["--plot", "--json", "--checkpoint"],
    train_movielens: ["--plot", "--json", "--checkpoint"],
    train_retrieval: ["--plot", "--json", "--checkpoint", "--export"],
    train_stream: ["--plot", "--json", "--checkpoint"],
}
INPUTS = {
    train_csv: ["--data"],
    train_dlrm: ["--data"],
    train_movielens: ["--data"],
    train_retrieval: ["--data"],
    serve_retrieval: ["directory"],
}


def path_options(module: ModuleType) -> list[str]:
    """The options of an example whose type is a path."""
    with (
        mock.patch.object(
            argparse.ArgumentParser, "parse_args", autospec=True, side_effect=StopIteration
        ) as asked,
        pytest.raises(StopIteration),
    ):
        module.main([])
    parser = asked.call_args.args[0]
    return [
        [*each.option_strings, each.dest][0]
        for each in parser._actions
        if each.type in (Path, path_option)
    ]


def test_the_lists_above_are_whole() -> None:
    modules = {*OUTPUTS, *INPUTS}
    assert {Path(str(module.__file__)).name for module in modules} | {"first_steps.py"} == {
        path.name for path in EXAMPLES.glob("*.py") if path.name != "conftest.py"
    }
    for module in modules:
        listed = OUTPUTS.get(module, []) + INPUTS.get(module, [])
        assert sorted(path_options(module)) == sorted(listed)


@pytest.mark.parametrize(
    ("module", "option"),
    [(module, option) for module, options in OUTPUTS.items() for option in options],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_cannot_be_written_is_said_before_anything_is_read(
    module: ModuleType, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    wrong = tmp_path / "file" / "below.png"
    data = ["--data", str(tmp_path / "nowhere")] if module in INPUTS else []
    assert module.main([*data, option, str(wrong)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"{module.__name__}.py: error: {option} {wrong} cannot be written: ")
    assert "in a folder that you may write to" in error or "in one that you may write to" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("module", INPUTS, ids=lambda module: module.__name__)
def test_what_cannot_be_read_is_said_in_a_sentence(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")
    (option,) = INPUTS[module]
    options = [missing, "--user", "1"] if option == "directory" else [option, missing]
    assert module.main(options) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"{module.__name__}.py: error: ")
    assert missing in error
