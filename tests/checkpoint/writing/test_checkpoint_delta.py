"""Deltas: chains of changed rows, and `keep_last`, which never cuts one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    FakeShard,
    assert_same,
    random_values,
    table,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from processes.worlds import ThreadGroup, run_processes

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import rows as shard_module
from torch_tpu_embedding.optimizers import SGD, Adam

TABLES = [table("user", 30), table("item", 7, 2, SGD())]


def clone(values: dict[str, dict[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {f: v.clone() for f, v in fields.items()} for name, fields in values.items()}


def load_whole(directory: Path, **options: int) -> dict[str, dict[str, torch.Tensor]]:
    embedding = FakeEmbedding(TABLES)
    checkpoint.load(embedding, directory, **options)
    return whole([embedding.shard])


@settings(max_examples=12)
@given(
    rounds=st.lists(st.tuples(st.sets(st.integers(0, 29)), st.booleans()), min_size=1, max_size=4),
    size=st.sampled_from([1, 2, 3, 8]), to=st.sampled_from([1, 2, 5]),
    strategy=st.sampled_from(["mod", "div"]), asynchronous=st.booleans(),
    block=st.integers(1, 300), file=st.integers(1, 300),
)  # fmt: skip
def test_a_chain_of_deltas_loads_as_the_tables_stood(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[set[int], bool]],
    size: int,
    to: int,
    strategy: str,
    asynchronous: bool,
    block: int,
    file: int,
) -> None:
    run, values = tmp_path_factory.mktemp("run"), random_values(TABLES)
    snapshots = [[None] * size for _ in range(len(rounds) + 1)]

    def work(group: ThreadGroup) -> None:
        embedding = FakeEmbedding(TABLES, group, strategy, values)
        checkpoint.save(embedding, run, 0)
        snapshots[0][group.rank] = FakeEmbedding(TABLES, group, strategy, values).shard
        newest = 0
        for step, (ids, from_newest) in enumerate(rounds, 1):
            embedding.shard.train(sorted(ids), float(step))
            base = newest if from_newest else 0
            checkpoint.save(
                embedding, run, step, since=base, asynchronous=asynchronous, max_file_bytes=file
            )
            now = FakeEmbedding(TABLES, group, strategy)
            now.shard.held = [{f: v.clone() for f, v in t.items()} for t in embedding.shard.held]
            snapshots[step][group.rank] = now.shard
            newest = step
        checkpoint.wait(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_module, "BLOCK_BYTES", block)
        run_processes(size, work)
        for step, shards in enumerate(snapshots):
            wanted = whole(shards)
            assert_same(load_whole(run, step=step), wanted)
            reader = checkpoint.open(run, step)
            assert_same({t: {f: reader.rows(t, f)[:] for f in wanted[t]} for t in wanted}, wanted)

        def load(group: ThreadGroup) -> FakeShard:
            embedding = FakeEmbedding(TABLES, group, "mod")
            checkpoint.load(embedding, run)
            return embedding.shard

        assert_same(whole(run_processes(to, load)), whole(snapshots[-1]))


def test_a_delta_holds_the_changed_rows_only(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES))
    checkpoint.save(embedding, tmp_path, 0)
    embedding.shard.train([3, 5])
    checkpoint.save(embedding, tmp_path, 1, since=0)
    index = checkpoint.open(tmp_path, 1).index
    assert {(p.table, p.field, p.rows) for p in index.pieces} == {
        ("user", "ids", 2), ("user", "weight", 2), ("user", "accumulators", 2),
        ("item", "ids", 2), ("item", "weight", 2),
    }  # fmt: skip
    assert index.base.step == 0
    checkpoint.save(embedding, tmp_path, 2, since=1)
    assert checkpoint.open(tmp_path, 2).index.pieces == ()
    assert_same(load_whole(tmp_path), whole([embedding.shard]))


def test_an_optimizer_that_moves_all_rows_makes_full_deltas(tmp_path: Path) -> None:
    rule = Adam(sum_inside_sqrt=True, lazy_adam=False)
    assert rule.moves_all_rows
    embedding = FakeEmbedding([table("user", 6, 2, rule)])
    checkpoint.save(embedding, tmp_path, 0)
    checkpoint.save(embedding, tmp_path, 1, since=0)
    assert {piece.rows for piece in checkpoint.open(tmp_path).index.pieces} == {6}


def test_a_step_that_this_run_did_not_save_or_load_cannot_be_a_base(tmp_path: Path) -> None:
    checkpoint.save(FakeEmbedding(TABLES), tmp_path, 0)
    embedding = FakeEmbedding(TABLES)
    text = (
        r"since=0, but this embedding does not know what changed.*no step here.*save without since="
    )
    with pytest.raises(checkpoint.CheckpointError, match=text):
        checkpoint.save(embedding, tmp_path, 1, since=0)
    checkpoint.load(embedding, tmp_path, slots="skip")  # not all of it
    with pytest.raises(checkpoint.CheckpointError, match="does not know what changed"):
        checkpoint.save(embedding, tmp_path, 1, since=0)
    checkpoint.load(embedding, tmp_path)
    embedding.shard.train([1])
    checkpoint.save(embedding, tmp_path, 1, since=0)
    assert_same(load_whole(tmp_path), whole([embedding.shard]))


def test_a_base_that_is_gone_or_was_saved_anew_is_refused(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES)
    checkpoint.save(embedding, tmp_path, 0)
    index = tmp_path / "step-0/model.safetensors.index.json"
    index.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="since=0, but that step is not there"):
        checkpoint.save(embedding, tmp_path, 1, since=0)
    checkpoint.save(FakeEmbedding(TABLES), tmp_path, 0)
    with pytest.raises(checkpoint.CheckpointError, match="since=0, but that step was saved again"):
        checkpoint.save(embedding, tmp_path, 1, since=0)


def test_a_chain_with_a_missing_or_replaced_base_does_not_load(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES)
    checkpoint.save(embedding, tmp_path, 0)
    embedding.shard.train([1])
    checkpoint.save(embedding, tmp_path, 1, since=0)
    (tmp_path / "step-0/model.safetensors.index.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="a delta on step 0, which is not there"):
        load_whole(tmp_path)
    checkpoint.save(FakeEmbedding(TABLES), tmp_path, 0)
    with pytest.raises(
        checkpoint.CheckpointError, match="a delta on step 0 as another run saved it"
    ):
        load_whole(tmp_path)
    with pytest.warns(UserWarning, match="step 1 cannot be loaded, step 0 is tried"):
        load_whole(tmp_path, fall_back=True)


def test_a_list_of_ids_that_was_tampered_with_is_refused_even_unverified(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES)
    checkpoint.save(embedding, tmp_path, 0)
    embedding.shard.train([1, 2])
    checkpoint.save(embedding, tmp_path, 1, since=0)
    (path,) = (tmp_path / "step-1").glob("ids-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 128
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="is no rising list of ids of its shard"):
        load_whole(tmp_path, verify=False)


def test_keep_last_keeps_the_newest_and_what_their_deltas_stand_on(tmp_path: Path) -> None:
    embedding = FakeEmbedding(TABLES, values=random_values(TABLES))
    save = checkpoint.save
    save(embedding, tmp_path, 0)
    save(embedding, tmp_path, 1)
    save(embedding, tmp_path, 2)
    embedding.shard.train([4])
    save(embedding, tmp_path, 3, since=1)
    save(embedding, tmp_path, 4, since=3, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [1, 3, 4]
    assert_same(load_whole(tmp_path), whole([embedding.shard]))
    save(embedding, tmp_path, 5, keep_last=2)
    assert checkpoint.complete_steps(tmp_path) == [1, 3, 4, 5]
    save(embedding, tmp_path, 6, keep_last=2)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["step-5", "step-6"]


def test_keep_last_leaves_later_steps_alone(tmp_path: Path) -> None:
    for step in (0, 1, 9):
        checkpoint.save(FakeEmbedding(TABLES), tmp_path, step)
    checkpoint.save(FakeEmbedding(TABLES), tmp_path, 5, keep_last=1)
    assert checkpoint.complete_steps(tmp_path) == [5, 9]


def test_changed_blocks_reads_only_rows_that_changed_in_bounded_blocks() -> None:
    embedding = FakeEmbedding([table("user", 100)])
    read = []
    real = embedding.shard.read_scattered
    embedding.shard.read_scattered = lambda *args: (read.append(args[1].tolist()), real(*args))[1]
    embedding.shard.read_rows = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_module, "BLOCK_BYTES", 32 * 2)
        changed = [torch.tensor([5, 9, 95])]
        blocks = [*shard_module.changed_blocks(embedding.shard, changed)]
    assert read == [[5, 9], [95]]
    assert [values["ids"].tolist() for _, values in blocks] == read
