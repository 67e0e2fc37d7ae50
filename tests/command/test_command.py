"""`torch-tpu-embedding`: its commands, what they print, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT

import torch_tpu_embedding as tte
from torch_tpu_embedding.checkpoint.__main__ import main as checkpoint_main
from torch_tpu_embedding.command import smoke
from torch_tpu_embedding.command.main import main

COMMANDS = [
    "smoke",
    "describe",
    "inspect",
    "verify",
    "diff",
    "reshard",
    "from-tensorflow",
    "to-tensorflow",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_under_the_programs_name(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: torch-tpu-embedding {command}" in capsys.readouterr().out


MODULES = """
import contextlib, io, json, runpy, sys
found = []
for words in json.loads(sys.argv.pop()):
    sys.argv = ["", *words]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as left:
            status = left.code
    found.append([status, said.getvalue()])
print(json.dumps(found))
"""


def test_messages_never_begin_with_the_name_of_a_file(tmp_path: Path) -> None:
    """Modules are run as `python -m` does, all in one process."""
    ways = [[], ["inspect"], ["inspect", str(tmp_path / "none")], ["to-tensorflow", "x", "y"]]
    modules = {
        "torch_tpu_embedding": "torch-tpu-embedding",
        "torch_tpu_embedding.checkpoint": "python -m torch_tpu_embedding.checkpoint",
    }
    runs = [[module, *words] for module in modules for words in ways]
    words = [sys.executable, "-c", MODULES, json.dumps(runs)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert len(found) == len(runs)
    for (module, *_), (status, said) in zip(runs, found, strict=True):
        assert status == 2
        assert "__main__" not in said
        assert said.startswith((f"usage: {modules[module]}", f"{modules[module]}: "))


def test_describe_of_a_checkpoint_and_of_a_configuration_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adam = tte.Adam(lambda: 0.1)
    users = tte.TableConfig(20, 4, name="users", optimizer=adam, initializer=torch.zeros)
    features = {"user": tte.FeatureConfig(users)}
    embedding = tte.TPUEmbedding(features, 2, tte.Adagrad(0.1), device="cpu")
    tte.checkpoint.save(embedding, tmp_path / "run", step=4)
    (tmp_path / "config.json").write_text(json.dumps(tte.config_to_dict(features)))
    found = []
    for name in ("run", "config.json"):
        assert main(["describe", str(tmp_path / name)]) == 0
        text = capsys.readouterr().out
        assert "users: 20 x 4, optimizer Adam, slots momenta, velocities, 960 bytes" in text
        assert main(["describe", str(tmp_path / name), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["tables"])
    assert [{**each, "optimizer": None} for each in found[0]] == [
        {**each, "optimizer": None} for each in found[1]
    ]


def test_describe_of_another_file_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(("{", "[]", "{}", '{"format": 1}')):
        path = tmp_path / str(number)
        path.write_text(text)
        assert main(["describe", str(path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"torch-tpu-embedding: {path}: not a configuration")
        assert "json.dumps(config_to_dict(…))" in said


def test_smoke_trains_as_the_reference_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smoke"]) == 0
    said = capsys.readouterr().out
    assert "XLA's CPU device: 5 steps" in said
    assert "saved and loaded: equal" in said


def test_smoke_is_status_1_where_numbers_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "_reference_step", lambda *_: None)
    assert main(["smoke", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_checkpoint_commands_are_the_same_in_both_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tte.checkpoint.write_tables(tmp_path, 1, {"user": {"weight": torch.ones(3, 2)}})
    said = []
    for each in (main, checkpoint_main):
        assert each(["inspect", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
