"""Which backend a process has, and what is said where none can be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.runtime import backends

REMEDY = r"pip install 'torch_tpu_embedding\[xla\]', or 'torch_tpu_embedding\[torch-tpu\]'"
EXTRAS = {"torch_xla": r"\[xla\]", "torch_tpu": r"\[torch-tpu\]"}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Forget the backends that a test lets the package find, before the next test."""
    yield
    backends.backend.cache_clear()
    backends.require_backend.cache_clear()


def find(monkeypatch: pytest.MonkeyPatch, *installed: str, torch_version: str) -> None:
    """Let these backends be installed beside such a torch, and nothing be chosen by the environment."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setattr(torch, "__version__", torch_version)
    names = ("torch_xla", "torch_tpu")
    monkeypatch.setattr(backends, "_installed", lambda: [n for n in names if n in installed])
    backends.backend.cache_clear()
    backends.require_backend.cache_clear()


@pytest.mark.parametrize(
    ("installed", "version", "device_type"),
    [("torch_xla", "2.9.0+cpu", "xla"), ("torch_tpu", "2.13.0+cpu", "tpu")],
)
def test_the_installed_backend_is_taken(
    monkeypatch: pytest.MonkeyPatch, installed: str, version: str, device_type: str
) -> None:
    find(monkeypatch, installed, torch_version=version)
    assert (backends.backend(), backends.device_type()) == (installed, device_type)
    backends.require_backend()


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("2.9.0", "torch_xla"), ("2.10.0", "torch_xla"), ("2.15.0", "torch_tpu")],
)
def test_with_neither_the_choice_follows_torch_and_an_accelerator_is_an_error(
    monkeypatch: pytest.MonkeyPatch, version: str, wanted: str
) -> None:
    find(monkeypatch, torch_version=version)
    assert backends.backend() == wanted
    remedy = rf"pip install 'torch_tpu_embedding{EXTRAS[wanted]}'"
    with pytest.raises(
        ModuleNotFoundError, match=rf"^{wanted} is not installed.*{remedy}.*device=\"cpu\""
    ) as caught:
        backends.require_backend()
    assert caught.value.name == wanted


def test_with_both_installed_one_must_be_chosen_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find(monkeypatch, "torch_xla", "torch_tpu", torch_version="2.13.0")
    with pytest.raises(
        RuntimeError, match=r"both installed.*set TPU_EMBEDDING_BACKEND to torch_xla or"
    ):
        backends.require_backend()
    monkeypatch.setenv(backends.VARIABLE, "torch_tpu")
    backends.require_backend()
    monkeypatch.setenv(backends.VARIABLE, "torch_xla")
    backends.backend.cache_clear()
    backends.require_backend.cache_clear()
    assert backends.backend() == "torch_xla"
    wrong = "works with torch 2.9 up to 2.9, and torch 2.13.0 is installed; .*" + REMEDY
    with pytest.raises(ImportError, match=wrong):
        backends.require_backend()


def test_a_chosen_backend_that_is_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find(monkeypatch, "torch_xla", torch_version="2.9.0")
    monkeypatch.setenv(backends.VARIABLE, "torch_tpu")
    with pytest.raises(
        ImportError, match=r"=torch_tpu, which is not installed, but torch_xla is; unset"
    ):
        backends.require_backend()


def test_a_name_of_no_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, "torch_xla", torch_version="2.9.0")
    monkeypatch.setenv(backends.VARIABLE, "jax")
    with pytest.raises(ValueError, match="must be torch_xla or torch_tpu, got 'jax'; unset it"):
        backends.backend()


def test_describe_says_which_backend_it_is() -> None:
    table = tte.TableConfig(8, 4)
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 2, tte.SGD(0.1))
    (title, *_) = embedding.describe().splitlines()
    assert title == f"TPUEmbedding on {embedding.device} by {tte.runtime.backend_name()}"
    assert tte.runtime.backend() in title


def test_neither_backend_is_imported_to_serve_on_the_cpu() -> None:
    code = """
import sys, torch, torch_tpu_embedding as tte
before = set(sys.modules)
table = tte.TableConfig(8, 4)
serving = tte.TPUEmbedding([tte.FeatureConfig(table)], 2, tte.SGD(0.1), device="cpu")
serving([torch.tensor([1, 2])])
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"torch_xla", "torch_tpu"}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True)
