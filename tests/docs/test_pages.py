"""The pages of docs/: each can be followed from its first Python block to its last.

Some take a model of the reader's for granted: test_readme.py names them, and gives them one. The first
steps are the script that test_first_steps.py runs. Every other page, also one that is new, runs by itself.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from places import DOCS

CASES = Path(__file__).with_name("test_readme.py").read_text()
ELSEWHERE = {"first_steps.md", *re.findall(r'"docs/([\w/]+\.md)"', CASES)}


class Block(NamedTuple):
    """A Python block of a page."""

    text: str
    needs: str | None
    """The thing that a block cannot run without, a library as a rule; it is compiled at least."""


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r"(?:<!-- needs (.*?) -->\n\n)?```python\n(.*?)```",
        page.read_text(),
        re.DOTALL,
    )
    return [Block(text, needs or None) for needs, text in found]


def there_is(library: str) -> bool:
    try:
        importlib.import_module(library)
    except ImportError:
        return False
    return True


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.name not in ELSEWHERE and blocks(page)]


@pytest.mark.filterwarnings("ignore:cache_compiled_programs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    for number, block in enumerate(blocks(page)):
        code = compile(block.text, f"{page.name}, block {number}", "exec")
        if block.needs is None or there_is(block.needs):
            exec(code, names)


def test_only_libraries_that_are_compared_or_recommended_may_be_missing() -> None:
    """And torch_xla: torch_tpu has no kernel for a GradScaler's unscaling, and no tables in bfloat16."""
    needed = {(page.name, block.needs) for page in PAGES for block in blocks(page) if block.needs}
    assert needed == {
        ("bfloat16.md", "torch_xla"),
        ("from_tensorflow.md", "tensorflow and a TPU"),
        ("from_torchrec.md", "torchrec"),
        ("good_to_know.md", "torch_xla"),
        ("good_to_know.md", "torchdata"),
    }
