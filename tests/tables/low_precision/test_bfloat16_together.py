"""Tables in bfloat16 with everything at once: devices, deltas, accumulation, freezing, padding, exports."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from models.bfloat16 import assert_same, tensors
from models.bfloat16_together import SAMPLES, batch, config, exact_gradients
from places import SLOW, WORKERS
from processes.launch import environment, forked_python
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint.__main__ import main

HALVES = torch.bfloat16
SCRIPT = WORKERS.parent / "programs" / "bfloat16_together.py"


def test_on_two_devices_everything_is_as_on_one_bit_for_bit_and_so_is_a_resumed_run(
    tmp_path: Path,
) -> None:
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [forked_python(), "-W", "ignore", str(SCRIPT), str(count), str(folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120 * SLOW, env=environment()
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(folder / "found.pt"))
    assert_same(*found)
    for key, value in found[0].items():
        if key.startswith("resumed "):
            assert torch.equal(value, found[0][key.removeprefix("resumed ")]), key
    assert not found[0]["bags.weight"][2].any()
    assert not found[0]["near.weight"][-1].any()
    assert found[0]["row one"].dtype == HALVES


ACTIONS = ("step", "twice", "freeze", "unfreeze", "load", "save", "resume")


@settings(max_examples=6 // SLOW or 1, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=9))
def test_a_run_that_is_interrupted_anywhere_is_the_same_as_one_that_is_not(
    actions: list[str],
) -> None:
    rule = tte.Adagrad(0.25)

    def made() -> tte.TPUEmbedding:
        return tte.TPUEmbedding(config(), SAMPLES, rule, seed=0)

    def train(embedding: tte.TPUEmbedding, step: int, micro_batches: int) -> None:
        for micro in range(micro_batches):
            embedding.enqueue(batch(10 * step + micro))
            found = embedding.dequeue()
            gradients = exact_gradients(found, 10 * step + micro)
            embedding.accumulate_gradients(
                {key: each.to(embedding.device) for key, each in gradients.items()}
            )
        embedding.apply_gradients()
        tte.runtime.sync()

    whole, parts = made(), made()
    frozen: dict[str, Tensor] | None = None
    saved: int | None = None
    with tempfile.TemporaryDirectory() as directory:
        for step, action in enumerate([*actions, "step"]):
            if action in ("step", "twice"):
                for each in (whole, parts):
                    train(each, step, 1 + (action == "twice"))
            elif action in ("freeze", "unfreeze"):
                for each in (whole, parts):
                    getattr(each, action)("one")
                frozen = tensors(whole) if action == "freeze" else None
            elif action == "load":
                parts.load_state_dict(parts.state_dict())
            else:
                checkpoint.save(parts, directory, step, since=saved)
                saved = step
                if action == "resume":
                    parts = made()
                    checkpoint.load(parts, directory)
                    if frozen is not None:
                        parts.freeze("one")
            if frozen is not None:
                for key in ("one.weight", "one.accumulators"):
                    assert torch.equal(tensors(whole)[key], frozen[key]), key
    assert_same(tensors(parts), tensors(whole))


@pytest.mark.parametrize("slots", [HALVES, torch.float32])
def test_tables_with_a_vocabulary_go_to_tensorflow_and_back_with_the_same_numbers(
    slots: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tte.TableConfig(
        12, 4, name="t", dtype=HALVES, slot_dtype=slots, combiner="sum",
        vocabulary=tte.DynamicVocabulary(oov_rows=2, admission=1),
    )  # fmt: skip
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], 4, tte.Adagrad(0.1), seed=0)
    for step in range(2):
        embedding.enqueue([torch.tensor([7, 1, 3, step])])
        (rows,) = embedding.dequeue()
        embedding.apply_gradients([torch.ones_like(rows)])
        tte.runtime.sync()
    checkpoint.save(embedding, tmp_path / "run", 1)
    there = tmp_path / "tf" / "ckpt-1"
    there.parent.mkdir()
    assert main(["to-tensorflow", str(tmp_path / "run"), str(there), "--rows", "t=9"]) == 0
    assert main(["from-tensorflow", str(there), str(tmp_path / "back"), "--step", "1"]) == 0
    plain = tte.TableConfig(9, 4, name="t", dtype=HALVES, slot_dtype=slots)
    back = tte.TPUEmbedding([tte.FeatureConfig(plain)], 4, tte.Adagrad(0.1), seed=1)
    with pytest.raises(ValueError, match="pass dtype='convert'"):
        checkpoint.load(back, tmp_path / "back")
    checkpoint.load(back, tmp_path / "back", dtype="convert")
    for slot in (None, "accumulators"):
        options: dict[str, Any] = {} if slot is None else {"slot": slot}
        found = back.read_rows("t", [0, 1, 3, 7], **options)
        assert torch.equal(found, embedding.read_rows("t", [0, 1, 3, 7], **options))


def test_an_int8_export_keeps_its_bound_and_gives_the_dtypes_of_the_features() -> None:
    embedding = tte.TPUEmbedding(config(), SAMPLES, tte.Adagrad(0.1), seed=0)
    exact = tte.export_serving(embedding)
    coded = tte.export_serving(embedding, quantize="int8")
    given_, weight = batch(0), tensors(embedding)
    for key, feature in config().items():
        one, other = (each({key: given_[key]})[key] for each in (exact, coded))
        assert one.dtype == other.dtype == feature.output_dtype
        rows = weight[f"{feature.table.name}.weight"].float()
        steps = 3 * (rows.amax(1) - rows.amin(1)).max() / 510  # of bags of at most three ids
        assert ((one.float() - other.float()).abs() <= steps + 2.0**-7 * one.float().abs()).all()


def test_norms_are_measured_and_clipped_in_float32_and_change_no_table() -> None:
    states, norms = [], []
    for output in (HALVES, torch.float32):
        features = {
            key: tte.FeatureConfig(
                each.table, max_sequence_length=each.max_sequence_length, output_dtype=output
            )
            for key, each in config().items()
        }
        embedding = tte.TPUEmbedding(features, SAMPLES, tte.SGD(0.25), seed=0)
        if output == HALVES:
            embedding.enable_metrics(every=1)
        for step in range(3):
            embedding.enqueue(batch(step))
            found = embedding.dequeue()
            for key, gradient in exact_gradients(found, step).items():
                found[key].grad = gradient.to(embedding.device)
            norms.append(embedding.clip_grad_norm_(0.01).item())
            embedding.apply_gradients()
            tte.runtime.sync()
        states.append(tensors(embedding))
    assert norms[:3] == norms[3:]
    assert min(norms) > 0.01
    assert_same(*states)
