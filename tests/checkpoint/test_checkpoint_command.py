"""`python -m torch_tpu_embedding.checkpoint`: what it prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_fakes import (
    FakeEmbedding,
    assert_same,
    random_values,
    read_independently,
    table,
)
from places import ROOT

from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main

TABLES = [table("user", 20), table("item", 5, 2)]


def values(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: {f: torch.rand(v.shape, generator=generator) for f, v in fields.items()}
        for name, fields in random_values(TABLES).items()
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Step 1, step 2 with one row changed as a delta, and step 5 that never finished."""
    embedding = FakeEmbedding(TABLES, values=values(1))
    checkpoint.save(embedding, tmp_path, 1, {"position": 3})
    embedding.shard.train([4], 9.0)
    checkpoint.save(embedding, tmp_path, 2, since=1)
    (tmp_path / "step-5").mkdir()
    return tmp_path


def flip(run: Path) -> Path:
    (path,) = (run / "step-1").glob("weight-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


def test_inspect_shows_steps_tables_slots_bytes_and_norms(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run), "--step", "1"]) == 0
    text = capsys.readouterr().out
    assert "complete steps: 1, 2; never finished: 5" in text
    assert "step 1: 1 shard (mod), 3 files, " in text
    assert "  user (optimizer Adagrad)\n    weight                   20 x 4      norm " in text
    whole = 4 * sum(fields["weight"].numel() for fields in values(1).values())
    assert f"for serving: weights of {whole:,} bytes, " in text
    assert main(["inspect", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"]["serving_bytes"]["float32"] == whole
    assert (result["complete"], result["incomplete"]) == ([1, 2], [5])
    assert (result["step"]["step"], result["step"]["base"]) == (2, 1)
    (user, item) = result["step"]["tables"]
    assert user["fields"]["accumulators"]["max_abs"] == 9.0
    weight = values(1)["item"]["weight"]
    weight[4] = 9
    assert item["fields"]["weight"]["norm"] == pytest.approx(float(weight.double().norm()))
    assert main(["inspect", str(run), "--no-norms"]) == 0
    assert "norm" not in capsys.readouterr().out


def test_verify_is_0_for_good_and_1_for_bad_files(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(run)]) == 0
    assert "step 1: good, 3 files hashed" in capsys.readouterr().out
    path = flip(run)
    assert main(["verify", str(run), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"]
    assert [len(step["errors"]) for step in result["steps"]] == [1, 1]  # the delta stands on it
    assert result["steps"][0]["errors"][0].startswith(f"{path}: damaged")
    (run / "step-2/model.safetensors.index.json").write_text("{")
    assert main(["verify", str(run), "--step", "2"]) == 1
    assert "step 2: BAD" in capsys.readouterr().out


def test_diff_counts_rows_and_the_largest_difference(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(run), str(run), "--step-a", "1", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["same"]
    by_name = {(each["table"], each["field"]): each for each in result["fields"]}
    found = by_name["user", "weight"]
    gap = (9 - values(1)["user"]["weight"][4].double()).abs().max()
    assert (found["rows_differing"], found["first_id_differing"]) == (1, 4)
    assert found["max_abs_difference"] == pytest.approx(float(gap))
    assert main(["diff", str(run), str(run)]) == 0
    assert capsys.readouterr().out == "no difference\n"
    checkpoint.write_tables(run / "other", 0, {"user": {"weight": torch.zeros(3, 4)}})
    assert main(["diff", str(run), str(run / "other")]) == 1
    text = capsys.readouterr().out
    assert "item: only in A" in text
    assert "user.weight: shapes [20, 4] and [3, 4]" in text


def test_reshard_writes_a_full_step_for_another_number_of_shards(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run / "out"
    assert main(["reshard", str(run), str(out), "--shards", "3", "--strategy", "div"]) == 0
    assert "wrote step 2" in capsys.readouterr().out
    with checkpoint.open(out) as reader, checkpoint.open(run) as source:
        assert (reader.index.num_shards, reader.index.strategy) == (3, "div")
        assert reader.index.base is None
        assert reader.tables == source.tables
        wanted = {t: {f: source.rows(t, f)[:] for f in e.fields} for t, e in source.tables.items()}
    assert_same(read_independently(out / "step-2"), wanted)
    assert main(["diff", str(run), str(out)]) == 0
    assert main(["reshard", str(run), str(out), "--shards", "3"]) == 2
    assert "this step is complete already" in capsys.readouterr().err


def test_what_cannot_be_used_is_status_2_with_the_reason(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m torch_tpu_embedding.checkpoint: ")
    assert "no checkpoint to load" in said
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    flip(run)
    assert main(["reshard", str(run), str(run / "out"), "--shards", "2"]) == 2
    assert checkpoint.complete_steps(run / "out") == []


@pytest.mark.parametrize("command", [[], ["inspect"], ["verify"], ["diff"], ["reshard"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: python -m torch_tpu_embedding.checkpoint" in capsys.readouterr().out


def test_it_runs_as_a_module_without_torch_xla(run: Path) -> None:
    code = (
        "import sys, runpy; sys.modules['torch_xla'] = None\n"
        f"sys.argv = ['x', 'verify', {str(run)!r}]\n"
        "runpy.run_module('torch_tpu_embedding.checkpoint', run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "step 2: good" in ended.stdout
