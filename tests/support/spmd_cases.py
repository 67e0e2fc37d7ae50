"""What test_spmd.py and the process that it starts have in common."""

from __future__ import annotations

import torch_tpu_embedding as tte

BATCH = 16
"""Samples in a batch of all devices."""
QUICK_COMPILES = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
"""For XLA_FLAGS: the programs are the same, the machine code of their kernels is poorer."""


def restored_config() -> list[tte.FeatureConfig]:
    """Tables whose state travels from one device to several and back: fewer rows than devices, and odd."""
    tables = [tte.TableConfig(size, 3, name=f"rows{size}") for size in (1, 5, 29)]
    return [tte.FeatureConfig(table, name=table.name) for table in tables]
