"""jax and the TPU's compiler are for the tests of the kernels alone: no user installs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from places import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TOOLS = {"jax", "jaxlib", "libtpu"}


def names(requirements: list[str]) -> set[str]:
    """The packages of requirements, those of our own extras included."""
    found: set[str] = set()
    for each in requirements:
        ours = re.fullmatch(r"torch_tpu_embedding\[(.*)\]", each)
        if ours:
            found |= set().union(*(names(EXTRAS[extra]) for extra in ours[1].split(",")))
        else:
            found.add(re.split(r"[\[=<>~ ]", each)[0])
    return found


def test_no_other_extra_brings_them() -> None:
    assert names(EXTRAS["tpu-report"]) >= TOOLS
    for extra, requirements in EXTRAS.items():
        assert extra == "tpu-report" or not names(requirements) & TOOLS
    assert not names((ROOT / "constraints.txt").read_text().splitlines()) & TOOLS


def test_ci_runs_their_tests_in_an_environment_of_its_own() -> None:
    assert ".ci/kernels" in (ROOT / ".ci" / "run").read_text().splitlines()
    text = (ROOT / ".ci" / "kernels").read_text()
    assert "tpu-report" not in (ROOT / "scripts" / "run").read_text()
    assert ".venv-tpu-report" in text
    assert ".venv-tpu-report/" in (ROOT / ".gitignore").read_text().splitlines()
    subprocess.run(["bash", "-n", ".ci/kernels"], cwd=ROOT, check=True)
    for path in re.findall(r"tests/\S+\.py", text):
        assert (ROOT / path).exists()


def test_the_package_needs_none_of_them() -> None:
    code = "import sys, torch_tpu_embedding.kernels.sum_rows as s; s.kernel_text(8, 8, 8, 32); "
    code += "assert not {'jax', 'jaxlib', 'libtpu'} & {*sys.modules}, 'jax is imported'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
