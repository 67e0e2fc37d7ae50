"""The configuration that test_spmd.py and the process that it starts have in common."""

from __future__ import annotations

import torch_tpu_embedding as tte

BATCH = 16
"""Samples in a batch of all devices."""


def restored_config() -> list[tte.FeatureConfig]:
    """Tables whose state travels from one device to several and back: fewer rows than devices, and odd."""
    tables = [tte.TableConfig(size, 3, name=f"rows{size}") for size in (1, 5, 29)]
    return [tte.FeatureConfig(table, name=table.name) for table in tables]
