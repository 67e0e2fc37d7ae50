"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readmes_python_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)  # it saves a checkpoint
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert float(names["loss"].cpu()) >= 0


def test_the_files_to_read_exist() -> None:
    section = README[README.index("## Read these files") :]
    for name in re.findall(r"`((?:torch_tpu_embedding/)?(?:\w+/)?\w+\.py)`", section):
        assert (ROOT / name).exists() or (ROOT / "torch_tpu_embedding" / name).exists(), name
