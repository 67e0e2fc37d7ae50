"""The shell commands of README and docs/: cheap ones run, the others are held against their scripts.

Of a script that takes long, that it is there and that it knows each option is what can go wrong unseen.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from places import DOCS, ROOT, python_path
from processes.launch import forked_python

import torch_tpu_embedding as tte

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
CHECKED = ("ruff", "mypy", "pytest", "mkdocs", ".ci/run", "scripts/run")
"""Commands that .ci/run is made of, so that CI itself runs them."""
PROGRAM = "torch-tpu-embedding"
"""Our own command, which test_our_own_commands_run_as_written runs."""
ELSEWHERE = ("gcloud", "python3.11")
"""Commands that need a cloud, or make an environment of its own."""


def commands() -> list[str]:
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [" ".join(line.split()) for line in lines if line.strip()]
    return list(dict.fromkeys(found))


def words_of(command: str) -> list[str]:
    """The words without comment, variables in front, and the runners around a Python command."""
    words = shlex.split(command, comments=True)
    while words and (re.match(r"\w+=", words[0]) or (words[0] == "scripts/run" and words[1:])):
        words = words[1:]
    return words[2:] if words[:2] == ["--backend", "torch-tpu"] else words


COMMANDS = {command: words for command in commands() if (words := words_of(command))}
CHECKPOINT = {
    command: words
    for command, words in COMMANDS.items()
    if words[:3] == ["python", "-m", "torch_tpu_embedding.checkpoint"]
}
SCRIPTS = {
    command: words
    for command, words in COMMANDS.items()
    if words[0] in ("python", "torchrun") and command not in CHECKPOINT
}


def test_every_command_is_of_a_kind_that_is_checked() -> None:
    for command, words in COMMANDS.items():
        if (
            command in CHECKPOINT
            or command in SCRIPTS
            or words[0] in (*CHECKED, *ELSEWHERE, PROGRAM)
        ):
            continue
        assert words[:2] == ["pip", "install"], command


@pytest.mark.parametrize("command", SCRIPTS)
def test_scripts_are_there_and_know_their_options(command: str) -> None:
    words = SCRIPTS[command]
    at = next((n for n, word in enumerate(words) if word.endswith(".py")), None)
    if at is None or words[at] == "script.py":  # the reader's own
        return
    script = ROOT / words[at]
    folders = (script.parent, script.parent / "common", script.parent / "support")
    texts = [script.read_text()]
    texts += [path.read_text() for folder in folders for path in folder.glob("*.py")]
    for word in words[at + 1 :]:
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert any(f'"{option}"' in text for text in texts), option


@pytest.mark.parametrize("command", [c for c in COMMANDS if COMMANDS[c][:2] == ["pip", "install"]])
def test_extras_that_are_installed_exist(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in COMMANDS[command][2:]:
        for group in re.findall(r"^(?:\.|torch_tpu_embedding)\[([\w,-]+)\]$", word):
            assert {*group.split(",")} <= {*extras}


def test_the_checkpoint_commands_run_as_written(tmp_path: Path) -> None:
    """In the order of the page, but TensorFlow's files have to be written before they are read."""
    users = tte.TableConfig(20, 4, name="user")
    embedding = tte.TPUEmbeddingForServing({"user": tte.FeatureConfig(users)}, tte.Adagrad(0.1))
    for directory in ("run", "other"):
        tte.checkpoint.save(embedding, tmp_path / directory, step=1000)
        with torch.no_grad():
            embedding.embedding_tables[users].fill_(0.0)
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    for command in sorted(CHECKPOINT, key=lambda each: "from-tensorflow" in each):
        words = [forked_python(), *CHECKPOINT[command][1:]]
        if "from-tensorflow" in words:
            (tmp_path / "export").rename(tmp_path / "tf_run")
            (tmp_path / "run").rename(tmp_path / "saved")
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        found_a_difference = done.returncode == 1 and "diff" in words
        assert done.returncode == 0 or found_a_difference, done.stderr + done.stdout
    assert len(CHECKPOINT) >= 6


@pytest.mark.parametrize("command", [c for c in COMMANDS if COMMANDS[c][0] == PROGRAM])
def test_our_own_commands_run_as_written(command: str, tmp_path: Path) -> None:
    tte.checkpoint.write_tables(tmp_path / "run", 1, {"user": {"weight": torch.ones(3, 2)}})
    words = [sys.executable, "-m", "torch_tpu_embedding", *COMMANDS[command][1:]]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
