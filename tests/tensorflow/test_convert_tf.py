"""Commands from-tensorflow and to-tensorflow: TensorFlow's checkpoints to ours and back, bit for bit.

Most tests need no TensorFlow; a checkpoint that it wrote is below. Those marked `tensorflow` have it write
and restore many more (`tf_checkpoint_writer.py`), in an environment of its own; see `test_tensorflow.py`.

Letters: V vocabulary, D dim, S shards.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SLOW, SUPPORT

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import rows as shard_module
from torch_tpu_embedding.checkpoint.__main__ import main
from torch_tpu_embedding.checkpoint.convert.tensorflow import choose
from torch_tpu_embedding.checkpoint.convert.tensorflow_bundle import (
    Bundle,
    BundleWriter,
    Rows,
)
from torch_tpu_embedding.checkpoint.convert.tensorflow_encoding import (
    crc32c,
    fields,
    message,
    slice_key,
)
from torch_tpu_embedding.checkpoint.convert.tensorflow_objects import (
    GRAPH,
    VALUE,
    Layout,
    Node,
    Unstacked,
    find_tables,
)

PYTHON = os.environ.get("TTE_TENSORFLOW_PYTHON", "")
Arrays = dict[str, np.ndarray]

INDEX = """c-muNVB=tvV&Y(Aa1dok%}q*8Ny*Gh*DozjEz%24OinJ%EzL<R$uBC_*K-UB3G#Fb4RH<D4|5Fibae7@jSqA533X*)
WMpb+YG~qM6ygwK;$Q+{1qBTO(_2DMSJ|+LHZ{WK7{PJ|8XTsv5&b<txn^`Z3#c5wvM`BOLM_z8Vxa)kP(3UbN<ifp
WccEpJzSl=1N=SxLcmt}J9)V}hs3)FIR<!eunRFLIB4`Tn=VSK_F*vBBQvm|cC&!&w&LJo5?}&hD=sb;4kiIcIGY*5
=9AW=npq4$zz8D#`_6p<=N$O7a03G)a~i{EX1G}G%4Z9IFmtrB@G}qu;lCTYRZ87&0{|l#bx{"""
DATA = """c-muNU}ylM`cq5{KyaX*0m?_GamlwcKQ)*6%q7gl%fTqbnVOrFnv#;4m#)Rc!N@h8kxQ6^Nr*o_Ej6*Ev?w(`IX^Eg
Go4F_gIS0#KEJf2ptK~uI3uwjwU|qggGGopz9caz2d<2RgH?#7v^cehOO%66ND#!*PfSiO%`MGIEXgk_=HlaE7vhR9
ODxI+X)9Jz;Sw)N(+dd*b%i;@IWZ?EDKR-4-DON#3~=lyWX;7F<{0GZ=;Y%XALi&2>MErPSFR7XR?jgcB*@b#G{iMn
A5|&XIDa8e3?s}@jnE55b~+&g`GB71fOsCvSK|@@1_2M6?^%Vo3KEMFb5l!Fi;6+&02Y3EDg"""
"""Written by TensorFlow 2.21: a table [4, 2] with Adagrad, in shards of 2, 1 and 1 rows."""


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """The prefix of that checkpoint."""
    for name, text in (("index", INDEX), ("data-00000-of-00001", DATA)):
        content = zlib.decompress(base64.b85decode(text.replace("\n", "")))
        (tmp_path / f"golden.{name}").write_bytes(content)
    return tmp_path / "golden"


def run(*arguments: object) -> dict[str, Any]:
    """The JSON report of a conversion that works."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(out.getvalue())


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of one that does not."""
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def read(directory: Path, step: int) -> Arrays:
    """'<table>.<field>' → rows."""
    with checkpoint.open(directory, step) as reader:
        return {
            f"{name}.{slot}": reader.read(name, slot, 0, entry.vocabulary_size).numpy()
            for name, entry in reader.tables.items()
            for slot in entry.fields
        }


def assert_same(found: Arrays, expected: Arrays) -> None:
    """The same names and bits."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name].view(np.int32), value.view(np.int32), name)


def bits(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Any float32s, NaNs of all kinds among them."""
    return (
        np.random.default_rng(seed)
        .integers(0, 256, (*shape[:1], 4 * shape[1]), np.uint8)
        .view("<f4")
    )


def tables_of(arrays: Arrays) -> dict[str, dict[str, np.ndarray]]:
    tables: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        name, _, slot = key.rpartition(".")
        tables.setdefault(name, {})[slot] = value
    return tables


def write_bundle(prefix: Path, nodes: list[Node], arrays: Arrays) -> None:
    """A checkpoint of any objects; row 0 of every array is a block of its own."""
    with BundleWriter(prefix) as writer:
        for key, value in arrays.items():
            writer.rows(key, value.shape, [value[:1], value[1:]])
        if nodes:
            writer.text(GRAPH, message(*[(1, node.serialize()) for node in nodes]))


@pytest.mark.parametrize(
    ("data", "crc"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_checksums_are_those_of_rfc_3720(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_checksums_go_on_from_any_place(data: bytes, place: int) -> None:
    assert crc32c(data) == crc32c(data[place:], crc32c(data[:place]))


def test_checksums_go_on_over_pieces() -> None:
    data = np.random.default_rng(0).integers(0, 256, (1 << 23) + 77, np.uint8)
    assert crc32c(data) == crc32c(data[1000:], crc32c(data[:1000]))


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 2**63 - 1) | st.binary(max_size=200)))
)
def test_messages_read_back(pairs: list[tuple[int, int | bytes]]) -> None:
    assert [*fields(message(*pairs))] == pairs


