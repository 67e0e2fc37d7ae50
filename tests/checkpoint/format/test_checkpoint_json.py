"""JSON of a checkpoint, edited or damaged in its types: everywhere an error that names file and entry."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.checkpoint_fakes import FakeEmbedding, assert_same, random_values, table, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main
from torch_tpu_embedding.checkpoint.format import safetensors_file
from torch_tpu_embedding.checkpoint.format.index import _digest, read_index

TABLES = [table("user", 6, 2), table("item", 1, 1)]
INDEX = "model.safetensors.index.json"
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000
JSONS = st.sampled_from(
    ["null", "true", "false", "0", "1", "-1", "1.0", "1e400", "-Infinity", "NaN", str(2**63), str(10**30),
     '""', '"1"', '"x"', '"\\ud800"', "[]", "{}", '[1,"x"]', '{"a":null}', "[" * 30 + "]" * 30]
)  # fmt: skip


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 1, and step 2 as a delta on it with an extra file."""
    run = tmp_path_factory.mktemp("clean")
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES))
    checkpoint.save(embedding, run, 1)
    embedding.shard.train([0, 3])
    checkpoint.save(embedding, run, 2, {"at": 2}, since=1)
    return run


@pytest.fixture
def run(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "run")
    return tmp_path / "run"


