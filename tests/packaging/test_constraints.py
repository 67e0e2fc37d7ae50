"""constraints.txt, and that of torch_tpu: exact, complete, and of use with every build of torch."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from backends import DEVICE
from packaging.requirements import Requirement
from places import ROOT

EXTRAS = {"constraints.txt": "dev", "constraints-torch-tpu.txt": "dev-torch-tpu"}
FILES = {
    name: dict(
        line.split("==")
        for line in (ROOT / name).read_text().splitlines()
        if not line.startswith("#")
    )
    for name in EXTRAS
}
OWN = {file: Requirement(f"torch_tpu_embedding[{extra}]") for file, extra in EXTRAS.items()}
OF_THIS_ENVIRONMENT = FILES["constraints-torch-tpu.txt" if DEVICE == "tpu" else "constraints.txt"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("file", EXTRAS)
def test_every_requirement_of_what_is_installed_has_a_fitting_version(file: str) -> None:
    waiting = [*map(Requirement, PROJECT["dependencies"]), OWN[file]]
    for requirement in waiting:
        if canonical(requirement.name) == "torch-tpu-embedding":
            extras = PROJECT["optional-dependencies"]
            waiting += [Requirement(line) for each in requirement.extras for line in extras[each]]
        else:
            line = str(requirement)
            assert requirement.specifier.contains(FILES[file][canonical(requirement.name)]), line


def test_what_these_need_in_turn_has_a_version_too() -> None:
    for name in OF_THIS_ENVIRONMENT:
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        for requirement in map(Requirement, needed):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            of_torch = requirement.name.startswith(("nvidia-", "triton"))
            assert of_torch or canonical(requirement.name) in OF_THIS_ENVIRONMENT, (
                f"{requirement} of {name}"
            )


@pytest.mark.parametrize("file", EXTRAS)
def test_a_build_of_torch_for_the_cpu_fits_and_its_gpu_libraries_are_not_named(file: str) -> None:
    pins = FILES[file]
    assert Requirement(f"torch=={pins['torch']}").specifier.contains(f"{pins['torch']}+cpu")
    assert not [name for name in pins if name.startswith(("nvidia", "triton"))]
    assert not [version for version in pins.values() if "+" in version]


def test_the_extra_xla_has_the_torch_that_fits() -> None:
    assert PROJECT["optional-dependencies"]["xla"] == ["torch==2.9.0", "torch_xla==2.9.0"]
    assert sys.version_info >= (3, 11)