@pytest.mark.parametrize(
    ("number", "code"),
    # the boundaries of OrderedCode, by its definition: as many leading ones as bytes, then the sign
    [(0, "80"), (63, "bf"), (64, "c040"), (8191, "dfff"), (8192, "e02000"), (1 << 20, "f0100000"),
     (-1, "7f")],
)  # fmt: skip
def test_keys_of_slices_are_in_order_preserving_code(number: int, code: str) -> None:
    assert slice_key("a", [(number, 5)]) == b"\0a\0\x01\x01\x01" + bytes.fromhex(code) + b"\x85"


def test_a_sharded_checkpoint_of_tensorflow_is_put_together(golden: Path, tmp_path: Path) -> None:
    report = run("from-tensorflow", golden, tmp_path / "run", "--step", 3)
    value = np.array([[-0.0, np.inf], [1e-42, np.nan], [-0.0, np.inf], [-0.0, np.inf]], np.float32)
    assert_same(read(tmp_path / "run", 3), {"user.weight": value, "user.accumulators": value})
    assert report["tables"] == {
        "user": {
            "from": "embedding/user",
            "sparse_core": False,
            "shapes": {"weight": [4, 2], "accumulators": [4, 2]},
        }
    }
    assert report["left_out"] == {}


def test_an_embedding_loads_what_was_converted(golden: Path, tmp_path: Path) -> None:
    run("from-tensorflow", golden, tmp_path / "run", "--step", 3)
    table = tte.TableConfig(4, 2, name="user")
    embedding = tte.TPUEmbeddingForServing(tte.FeatureConfig(table), tte.Adagrad())
    checkpoint.load(embedding, tmp_path / "run")
    state = embedding.state_dict()
    found = {key: state[key].numpy() for key in ("user.weight", "user.accumulators")}
    assert_same(found, read(tmp_path / "run", 3))


