"""Programs run to their end on a terminal of any encoding."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import train_dlrm
import train_movielens

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main


def ascii_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Put a terminal that knows ASCII alone in the place of stdout; gives what was printed there."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)

    def text() -> str:
        terminal.flush()
        return terminal.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]

    return text


def test_names_of_tables_are_escaped_in_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = ascii_terminal(monkeypatch)
    for run, value in (("one", 0.0), ("other", 1.0)):
        checkpoint.write_tables(tmp_path / run, 1, {"né→": {"weight": torch.full((2, 2), value)}})
    one = str(tmp_path / "one")
    assert main(["inspect", one]) == 0
    assert "  n\\xe9\\u2192 (optimizer not known)" in printed()
    assert main(["diff", one, str(tmp_path / "other")]) == 1
    assert "n\\xe9\\u2192.weight: 2 of 2 rows differ" in printed()
    assert main(["to-tensorflow", one, str(tmp_path / "tf/ckpt-1")]) == 0
    assert "n\\xe9\\u2192: 2 x 2" in printed()


@pytest.mark.parametrize("program", [main, train_dlrm.main, train_movielens.main])
def test_help_is_printed(monkeypatch: pytest.MonkeyPatch, program: Callable[..., Any]) -> None:
    printed = ascii_terminal(monkeypatch)
    with pytest.raises(SystemExit) as caught:
        program(["--help"])
    assert caught.value.code == 0
    assert "usage:" in printed()
