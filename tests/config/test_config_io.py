"""A configuration goes through JSON and comes back as it was."""

from __future__ import annotations

import json

import pytest
import torch

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.resolved import resolve


def halves(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, 0.5, dtype=dtype)


def rate() -> float:
    return 0.25


def config() -> object:
    shared = tte.TableConfig(
        10, 4, combiner="sqrtn", optimizer=tte.Adam(0.1, clipvalue=(None, 1.0)), name="shared"
    )
    rounded = tte.TableConfig(
        5,
        2,
        quantization_config=tte.QuantizationConfig(3, -1.0, 1.0),
        initializer=tte.RowIdInitializer(7),
    )
    return {
        "b": (
            tte.FeatureConfig(shared, max_sequence_length=3),
            tte.FeatureConfig(shared, name="n"),
        ),
        "a": [tte.FeatureConfig(rounded, output_shape=[2, 3], validate_weights_and_indices=False)],
    }


def test_the_way_through_json_keeps_structure_tables_features_and_optimizers() -> None:
    first = config()
    text = json.dumps(tte.config_to_dict(first, tte.FTRL(0.2, beta=0.5)))
    second = tte.config_from_dict(json.loads(text))
    assert list(second) == ["b", "a"]
    assert isinstance(second["b"], tuple)
    assert second["b"][0].table is second["b"][1].table, "shared tables stay shared"
    one, other = resolve(first, tte.FTRL(0.2, beta=0.5)), resolve(second, None)
    assert [t.name for t in one.tables] == [t.name for t in other.tables] == ["table_0", "shared"]
    assert [t.optimizer for t in one.tables] == [t.optimizer for t in other.tables]
    assert [t.config.quantization_config for t in one.tables] == [
        t.config.quantization_config for t in other.tables
    ]
    assert other.tables[0].config.initializer == tte.RowIdInitializer(7)
    assert [f.name for f in one.features] == [f.name for f in other.features]
    assert [f.output_shape for f in other.features] == [(2, 3), None, None]
    assert json.dumps(tte.config_to_dict(second)) == text


def test_callables_are_named_and_asked_for() -> None:
    table = tte.TableConfig(4, 2, initializer=halves, optimizer=tte.SGD(rate))
    described = json.loads(json.dumps(tte.config_to_dict(tte.FeatureConfig(table))))
    names = [f"{__name__}.halves", f"{__name__}.rate"]
    with pytest.raises(ValueError, match=r"pass callables for the names \['.*halves', '.*rate'\]"):
        tte.config_from_dict(described)
    again = tte.config_from_dict(described, dict(zip(names, (halves, rate), strict=True)))
    assert again.table.initializer is halves
    assert again.table.optimizer == tte.SGD(rate)


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 2, but this version reads 1"):
        tte.config_from_dict({"format": 2})
