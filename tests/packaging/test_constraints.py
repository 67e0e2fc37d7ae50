"""constraints.txt: exact, complete, and of use with every build of torch."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from places import ROOT

PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_of_what_is_installed_has_a_fitting_version() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [
        line for extra in ("dev", "xla", "test", "examples", "docs") for line in extras[extra]
    ]
    for line in lines:
        requirement = Requirement(line)
        if canonical(requirement.name) != "torch-tpu-embedding":
            assert requirement.specifier.contains(PINS[canonical(requirement.name)]), line


def test_what_these_need_in_turn_has_a_version_too() -> None:
    for name in PINS:
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")
        for requirement in map(Requirement, needed):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            of_torch = requirement.name.startswith(("nvidia-", "triton"))
            assert of_torch or canonical(requirement.name) in PINS, f"{requirement} of {name}"


def test_a_build_of_torch_for_the_cpu_fits_and_its_gpu_libraries_are_not_named() -> None:
    assert Requirement(f"torch=={PINS['torch']}").specifier.contains("2.9.0+cpu")
    assert not [name for name in PINS if name.startswith(("nvidia", "triton"))]
    assert not [version for version in PINS.values() if "+" in version]


def test_the_extra_xla_has_the_torch_that_fits() -> None:
    assert PROJECT["optional-dependencies"]["xla"] == ["torch==2.9.0", "torch_xla==2.9.0"]
    assert sys.version_info >= (3, 11)
