"""Every public path argument: `~` and `file://` are understood, other addresses are errors, never names."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole
from processes.worlds import ThreadGroup, run_processes

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main
from torch_tpu_embedding.io.paths import local_path, path_option

TABLES = [table("user", 6, 2)]
SERVING = tte.TPUEmbeddingForServing(tte.FeatureConfig(tte.TableConfig(4, 2), name="f"))
ADDRESSES = [
    "gs://bucket/run",
    "s3://bucket/run.npy",
    "hdfs:///run",
    "dbfs:/mnt/run",
    "memory://run.json",
]


def export(path: Any) -> None:
    with checkpoint.open(Path.cwd() / "source") as reader:
        checkpoint.export_table(reader, "user", path)


def profile(path: Any) -> None:
    with tte.profile(path):
        pass


def write_metrics(path: Any) -> None:
    writer = tte.JsonLinesWriter(path)
    writer({"step": 1})
    writer.close()


CALLS: dict[str, Callable[[Any], object]] = {
    "checkpoint.save": lambda path: checkpoint.save(FakeEmbedding(TABLES), path, 1),
    "checkpoint.load": lambda path: checkpoint.load(FakeEmbedding(TABLES), path),
    "checkpoint.open": lambda path: checkpoint.open(path).close(),
    "checkpoint.complete_steps": lambda path: checkpoint.complete_steps(path),
    "checkpoint.wait": lambda path: checkpoint.wait(path),
    "checkpoint.write_tables": lambda path: checkpoint.write_tables(
        path, 2, {"t": {"weight": torch.zeros(2, 2)}}
    ),
    "checkpoint.export_table": export,
    "tte.profile": profile,
    "tte.JsonLinesWriter": write_metrics,
    "tte.export_serving": lambda path: tte.export_serving(SERVING, path, {"f": torch.tensor([1])}),
    "tte.export_program": lambda path: tte.export_program(
        tte.export_serving(SERVING), path, {"f": torch.tensor([1])}
    ),
}
NEW = {"tte.export_serving": "new.pt2", "tte.export_program": "new.pt2"}
"""The names of new files where only one ending is taken."""
ELSEWHERE = {
    "tte.TensorBoardWriter",  # TensorBoard writes to other addresses itself
    "checkpoint.Reader",  # `open` makes it
    "checkpoint.SaveHandle",  # `save` makes it
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a checkpoint named 'source', which is home too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoint.save(FakeEmbedding(TABLES, values=random_values(TABLES)), tmp_path / "source", 1)
    return tmp_path


def test_every_public_callable_with_a_path_is_tried_below() -> None:
    found = set()
    for prefix, module in (("tte", tte), ("checkpoint", checkpoint)):
        for name in module.__all__:
            each = getattr(module, name)
            if callable(each) and not (isinstance(each, type) and issubclass(each, Exception)):
                kinds = [str(p.annotation) for p in inspect.signature(each).parameters.values()]
                if any("Path" in kind for kind in kinds):
                    found.add(f"{prefix}.{name}")
    assert found == {*CALLS} | ELSEWHERE


@pytest.mark.parametrize("as_path", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_an_address_is_refused_with_the_remedy_and_nothing_is_written(
    here: Path, name: str, as_path: bool
) -> None:
    for address in ADDRESSES:
        with pytest.raises(ValueError) as caught:
            CALLS[name](Path(address) if as_path else address)
        assert address.split(":")[0] + ":" in str(caught.value)
        assert "mount the storage (as gcsfuse and mount-s3 do)" in str(caught.value)
    assert [each.name for each in here.iterdir()] == ["source"]


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_path_and_a_number_are_refused(here: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"the path is empty; give '\.' for the current directory"):
        CALLS[name]("")
    for wrong in (7, b"run"):
        with pytest.raises(TypeError, match=r"expected a str or a path, got (int|bytes)"):
            CALLS[name](wrong)


@pytest.mark.parametrize(
    "form", ["~/{}", "file://{home}/{}", "file:{home}/{}", "file://localhost{home}/{}"]
)
@pytest.mark.parametrize("name", CALLS)
def test_home_and_file_addresses_are_understood(here: Path, name: str, form: str) -> None:
    reads = name in (
        "checkpoint.load",
        "checkpoint.open",
        "checkpoint.complete_steps",
        "checkpoint.wait",
    )
    target = "source" if reads else NEW.get(name, "new.npy")
    CALLS[name](form.format(target, home=here))
    expected = ["source"] if reads else [target, "source"]
    assert sorted(each.name for each in here.iterdir()) == expected


def test_tensorboard_gets_home_expanded_and_addresses_as_they_are(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder: folder
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    for given, wanted in (
        ("~/logs", f"{here}/logs"), (f"file://{here}/logs", f"{here}/logs"), ("logs", "logs"),
        ("gs://bucket/logs", "gs://bucket/logs"),
    ):  # fmt: skip
        assert tte.TensorBoardWriter(given)._writer == wanted


def test_a_local_directory_with_such_a_name_is_taken_by_its_absolute_path(here: Path) -> None:
    run = here / "gs:" / "~" / "run"
    checkpoint.save(FakeEmbedding(TABLES), run, 1)
    assert checkpoint.complete_steps(str(run)) == [1]


def test_an_address_on_one_process_is_an_error_on_all(here: Path) -> None:
    def work(group: ThreadGroup) -> None:
        run = "gs://bucket/run" if group.rank else "run"
        checkpoint.save(FakeEmbedding(TABLES, group), run, 1)

    with pytest.raises(ValueError, match="mount the storage"):
        run_processes(2, work)
    with pytest.raises(ValueError, match="mount the storage"):
        run_processes(
            2,
            lambda group: checkpoint.load(
                FakeEmbedding(TABLES, group), "source" if group.rank else "gs://bucket/run"
            ),
        )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-that-name/run", "there is no home directory for '~nobody-of-that-name/run'"),
        ("file://host/run", "'file://host/run' names a host; write file:///absolute/path"),
        ("file:///", None),
        ("file:///a%20b", None),
    ],
)
def test_other_forms(path: str, message: str | None) -> None:
    if message is None:
        assert local_path(path) == Path({"file:///": "/", "file:///a%20b": "/a b"}[path])
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        local_path(path)


def test_the_command_line_refuses_and_understands_the_same(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["inspect", "gs://b"], ["verify", "gs://b"], ["diff", "gs://b", "source"],
        ["diff", "source", "gs://b"], ["reshard", "gs://b", "out", "--shards", "2"],
        ["reshard", "source", "gs://b", "--shards", "2"],
        ["from-tensorflow", "gs://b", "o", "--step", "1"],
        ["from-tensorflow", "tf", "gs://b", "--step", "1"],
        ["to-tensorflow", "gs://b", "o"], ["to-tensorflow", "source", "gs://b"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 2
        assert "'gs://b' is an address (gs:), and only files" in capsys.readouterr().err
    assert main(["verify", "~/source"]) == 0
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'gs://b' is an address"):
        path_option("gs://b")


def test_the_directory_of_a_step_is_refused_naming_the_one_above(here: Path) -> None:
    step = here / "source/step-1"
    message = re.escape(
        f"{step}: one step, not the directory of a run; give the directory above it, "
        f"{here / 'source'}, and step=1"
    )
    for name, call in CALLS.items():
        if name.startswith("checkpoint.") and name not in (
            "checkpoint.wait",
            "checkpoint.export_table",
        ):
            with pytest.raises(checkpoint.CheckpointError, match=message):
                call(step)
    embedding = FakeEmbedding(TABLES)
    checkpoint.load(embedding, here / "source", step=1)  # as the message says
    assert_same(whole([embedding.shard]), random_values(TABLES))
    (index,) = step.glob("*.index.json")
    with pytest.raises(NotADirectoryError, match="a file; give the directory of the run"):
        checkpoint.load(embedding, index)


def test_complete_steps_takes_what_save_takes(here: Path) -> None:
    assert checkpoint.complete_steps("source") == checkpoint.complete_steps(here / "source") == [1]
    assert checkpoint.complete_steps("nowhere") == []