def sign(path: Path, body: Any) -> None:
    """Write an index whose hash is right."""
    body.pop("sha256", None)
    path.write_text(json.dumps({**body, "sha256": _digest(body)}))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every entry of nested JSON, by the way to it."""
    if at:
        yield at
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from places(each, (*at, key))


def put(body: Any, at: tuple[Any, ...], value: Any) -> None:
    for key in at[:-1]:
        body = body[key]
    body[at[-1]] = value


def load(run: Path) -> object:
    embedding = FakeEmbedding(TABLES)
    try:
        return checkpoint.load(embedding, run, step=2), whole([embedding.shard])
    except Exception:
        assert not any(v.any() for fields in embedding.shard.held for v in fields.values())
        raise


def look(run: Path, *command: str) -> None:
    """A command that must end with its status, never with an exception."""
    with contextlib.redirect_stdout(None):
        assert main([*command, "--json"]) in (0, 1, 2)


def every_reader(run: Path) -> list[Callable[[], object]]:
    out = str(run / "out")
    return [
        lambda: load(run),
        lambda: look(run, "inspect", str(run), "--step", "2"),
        lambda: look(run, "verify", str(run)),
        lambda: look(run, "diff", str(run), str(run), "--step-a", "1", "--step-b", "2"),
        lambda: look(run, "reshard", str(run), out, "--shards", "2", "--step", "2"),
        lambda: checkpoint.save(FakeEmbedding(TABLES), run, 3, keep_last=1),
        lambda: checkpoint.load(FakeEmbedding(TABLES), run, step=2, fall_back=True),
    ]


def outcome(read: Callable[[], object]) -> object:
    """The result, or the text of an error of a kind that is promised."""
    try:
        return read()
    except (checkpoint.CheckpointError, ValueError) as error:
        return str(error)


@settings(max_examples=18)
@given(data=st.data())
def test_any_entry_of_an_index_with_any_json_value_is_good_or_an_error_that_names_the_file(
    clean: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = tmp_path_factory.mktemp("json") / "run"
    shutil.copytree(clean, run)
    wanted = load(run)[1]
    step = data.draw(st.sampled_from([1, 2]))
    path = run / f"step-{step}" / INDEX
    body = json.loads(path.read_text())
    del body["sha256"]
    at = data.draw(st.sampled_from([*places(body)]))
    put(body, at, json.loads(data.draw(JSONS)))
    sign(path, body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in every_reader(run):
            found = outcome(read)
            if isinstance(found, str):  # a valid index may be of tables that do not fit
                assert str(run) in found or found.startswith("checkpoint.load of step")
            elif isinstance(found, tuple):
                assert_same(found[1], wanted)
    assert checkpoint.complete_steps(run)[-1] == 3
    assert checkpoint.load(FakeEmbedding(TABLES), run).step == 3


def same_header(header: Any, content: bytes) -> bool:
    before = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    del before["__metadata__"]
    return json.dumps(before) == json.dumps(header)


@settings(max_examples=30)
@given(data=st.data())
def test_any_entry_of_a_header_with_any_json_value_is_an_error_that_names_the_file(
    clean: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = tmp_path_factory.mktemp("header") / "run"
    shutil.copytree(clean, run)
    path = data.draw(st.sampled_from(sorted(run.glob("step-*/*.safetensors"))))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    put(header, data.draw(st.sampled_from([*places(header)])), json.loads(data.draw(JSONS)))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    index = path.parent / INDEX
    body = json.loads(index.read_text())
    body["checkpoint"]["files"][path.name]["bytes"] = path.stat().st_size
    sign(index, body)
    found = outcome(lambda: load(run))
    assert str(path) in found if isinstance(found, str) else same_header(header, content)
    look(run, "verify", str(run))


ENTRIES = [
    (("checkpoint", "step"), "2", "checkpoint.step is '2', expected an integer of at least 0"),
    (("checkpoint", "step"), True, "checkpoint.step is True, expected an integer"),
    (("checkpoint", "num_shards"), 0, "checkpoint.num_shards is 0, expected an integer of at least 1"),
    (("checkpoint", "strategy"), None, "checkpoint.strategy is None, expected 'mod' or 'div'"),
    (("checkpoint", "tables", "user", "vocabulary_size"), "6",
     "checkpoint.tables['user'].vocabulary_size is '6', expected an integer of at least 1"),
    (("checkpoint", "tables", "user", "name"), 0,
     "checkpoint.tables['user'].name is 0, expected a string that is not empty"),
    (("checkpoint", "tables", "user", "dim"), -float("inf"), "tables['user'].dim is -inf, expected"),
    (("checkpoint", "tables", "user", "fields", "weight"), 2.0, "fields['weight'] is 2.0, expected"),
    (("checkpoint", "tables", "user", "optimizer"), [1], "optimizer is a list of 1, expected an object"),
    (("checkpoint", "tables"), [], "checkpoint.tables is a list of 0, expected an object"),
    (("checkpoint", "pieces", 1, "rows"), {}, "checkpoint.pieces[1].rows is an object, expected"),
    (("checkpoint", "pieces", 1, "first_id"), 10**30, f"pieces[1].first_id is {10**30}, expected"),
    (("checkpoint", "pieces", 0, "id_step"), 7, "checkpoint.pieces[0]: id 35 of 6 rows"),
    (("checkpoint", "pieces", 1, "table"), "film", "pieces[1] is of table 'film', which is not there"),
    (("checkpoint", "base"), {"step": 1}, "checkpoint.base.save_id is missing"),
    (("checkpoint", "base", "step"), 2, "a delta on step 2, which is not before it"),
    (("checkpoint", "extra"), "x", "no size and hash of 'x'"),
    (("checkpoint", "version"), True, "format version True, but this version reads 1"),
    (("weight_map",), None, "weight_map is None, expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "value", "message"), ENTRIES)
def test_an_entry_of_a_wrong_type_is_named(
    run: Path, at: tuple[str | int, ...], value: Any, message: str
) -> None:
    path = run / "step-2" / INDEX
    body = json.loads(path.read_text())
    put(body, at, value)
    sign(path, body)
    with pytest.raises(checkpoint.CheckpointError, match=re.escape(message)) as caught:
        read_index(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert re.search("load another step|install the version", str(caught.value))


@pytest.mark.parametrize(
    "text", [DEEP, DEEP.replace("1", "1e999"), "[1e999]", "null", '"x"', "7", "[]", "1" * 5000,
             '{"checkpoint": 1e999}', '{"checkpoint": []}', '{"checkpoint": {"format": 1e999}}']
)  # fmt: skip
@pytest.mark.parametrize("what", ["index", "header"])
def test_deep_nesting_and_infinities_never_escape(run: Path, what: str, text: str) -> None:
    """Neither `fall_back`, nor `verify`, nor a save whose own step is complete."""
    path = run / "step-2" / INDEX
    if what == "index":
        path.write_text(text)
    else:
        data = next((run / "step-2").glob("weight-*"))
        data.write_bytes(len(text).to_bytes(8, "little") + text.encode())
        body = json.loads(path.read_text())
        body["checkpoint"]["files"][data.name]["bytes"] = data.stat().st_size
        sign(path, body)
    with pytest.warns(UserWarning, match="step 2 cannot be loaded, step 1 is tried"):
        assert checkpoint.load(FakeEmbedding(TABLES), run, fall_back=True).step == 1
    assert main(["verify", str(run), "--json"]) == 1
    assert main(["inspect", str(run)]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save(FakeEmbedding(TABLES), run, 3, keep_last=1)
    assert checkpoint.load(FakeEmbedding(TABLES), run).step == 3


def test_what_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    rows = {"weight": torch.zeros(2, 2)}
    for tables, message in (
        ({0: rows}, "a table's name must be a string that is not empty, got 0"),
        ({"": rows}, "a table's name must be a string that is not empty, got ''"),
        ({"t": {0: torch.zeros(2, 2), **rows}}, "expected a string that is not empty"),
        (
            {"t": checkpoint.TableSource(rows, {"name": "Adagrad"})},
            "table 't'.optimizer.class is missing",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            checkpoint.write_tables(tmp_path, 1, tables)
    rule = checkpoint.TableSource(rows, {"class": "Mine", "scale": torch.ones(1)})
    with pytest.raises(ValueError, match=re.escape("table 't'.optimizer['scale'] is tensor([1.])")):
        checkpoint.write_tables(tmp_path, 1, {"t": rule})
    assert [*tmp_path.iterdir()] == []


def test_the_schema_takes_every_index_and_header_that_is_written(run: Path) -> None:
    for step in (1, 2):
        index = read_index(run / f"step-{step}" / INDEX)
        for name, entry in index.files.items():
            if name.endswith(".safetensors"):
                safetensors_file.TensorFile(run / f"step-{step}" / name, entry.bytes).close()