def test_neither_tensorflow_nor_torch_xla_is_loaded(golden: Path, tmp_path: Path) -> None:
    command = (
        "import runpy, sys; sys.modules.update(torch_xla=None, tensorflow=None); "
        f"sys.argv = ['x', 'from-tensorflow', {str(golden)!r}, {str(tmp_path / 'run')!r}, '--step', '1']; "
        "runpy.run_module('torch_tpu_embedding.checkpoint', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "user: 4 x 2, slots accumulators, from embedding/user" in done.stdout


@pytest.mark.parametrize(("shards", "strategy"), [(1, "mod"), (3, "mod"), (4, "div")])
def test_there_and_back_is_the_identity(
    shards: int, strategy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 64)
    arrays = {
        "user.weight": bits((101, 3), 1),
        "user.linears": bits((101, 3), 2),
        "user.accumulators": bits((101, 3), 3),
        "a/b.c/.S.weight": bits((1, 5), 4),
        "table_2.weight": bits((2, 1), 5),
    }
    checkpoint.write_tables(
        tmp_path / "one", 5, tables_of(arrays), num_shards=shards, strategy=strategy
    )
    assert main(["to-tensorflow", f"{tmp_path}/one", f"{tmp_path}/tf/ckpt-1"]) == 0
    options = ["--step", "9", "--shards", "2", "--strategy", strategy]
    assert main(["from-tensorflow", f"{tmp_path}/tf/ckpt-1", f"{tmp_path}/two", *options]) == 0
    assert_same(read(tmp_path / "two", 9), arrays)
    assert sorted(os.listdir(tmp_path / "tf")) == [
        "checkpoint", "ckpt-1.data-00000-of-00001", "ckpt-1.index"
    ]  # fmt: skip


def test_tables_may_be_chosen_and_renamed_both_ways(tmp_path: Path) -> None:
    arrays = {"user.weight": bits((3, 2), 1), "item.weight": bits((4, 2), 2)}
    checkpoint.write_tables(tmp_path / "one", 5, tables_of(arrays))
    tf = tmp_path / "ckpt"
    report = run(
        "to-tensorflow",
        tmp_path / "one",
        tf,
        "--attribute",
        "model/emb",
        "--tables",
        "user=u",
        "item",
    )
    assert {name: table["from"] for name, table in report["tables"].items()} == {
        "u": "user",
        "item": "item",
    }
    report = run(
        "from-tensorflow", f"{tf}.index", tmp_path / "two", "--step", 1, "--tables", "x=model/emb/u"
    )
    assert_same(read(tmp_path / "two", 1), {"x.weight": arrays["user.weight"]})
    assert report["left_out"] == {
        f"model/emb/item{VALUE}": "of model/emb/item, not in --tables",
        f"save_counter{VALUE}": "of no table",
    }


def test_slots_of_one_number_a_row_are_left_out_for_tensorflow(tmp_path: Path) -> None:
    arrays = {"user.weight": bits((3, 2), 1), "user.accumulators": bits((3, 1), 2)}
    checkpoint.write_tables(tmp_path / "one", 5, tables_of(arrays))
    report = run("to-tensorflow", tmp_path / "one", tmp_path / "ckpt", "--step", 5)
    assert report["left_out"] == {"user.accumulators": "of shape [3, 1], which TensorFlow has not"}
    assert report["tables"]["user"]["shapes"] == {"weight": [3, 2]}


def test_a_directory_means_its_newest_checkpoint(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "golden"\nall_model_checkpoint_paths: "older"\n'
    )
    assert run("from-tensorflow", tmp_path, tmp_path / "run", "--step", 1)["from"] == str(golden)


def test_a_table_of_a_sparse_core_stack_is_found_by_its_layout() -> None:
    cores, per_core, offset, rotation = 4, 6, 2, 3
    table = bits((9, 3), 1)
    stack = bits((cores * per_core, 8), 2)
    for number, row in enumerate(table):  # one at a time, as the reference describes it
        core = (number % cores + rotation) % cores
        stack[core * per_core + offset + number // cores, :3] = row
    half = Rows((24, 8), [(0, 0, stack[:, :5]), (0, 5, stack[:, 5:])])
    found = Unstacked(half, Layout("t", "s", cores, table.shape, offset, rotation), "key")
    assert [*found.shape] == [9, 3]
    assert_same({"t": found[2:8]}, {"t": table[2:8]})
    with pytest.raises(
        ValueError, match=r"'key' is \[24, 8\], which does not hold Layout\(table='t'"
    ):
        Unstacked(half, Layout("t", "s", cores, (17, 3), offset, rotation), "key")


def two_embeddings() -> tuple[list[Node], Arrays]:
    nodes, arrays = [Node({"one": 1, "two": 2, "other": 3})], {}
    nodes += [Node({"_variables": 4}), Node({"_variables": 5}), Node({"_variables": 10})]
    nodes += [Node({"t": 6}), Node({"t": 7})]
    nodes += [Node({"parameters": 8, "count": 10}), Node({"parameters": 9})]
    for number, name in enumerate(("one/t", "two/t", "one/count")):
        arrays[name + VALUE] = bits((3 if number < 2 else 2, 2), number)
        nodes.append(Node(key=name + VALUE))
    return nodes, arrays


def test_tables_of_one_name_are_told_apart_by_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, arrays = two_embeddings()
    write_bundle(tmp_path / "ckpt", nodes, arrays)
    given = ["from-tensorflow", tmp_path / "ckpt", tmp_path / "run", "--step", 1]
    text = fail(capsys, *given)
    assert (
        "several tables 't': ['one/t', 'two/t']; pass --tables NAME=PATH, a name of its own" in text
    )
    report = run(*given, "--tables", "a=one/t", "b=two/t")
    expected = {"a.weight": arrays["one/t" + VALUE], "b.weight": arrays["two/t" + VALUE]}
    assert_same(read(tmp_path / "run", 1), expected)
    reason = "a slot of one/t of shape [2, 2], not a row an id"
    assert report["left_out"] == {"one/count" + VALUE: reason}


def test_an_unknown_layout_lists_the_keys_that_could_be_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {"tower/u": bits((3, 2), 1), "tower/u/momenta": bits((3, 2), 2)}
    arrays |= {f"m/v{VALUE}": bits((2, 2), 3), f"m/v.Slinears{VALUE}": bits((2, 2), 4)}
    write_bundle(tmp_path / "ckpt", [], arrays)
    given = ["from-tensorflow", tmp_path / "ckpt", tmp_path / "run", "--step", 1]
    text = fail(capsys, *given)
    assert (
        "no TPUEmbedding object in it; pass --tables NAME=KEY …, with keys of these:\n\tm/v  [2, 2]"
        in text
    )
    assert "\n\ttower/u  [3, 2]\n\ttower/u/momenta  [3, 2]\n" in text
    assert "'film' is neither a table of" in fail(capsys, *given, "--tables", "film")
    run(*given, "--tables", "user=tower/u", "item=m/v")
    expected = {"user.weight": arrays["tower/u"], "user.momenta": arrays["tower/u/momenta"]}
    expected |= {
        "item.weight": arrays[f"m/v{VALUE}"],
        "item.linears": arrays[f"m/v.Slinears{VALUE}"],
    }
    assert_same(read(tmp_path / "run", 1), expected)


def test_what_cannot_be_converted_is_named_with_the_remedy(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    text = fail(capsys, "from-tensorflow", tmp_path / "none", out, "--step", 1)
    assert (
        "none: no TensorFlow checkpoint; give its prefix, as tf.train.latest_checkpoint prints"
        in text
    )
    assert not out.exists()
    run("from-tensorflow", golden, out, "--step", 1)
    assert "this step is complete already" in fail(
        capsys, "from-tensorflow", golden, out, "--step", 1
    )
    text = fail(capsys, "to-tensorflow", out, tmp_path / "tf", "--tables", "film")
    assert "--tables: no ['film']; step 1 has ['user']" in text
    text = fail(capsys, "to-tensorflow", out, tmp_path / "tf", "--tables", "user", "user")
    assert "two tables would have one name; give each its own" in text
    text = fail(capsys, "to-tensorflow", out, tmp_path / "tf", "--attribute", "")
    assert "--attribute: expected names between slashes, got ''" in text
    assert not (tmp_path / "tf.index").exists()
    assert f"{golden}.index: is there already; give another name" in fail(
        capsys, "to-tensorflow", out, golden
    )
    assert "step 7" in fail(capsys, "to-tensorflow", out, tmp_path / "tf", "--step", 7)


def test_tensors_that_are_no_tables_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BundleWriter(tmp_path / "ckpt") as writer:
        writer.integer("count", 3)
    text = fail(
        capsys,
        "from-tensorflow",
        tmp_path / "ckpt",
        tmp_path / "run",
        "--step",
        1,
        "--tables",
        "count",
    )
    assert "'count' is int64 [], expected float32 [vocabulary_size, dim]; leave it out" in text
    assert "(there are no float32 tensors of two dimensions)" in fail(
        capsys, "from-tensorflow", tmp_path / "ckpt", tmp_path / "run", "--step", 1
    )


def test_data_files_that_are_missing_short_or_flipped_are_named(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(f"{golden}.data-00000-of-00001")
    content = data.read_bytes()
    given = ["from-tensorflow", golden, tmp_path / "run", "--step", 1]
    data.write_bytes(content[:40])
    assert f"{data}: cut short, 40 bytes, but" in fail(capsys, *given)
    data.unlink()
    assert f"{data}: missing, but" in fail(capsys, *given)
    data.write_bytes(bytes([content[0] ^ 4]) + content[1:])
    text = fail(capsys, *given)
    assert (
        f"{data}: damaged, 'embedding/user{VALUE}' does not match its checksum; copy it again"
        in text
    )
    assert not (tmp_path / "run").exists()
    assert run(*given, "--no-verify")["verified"] is False


def test_no_flipped_bit_goes_unnoticed(golden: Path) -> None:
    """Every conversion of a damaged checkpoint is an error, or gives what the good one gives."""

    def contents() -> Arrays:
        bundle = Bundle(golden)
        chosen = choose(bundle, find_tables(bundle), [])
        found = {}
        for name, table in chosen.items():
            for slot, key in table.keys.items():
                bundle.verify(key)
                found[f"{name}.{slot}"] = bundle.rows(key)[0:4]
        return found

    expected, rng, errors = contents(), random.Random(0), []
    for suffix in (".index", ".data-00000-of-00001"):
        path = Path(f"{golden}{suffix}")
        good = path.read_bytes()
        for _ in range(60):
            place = rng.randrange(len(good))
            flipped = bytes([good[place] ^ 1 << rng.randrange(8)])
            path.write_bytes(good[:place] + flipped + good[place + 1 :])
            try:
                found = contents()
            except ValueError as error:
                errors.append(str(error))
            else:
                assert_same(found, expected)
        path.write_bytes(good)
    assert len(errors) > 90
    assert all(str(golden) in text for text in errors)


def test_a_failure_leaves_no_half_written_checkpoint(tmp_path: Path) -> None:
    def blocks() -> Any:
        yield bits((1, 2), 1)
        raise RuntimeError("the source broke")

    with (
        pytest.raises(RuntimeError, match="the source broke"),
        BundleWriter(tmp_path / "c") as writer,
    ):
        writer.rows("a", (2, 2), blocks())
    assert os.listdir(tmp_path) == []


# What TensorFlow itself writes and restores.

needs_tensorflow = pytest.mark.skipif(
    not PYTHON, reason="needs TTE_TENSORFLOW_PYTHON, as test_tensorflow.py says"
)
OPTIMIZERS = ["SGD", "Adagrad", "Adam", "FTRL", "AdagradMomentum"]


def case(name: str, kind: str, *tables: tuple[str, int, int, str | None, int]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "tables": tables}


MIXED = (
    ("user", 7, 4, "FTRL", 2), ("item/of_a.b", 5, 2, "SGD", 1), ("word", 3, 1, "Adam", 3)
)  # fmt: skip
ADAM = (("user", 70, 5, "Adam", 2), ("item", 2, 3, "Adam", 1))
WRITTEN = [
    *[case(f"serving {each}", "serving", ("user", 9, 4, each, 2), ("item", 4, 3, each, 1))
      for each in OPTIMIZERS],
    case("weights alone", "serving", ("user", 9, 4, None, 2)),
    case("training", "training", *MIXED),
    case("root", "root", *MIXED, ("wide", 3, 40, "Adagrad", 1)),
    case("sharded", "sharded", *ADAM),
    case("saved_model", "saved_model", *MIXED),
    case("twice", "twice", *ADAM),
    case("by_name", "by_name", *ADAM),
    case("sparse_core", "sparse_core", *ADAM, ("third", 33, 8, "Adam", 1)),
    case("sparse_core_served", "sparse_core_served", *ADAM),
]  # fmt: skip
CHOSEN = {
    "twice": ["user=user/user", "item=user/item"],
    "by_name": ["user=tower/user", "item=tower/item"],
}


def ask_tensorflow(action: str, folder: Path, cases: list[dict[str, Any]]) -> dict[str, Arrays]:
    """Case → '<table>.<field>' → array."""
    (folder / "cases.json").write_text(json.dumps(cases))
    script = SUPPORT / "tensorflow_side" / "tf_checkpoint_writer.py"
    command = [PYTHON, str(script), action, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr[-3000:]}"
    found: dict[str, Arrays] = {each["name"]: {} for each in cases}
    with np.load(folder / ("written.npz" if action == "write" else "restored.npz")) as held:
        for key in held.files:
            name, _, field = key.partition("/")
            if field:
                found[name][field] = held[key]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Arrays]]:
    """Where TensorFlow wrote a checkpoint of each case, and what is in it."""
    folder = tmp_path_factory.mktemp("written")
    return folder, ask_tensorflow("write", folder, WRITTEN)


@pytest.mark.tensorflow
@needs_tensorflow
@pytest.mark.parametrize("name", [each["name"] for each in WRITTEN])
def test_what_tensorflow_wrote_arrives_bit_for_bit(
    name: str, written: tuple[Path, dict[str, Arrays]], tmp_path: Path
) -> None:
    folder, expected = written
    source = folder / name
    if (source / "ckpt.index").exists():
        source /= "ckpt"
    options = ["--tables", *CHOSEN[name]] if name in CHOSEN else []
    run("from-tensorflow", source, tmp_path, "--step", 4, "--shards", 2, *options)
    assert_same(read(tmp_path, 4), expected[name])


@pytest.mark.tensorflow
@needs_tensorflow
def test_tensorflow_restores_bit_for_bit_what_was_written_for_it(tmp_path: Path) -> None:
    slots = {each: getattr(tte, each)().slot_variable_names for each in OPTIMIZERS}
    cases = [
        case(f"{kind} {each}", kind, ("user", 9, 4, each, 2), ("it/em.", 4, 3, each, 1), *MIXED[2:])
        for each in OPTIMIZERS
        for kind in ("TPUEmbeddingForServing", "TPUEmbedding")
    ]
    expected: dict[str, Arrays] = {}
    for number, each in enumerate(cases):
        arrays = expected[each["name"]] = {
            f"{table}.{slot}": bits((rows, dim), 10 * number + place)
            for table, rows, dim, optimizer, _ in each["tables"]
            for place, slot in enumerate(["weight", *slots[optimizer]])
        }
        run_of = tmp_path / f"run-{number}"
        checkpoint.write_tables(run_of, 2, tables_of(arrays), num_shards=1 + number % 3)
        target = tmp_path / each["name"] / "ckpt"
        assert main(["to-tensorflow", str(run_of), str(target)]) == 0
    restored = ask_tensorflow("restore", tmp_path, cases)
    for name, arrays in expected.items():
        assert_same(restored[name], arrays)
