"""The wheel: what is in it, and that it works elsewhere, by itself: import, command, types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT, python_path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = ("hatchling", "hatch_fancy_pypi_readme")

USER = """\
import torch

import torch_tpu_embedding as tte

table = tte.TableConfig(10, 4, name="user", optimizer=tte.Adam(0.1))
embedding = tte.TPUEmbedding({"user": tte.FeatureConfig(table)}, 2, tte.Adagrad(0.1), device="cpu")
reveal_type(table.dim)
reveal_type(tte.Ragged.from_lists([[1], []]))
reveal_type(embedding.state_dict())
tte.TableConfig("ten", 4)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := [each for each in TOOLS if find_spec(each) is None]:
        pytest.skip(f"{missing} are not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def run(installed: Path, words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that sees the installed wheel, and nothing of this repository."""
    environment = {**os.environ, "PYTHONPATH": python_path(installed)}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


def metadata(wheel: Path) -> Parser:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("METADATA")]
        return Parser().parsestr(archive.read(name).decode())  # type: ignore[return-value]


def test_it_holds_the_package_and_its_marker_of_types_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {each.split("/")[0].split("-")[0] for each in names} == {"torch_tpu_embedding"}
    assert "torch_tpu_embedding/py.typed" in names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "torch_tpu_embedding").rglob("*.py")}
    assert {each for each in names if each.endswith(".py")} == sources


def test_the_links_of_its_readme_are_addresses(wheel: Path) -> None:
    text: str = metadata(wheel).get_payload()  # type: ignore[attr-defined]
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    base = PROJECT["project"]["urls"]["Repository"] + "/blob/main/"
    assert len(links) >= 20
    for link in links:
        assert link.startswith(("https://", "#"))
        if link.startswith(base):
            assert (ROOT / link.removeprefix(base).partition("#")[0]).exists(), link


def test_the_core_does_not_need_torch_xla(wheel: Path) -> None:
    needed = metadata(wheel).get_all("Requires-Dist")  # type: ignore[attr-defined]
    core = [each for each in needed if "extra ==" not in each]
    assert not [each for each in core if "torch-xla" in each or "torch_xla" in each]
    xla = [each for each in needed if re.search("extra == .xla.", each)]
    assert sorted(each.split(";")[0].strip() for each in xla) == [
        "torch-xla==2.9.0",
        "torch==2.9.0",
    ]


def test_it_is_imported_and_its_command_runs_elsewhere(installed: Path, tmp_path: Path) -> None:
    code = "import torch_tpu_embedding as tte; print(tte.__file__)"
    done = run(installed, [sys.executable, "-c", code], tmp_path)
    assert done.stdout.strip() == str(installed / "torch_tpu_embedding/__init__.py"), done.stderr
    command = [sys.executable, str(installed / "bin/torch-tpu-embedding")]
    done = run(installed, [*command, "smoke", "--cpu-tables"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "saved and loaded: equal" in done.stdout


def test_its_command_converts_to_tensorflow_and_back(installed: Path, tmp_path: Path) -> None:
    code = (
        "import torch, torch_tpu_embedding as tte\n"
        "tte.checkpoint.write_tables('run', 3, {'user': {'weight': torch.rand(9, 4)}})"
    )
    assert run(installed, [sys.executable, "-c", code], tmp_path).returncode == 0
    command = [sys.executable, "-m", "torch_tpu_embedding"]
    for words in (
        ["to-tensorflow", "run", "export/ckpt-1"],
        ["from-tensorflow", "export/ckpt-1", "again", "--step", "3"],
        ["diff", "run", "again"],
    ):
        done = run(installed, [*command, *words], tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout == "no difference\n"


def test_mypy_sees_its_types(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="pip install '.[dev]'")
    (tmp_path / "user.py").write_text(USER)
    # To read torch's types takes most of the time, and ours are what is looked at.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n")
    # a path of MYPYPATH would be checked as sources; PYTHONPATH is where installed packages are found
    environment = {**os.environ, "PYTHONPATH": python_path(installed)}
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "user.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = done.stdout
    assert 'Revealed type is "builtins.int"' in said, said + done.stderr
    assert 'Revealed type is "torch_tpu_embedding.inputs.ragged.Ragged"' in said
    assert 'user.py:10: error: Argument 1 to "TableConfig" has incompatible type "str"' in said
    assert said.count("error:") == 1, said
