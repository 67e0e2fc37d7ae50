"""The first steps: one script, told on a page and in a notebook, which are held equal to it.

`PYTHONPATH=tests/support scripts/run python` and this file write the notebook again, from the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from backends import DEVICE
from places import DOCS, EXAMPLES, ROOT, SLOW, python_path
from processes.launch import forked_python

SCRIPT, NOTEBOOK = EXAMPLES / "first_steps.py", EXAMPLES / "first_steps.ipynb"
PAGE = DOCS / "first_steps.md"
START = """# First steps

A click model of two embedding tables: data, model, steps, a checkpoint and a plot. All cells together are
`examples/first_steps.py`."""
INSTALL = """# In Colab take away the first # of the next line, run the cell, and restart the session.
# %pip install "torch_tpu_embedding[xla,examples]"
import os

os.environ.setdefault("PJRT_DEVICE", "CPU")  # a TPU runtime has set it to TPU
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's own threads would fight XLA's for the cores"""


def sections() -> list[tuple[str, str]]:
    """The page's sections that have code: (heading and text, code)."""
    return re.findall(
        r"(## (?:(?!^## |```).)*)```python\n(.*?)\n```", PAGE.read_text(), re.M | re.S
    )


def notebook() -> dict[str, Any]:
    cells = [("markdown", START), ("code", INSTALL)]
    for text, code in sections():
        without_docstring = re.sub(r'\A""".*?"""\n\n', "", code)
        cells += [("markdown", text.strip()), ("code", without_docstring)]
    made = []
    for number, (kind, text) in enumerate(cells):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def run_script(folder: Path) -> list[str]:
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": python_path(ROOT)}
    command = [forked_python(), str(SCRIPT)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_script_has_at_most_70_lines() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 70


def test_the_page_tells_the_whole_script() -> None:
    told = "\n".join(code for _, code in sections())
    assert told.split() == SCRIPT.read_text().split()


def test_the_notebook_is_made_of_the_page() -> None:
    assert json.loads(NOTEBOOK.read_text()) == notebook()


def test_the_script_learns_and_goes_on_behind_its_last_checkpoint(tmp_path: Path) -> None:
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown
    form = re.compile(r"epoch (\d): (\d+\.\d)% right, (\d+) programs compiled")
    expected = [form.fullmatch(line) for line in shown[1].splitlines()]
    found = [form.fullmatch(line) for line in run_script(tmp_path)]
    assert len(found) == len(expected) == 5
    for mine, told in zip(found, expected, strict=True):
        assert mine
        assert told
        assert mine[1] == told[1]
        assert abs(float(mine[2]) - float(told[2])) < 2
        # torch_tpu counts operators, too: how many there are is not told, but that none comes later
        assert mine[3] == (told[3] if DEVICE == "xla" else found[0] and found[0][3])
    assert (tmp_path / "first_steps.png").stat().st_size > 0
    shutil.rmtree(tmp_path / "first_steps_run" / "step-4")
    again = [form.fullmatch(line) for line in run_script(tmp_path)]
    assert [mine and mine[1] for mine in again] == ["4"]
    assert again[0]
    assert abs(float(again[0][2]) - float(expected[4][2])) < 2  # type: ignore[index]


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="pip install '.[docs]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(NOTEBOOK, 4)
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    client = nbclient.NotebookClient(
        book, timeout=60 * SLOW, resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=environment)
    printed = [each.get("text", "") for cell in book.cells for each in cell.get("outputs", [])]
    assert "epoch 4" in "".join(printed)


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n")
