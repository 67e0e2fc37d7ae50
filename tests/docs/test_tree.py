"""The files and folders that CONTRIBUTING.md and docs/design.md name are there, and the lists are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import DOCS, ROOT

PACKAGE = ROOT / "torch_tpu_embedding"
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def files() -> set[str]:
    """Every path of a source, a page or a folder, and each of its ends: `a/b.py` is also `b.py`."""
    found = set()
    for top in ("torch_tpu_embedding", "scripts", "examples", "tests", "docs", ".ci"):
        for path in (ROOT / top, *(ROOT / top).rglob("*")):
            parts = path.relative_to(ROOT).parts
            end = "/" if path.is_dir() else ""
            found |= {"/".join(parts[at:]) + end for at in range(len(parts))}
    return found | {path.name for path in ROOT.iterdir()}


THERE = files()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sources_that_a_page_names_are_there(page: Path) -> None:
    words = re.findall(r"`([\w./-]+(?:\.py|\.md|\.sh))(?:::\w+)?`", page.read_text())
    assert [word for word in words if word not in THERE] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/design.md"])
def test_folders_that_a_page_about_the_code_names_are_there(name: str) -> None:
    words = re.findall(r"`([\w./]+/)`", (ROOT / name).read_text())
    assert words
    assert [word for word in words if word not in THERE] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/design.md"])
def test_every_folder_of_the_package_is_named(name: str) -> None:
    named = set(re.findall(r"`(\w+)/`", (ROOT / name).read_text()))
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - named == set()


def test_the_files_of_a_folder_that_the_way_of_a_batch_names_are_in_it() -> None:
    rows = re.findall(r"^\| \d \| `(\w+)/` \| (.*) \|$", (DOCS / "design.md").read_text(), re.M)
    assert len(rows) >= 7
    for folder, text in rows:
        for name in re.findall(r"`(\w+\.py)`", text):
            assert (PACKAGE / folder / name).is_file(), f"{folder}/{name}"
