"""Checkpoints of other kinds refuse tables whose rows belong to ids by a vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint
from torch_tpu_embedding.checkpoint import __main__ as command


def features() -> dict[str, tte.FeatureConfig]:
    hashed = tte.TableConfig(9, 4, name="hashed", vocabulary=tte.HashedVocabulary())
    plain = tte.TableConfig(9, 4, name="plain")
    return {"h": tte.FeatureConfig(hashed), "p": tte.FeatureConfig(plain)}


def test_weights_of_modules_are_refused_by_a_table_with_a_vocabulary() -> None:
    embedding = tte.TPUEmbedding(features(), 4, None, device="cpu")
    with pytest.raises(ValueError, match=r"'hashed': its rows are found by a HashedVocabulary"):
        checkpoint.import_modules(embedding, {"hashed": torch.zeros(9, 4)})
    checkpoint.import_modules(embedding, {"plain": torch.zeros(9, 4)})


def test_tensorflows_format_takes_the_other_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding = tte.TPUEmbedding(features(), 4, None, device="cpu")
    checkpoint.save(embedding, tmp_path / "run", 1)
    to = ["to-tensorflow", str(tmp_path / "run"), str(tmp_path / "tf")]
    assert command.main(to) != 0
    assert "tables ['hashed'] find the rows of ids by a vocabulary" in capsys.readouterr().err
    assert command.main([*to, "--tables", "plain=plain"]) == 0
