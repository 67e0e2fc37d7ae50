"""Save → load is the identity, bit for bit, for any number of shards in and out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    FakeShard,
    assert_same,
    random_values,
    read_independently,
    table,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from places import SLOW
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import rows as shard_module
from torch_tpu_embedding.checkpoint.format.index import check_coverage
from torch_tpu_embedding.checkpoint.reading.step_reader import _overlap
from torch_tpu_embedding.config.resolved import Table
from torch_tpu_embedding.optimizers import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad

SHARDS = st.sampled_from([1, 2, 3, 4, 8])
STRATEGIES = st.sampled_from(["mod", "div"])
OPTIMIZERS = st.sampled_from([None, SGD(), Adagrad(), RowWiseAdagrad(), Adam(), FTRL()])
TABLES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 5), OPTIMIZERS), min_size=1, max_size=3
).map(lambda each: [table(f"t{i}", rows, dim, rule) for i, (rows, dim, rule) in enumerate(each)])


def save_all(
    tables: list[Table],
    values: dict[str, dict[str, torch.Tensor]],
    directory: Path,
    step: int,
    size: int,
    strategy: str,
    **options: dict[str, int] | int,
) -> None:
    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(tables, group, strategy, values)
        checkpoint.save(embedding, directory, step, timeout=10 * SLOW, **options)

    run_processes(size, work)


def load_all(
    tables: list[Table], directory: Path, size: int, strategy: str, **options: int | None
) -> dict[str, dict[str, torch.Tensor]]:
    def work(group: ThreadGroup) -> FakeShard:
        embedding = FakeEmbedding(tables, group, strategy)
        checkpoint.load(embedding, directory, **options)
        return embedding.shard

    return whole(run_processes(size, work))


@settings(max_examples=20)
@given(
    tables=TABLES, size=SHARDS, to=SHARDS, strategy=STRATEGIES, to_strategy=STRATEGIES,
    block=st.integers(1, 300), file=st.integers(1, 400), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shards_to_any_shards_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory,
    tables: list[Table],
    size: int,
    to: int,
    strategy: str,
    to_strategy: str,
    block: int,
    file: int,
    seed: int,
) -> None:
    directory = tmp_path_factory.mktemp("run")
    values = random_values(tables, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_module, "BLOCK_BYTES", block)  # several blocks and files even here
        save_all(tables, values, directory, 7, size, strategy, max_file_bytes=file)
        assert_same(load_all(tables, directory, to, to_strategy), values)
    assert_same(read_independently(directory / "step-7"), values)
    reader = checkpoint.open(directory)
    for each in tables:
        for field, wanted in values[each.name].items():
            half = each.vocabulary_size // 2
            parts = [reader.read(each.name, field, 0, half),
                     reader.read(each.name, field, half, each.vocabulary_size)]  # fmt: skip
            assert_same({"": {"": torch.cat(parts)}}, {"": {"": wanted}})


def test_a_checkpoint_of_one_process_reads_like_any_safetensors_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tables = [table("user", 10), table("item", 5)]
    values = random_values(tables)
    checkpoint.save(FakeEmbedding(tables, values=values), tmp_path, 3)
    index = json.loads((tmp_path / "step-3/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {
        "user.weight", "user.accumulators", "item.weight", "item.accumulators"
    }  # fmt: skip
    found = {}
    for file in set(index["weight_map"].values()):
        found.update(load_file(tmp_path / "step-3" / file))
    assert_same({"": found}, {"": {f"{t}.{f}": v for t in values for f, v in values[t].items()}})
    for name, entry in index["checkpoint"]["files"].items():
        content = (tmp_path / "step-3" / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert index["checkpoint"]["tables"]["user"]["optimizer"]["class"] == "Adagrad"


def test_nothing_but_data_files_and_the_index_remains(tmp_path: Path) -> None:
    tables = [table("user", 10)]
    save_all(tables, random_values(tables), tmp_path, 0, 3, "mod", extra={"position": 5})
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "step-0").iterdir())
    assert (
        names == ["accumulators"] * 3 + ["extra", "model.safetensors.index.json"] + ["weight"] * 3
    )


def test_weights_and_slots_lie_in_different_files_of_bounded_size(tmp_path: Path) -> None:
    tables = [table("user", 100, 4)]
    checkpoint.save(
        FakeEmbedding(tables, values=random_values(tables)), tmp_path, 0, max_file_bytes=320
    )
    files = sorted((tmp_path / "step-0").glob("weight-*.safetensors"))
    assert len(files) == 5  # 1600 bytes
    assert len([*(tmp_path / "step-0").glob("accumulators-*.safetensors")]) == 5


def test_extra_comes_back_and_tensors_of_it_are_on_the_cpu(tmp_path: Path) -> None:
    embedding = FakeEmbedding([table("user", 10)])
    extra = {
        "model": {"w": torch.arange(3.0, requires_grad=True)},
        "seen": 12,
        "names": ["a", ("b",)],
    }
    checkpoint.save(embedding, tmp_path, 1, extra)
    loaded = checkpoint.load(embedding, tmp_path)
    assert loaded.step == 1
    assert loaded.extra["seen"] == 12
    assert loaded.extra["names"] == ["a", ("b",)]
    assert loaded.extra["model"]["w"].tolist() == [0, 1, 2]
    checkpoint.save(embedding, tmp_path, 2)
    assert checkpoint.load(embedding, tmp_path).extra is None


def test_the_newest_complete_step_is_loaded_unless_one_is_named(tmp_path: Path) -> None:
    tables = [table("user", 10)]
    for step in (9, 10, 2):
        checkpoint.save(FakeEmbedding(tables, values=random_values(tables, step)), tmp_path, step)
    (tmp_path / "step-11").mkdir()
    assert checkpoint.complete_steps(tmp_path) == [2, 9, 10]
    for step, wanted in ((None, 10), (2, 2)):
        found = load_all(tables, tmp_path, 1, "mod", step=step)
        assert_same(found, random_values(tables, wanted))


def test_a_table_with_fewer_rows_than_shards(tmp_path: Path) -> None:
    tables = [table("tiny", 3, 1), table("one", 1)]
    values = random_values(tables)
    save_all(tables, values, tmp_path, 0, 8, "mod")
    assert_same(load_all(tables, tmp_path, 4, "div"), values)


@given(
    st.integers(0, 20), st.integers(1, 9), st.integers(1, 12),
    st.integers(0, 20), st.integers(1, 9), st.integers(1, 12),
)  # fmt: skip
def test_overlap_of_two_ranges_is_the_intersection(
    a: int, step: int, n: int, b: int, other_step: int, m: int
) -> None:
    wanted, held = range(a, a + n * step, step), range(b, b + m * other_step, other_step)
    places = _overlap(wanted, held)
    both = sorted({*wanted} & {*held})
    if places is None:
        assert both == []
    else:
        assert [wanted[p] for p in places[0]] == both
        assert [held[p] for p in places[1]] == both


@given(st.integers(1, 30), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=12), st.data())
def test_coverage_finds_every_missing_and_doubled_id(
    rows: int, shards: int, cuts: list[int], data: st.DataObject
) -> None:
    held = []
    for shard in range(shards):
        ids = range(shard, rows, shards)
        for cut in [*cuts, rows]:
            if ids:
                held.append(ids[:cut])
                ids = ids[cut:]
    assert check_coverage(held, rows, complete=True) is None
    place = data.draw(st.integers(0, len(held) - 1))
    fewer = held[:place] + held[place + 1 :]
    assert str(check_coverage(fewer, rows, complete=True)).endswith(
        ("is missing", "no rows at all")
    )
    assert "twice" in str(check_coverage([*held, held[place]], rows, complete=True))
    assert "twice" in str(check_coverage([*held, held[place]], rows, complete=False))
    assert check_coverage(fewer, rows, complete=False) is None
    assert check_coverage(held, rows - 1, complete=False) == (
        f"id {rows - 1} is beyond the vocabulary of {rows - 1}"
    )


def test_peak_memory_is_blocks_not_tables(tmp_path: Path) -> None:
    """Every read is bounded: the largest block asked of the shard is the block size."""
    asked = []

    class Watched(FakeShard):
        def read_rows(self, number: int, start: int, stop: int) -> dict[str, torch.Tensor]:
            asked.append(stop - start)
            return super().read_rows(number, start, stop)

    tables = [table("user", 1000, 4)]
    embedding = FakeEmbedding(tables)
    embedding.shard = Watched(tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_module, "BLOCK_BYTES", 32 * 100)
        checkpoint.save(embedding, tmp_path, 0)
    assert max(asked) == 100


def test_write_tables_writes_what_a_reader_and_an_embedding_read(tmp_path: Path) -> None:
    tables = [table("user", 21, 3), table("item", 2)]
    values = random_values(tables)
    sources = {
        "user": checkpoint.TableSource(values["user"], Adagrad(0.1)),
        "item": {name: rows.numpy() for name, rows in values["item"].items()},
    }
    for step, (shards, strategy) in enumerate([(1, "mod"), (3, "mod"), (4, "div")]):
        checkpoint.write_tables(
            tmp_path, step, sources, num_shards=shards, strategy=strategy, max_file_bytes=64,
            extra={"from": "elsewhere"},
        )  # fmt: skip
        assert_same(read_independently(tmp_path / f"step-{step}"), values)
        assert_same(load_all(tables, tmp_path, 2, "mod", step=step), values)
        with checkpoint.open(tmp_path, step) as reader:
            assert reader.extra() == {"from": "elsewhere"}
            assert reader.index.num_shards == shards
            assert reader.tables["user"].optimizer_name == "Adagrad"
            assert reader.tables["item"].optimizer is None


def test_write_tables_converts_other_floats_and_refuses_other_shapes(tmp_path: Path) -> None:
    half = torch.rand(5, 2).bfloat16()
    checkpoint.write_tables(tmp_path, 0, {"t": {"weight": half}})
    assert torch.equal(checkpoint.open(tmp_path).read("t", "weight", 1, 3), half[1:3].float())
    with pytest.raises(ValueError, match=r"table 't': 'accumulators' has shape \[4, 2\], expected"):
        checkpoint.write_tables(
            tmp_path, 1, {"t": {"weight": half, "accumulators": torch.zeros(4, 2)}}
        )
    with pytest.raises(ValueError, match="table 't': there is no field 'weight'"):
        checkpoint.write_tables(tmp_path, 1, {"t": {"linears": half}})
    with pytest.raises(ValueError, match="strategy must be 'mod' or 'div', got 'hash'"):
        checkpoint.write_tables(tmp_path, 1, {"t": {"weight": half}}, strategy="hash")
    assert checkpoint.complete_steps(tmp_path) == [0]


def test_a_reader_names_what_it_does_not_hold(tmp_path: Path) -> None:
    checkpoint.write_tables(tmp_path, 0, {"t": {"weight": torch.zeros(5, 2)}})
    reader = checkpoint.open(tmp_path)
    with pytest.raises(KeyError, match=r"step 0 holds no t\.linears; it holds t\.weight"):
        reader.read("t", "linears", 0, 1)
    with pytest.raises(IndexError, match=r"t: ids range\(3, 6\) are not within 0 … 4"):
        reader.read("t", "weight", 3, 6)
    assert reader.read("t", "weight", 2, 2).shape == (0, 2)
