"""scripts/run says which Python it cannot use, before it makes or installs anything."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(python: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    """`scripts/run true` in an environment of this interpreter."""
    return subprocess.run(
        [ROOT / "scripts" / "run", "true"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "VENV": str(venv)},
        capture_output=True,
        text=True,
        check=False,
    )


def stub(folder: Path, version: str) -> Path:
    """An interpreter that does nothing but tell its version."""
    made = folder / f"python{version}"
    made.write_text(f"#!/bin/sh\necho {version}\n")
    made.chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("3.9", "Python 3.11 or newer is needed"),
        ("3.10", "Python 3.11 or newer is needed"),
        ("3.14", "torch_xla 2.9 is there for Python 3.11 to 3.13"),
    ],
)
def test_an_interpreter_that_is_too_old_or_too_new_is_refused(
    tmp_path: Path, version: str, said: str
) -> None:
    python = stub(tmp_path, version)
    found = run(python, tmp_path / "venv")
    assert found.returncode == 1
    assert f"{said}, {python} is {version}; set PYTHON" in found.stderr
    assert not (tmp_path / "venv").exists()


def test_an_interpreter_that_is_not_there_is_not_said_to_be_old(tmp_path: Path) -> None:
    found = run(tmp_path / "python3.12", tmp_path / "venv")
    assert found.returncode == 1
    assert "is no Python that runs; set PYTHON" in found.stderr
    assert "newer" not in found.stderr


def test_another_python_than_that_of_the_environment_is_an_error_and_not_left_out(
    tmp_path: Path,
) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("version = 3.11.7\n")
    found = run(stub(tmp_path, "3.13"), venv)
    assert found.returncode == 1
    assert f"the environment {venv} is one of Python 3.11, and PYTHON is 3.13" in found.stderr


def test_a_call_that_begins_while_another_installs_waits_and_does_not_install_again(
    tmp_path: Path,
) -> None:
    """The interpreter makes an environment whose own python takes a while to "install"."""
    venv, log = tmp_path / "venv", tmp_path / "log"
    slow = f'#!/bin/sh\ncase "$1" in -m) echo installs >> {log}; sleep 1 ;; *) echo 3.11 ;; esac\n'
    python = stub(tmp_path, "3.11")
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec echo 3.11\nmkdir -p {venv}/bin\n'
        f"cat > {venv}/bin/python <<'E'\n{slow}E\nchmod +x {venv}/bin/python\n"
        f"echo 'version = 3.11.7' > {venv}/pyvenv.cfg\n"
    )
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(lambda _: run(python, venv), range(3))]
    assert [each.returncode for each in found] == [0, 0, 0], found
    assert log.read_text().split() == ["installs"] * 2, "its two steps, once"
    waited = f"another call installs into {venv}; this one waits for it"
    assert sum(waited in each.stderr for each in found) == 2
