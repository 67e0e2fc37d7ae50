"""A process without torch_xla and torch_tpu: the core works, and what trains says which line to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from torch_tpu_embedding import runtime

BLOCKED = "import sys; sys.modules['torch_xla'] = sys.modules['torch_tpu'] = None\n"
MISSING = f"{runtime.backend()} is not installed"
INSTALL = "run: pip install 'torch_tpu_embedding[" + (
    "xla]'" if runtime.backend() == "torch_xla" else "torch-tpu]'"
)
"""The backend that works with this environment's torch."""
START = """
import torch
import torch_tpu_embedding as tte
table = tte.TableConfig(10, 4, name="user")
features = {"user": tte.FeatureConfig(table)}
"""
CORE = """
serving = tte.TPUEmbeddingForServing(features, tte.Adagrad(0.1))
rows = serving({"user": torch.tensor([1, 2, 3])})["user"]
on_cpu = tte.TPUEmbedding(features, 2, tte.Adagrad(0.1), device="cpu")
tte.checkpoint.save(on_cpu, "run", step=1)
tte.checkpoint.load(serving, "run")
tte.export_serving(on_cpu, "tables.pt2", {"user": torch.tensor([1, 2])})
program = torch.export.load("tables.pt2").module()
one = {"user": torch.tensor([7])}
assert torch.equal(program(one)["user"], serving(one)["user"])
from torch_tpu_embedding.command.main import main
assert main(["verify", "run"]) == main(["describe", "run"]) == main(["smoke", "--cpu-tables"]) == 0
"""
CALLS = [
    "tte.TPUEmbedding(features, 2, tte.Adagrad(0.1)).build()",
    "tte.runtime.sync()",
    "tte.runtime.device()",
    "tte.runtime.manual_seed(1)",
    "tte.runtime.compile_count()",
    "tte.runtime.wait_seconds()",
    "tte.runtime.cpu_fallbacks()",
    "tte.runtime.use_spmd()",
    "tte.runtime.is_spmd()",
    "tte.runtime.local_device_ids()",
    "tte.runtime.cache_compiled_programs('programs')",
]
EACH = """
import json
said = {}
for call in CALLS:
    try:
        exec(call)
    except (ModuleNotFoundError, RuntimeError) as error:
        said[call] = str(error)
print(json.dumps(said))
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-c",
        f"sys = __import__('sys'); sys.path.insert(0, {str(ROOT)!r})\n" + code,
    ]
    # Nothing imports torch_tpu at the start: not torch, and not what brings the tests their device.
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)


def test_serving_export_and_checkpoints_work(tmp_path: Path) -> None:
    done = run(BLOCKED + START + CORE, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error text of each of CALLS, all in one process."""
    folder = tmp_path_factory.mktemp("calls")
    done = run(f"{BLOCKED}{START}CALLS = {CALLS!r}\n{EACH}", folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_what_needs_it_names_the_install_line(call: str, said: dict[str, str]) -> None:
    assert MISSING in said[call]
    assert INSTALL in said[call]


def test_the_command_says_so_too(tmp_path: Path) -> None:
    code = "from torch_tpu_embedding.command.main import main; sys.exit(main(['smoke']))"
    done = run(BLOCKED + code, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"torch-tpu-embedding: {MISSING}")
