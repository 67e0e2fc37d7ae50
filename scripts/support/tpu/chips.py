"""Speeds of TPU chips, and the least cycles in which one can move the bytes of a step.

    bound = bytes / HBM bandwidth x clock

Bandwidths are per chip, from Google's Cloud TPU documentation (cloud.google.com/tpu/docs/v4, v5e, v5p,
v6e). Clocks are not given there, but follow from its peak bf16 FLOP/s, of which a chip does
cores x matrix units x side² x 2 in a cycle:

    v4    275e12 / (2 x 4 x 128² x 2) = 1.05 GHz
    v5e   197e12 / (1 x 4 x 128² x 2) = 1.50 GHz
    v5p   459e12 / (2 x 4 x 128² x 2) = 1.75 GHz
    v6e   918e12 / (1 x 4 x 256² x 2) = 1.75 GHz

The first agrees with the clock in "TPU v4" (Jouppi et al. 2023), 1.05 GHz. Of the v6e the documentation
has said both that it has four matrix units and two; with two the clock would be 3.5 GHz.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One generation."""

    hbm_bytes_per_second: float
    clock_hertz: float
    has_sparse_core: bool
    """True if the compiler can move plain gathers and scatters to a SparseCore."""
    granule_bytes: int = 32
    """The unit of copies in the machine code; a tile of 4,096 bytes is 128 of them, on v4 8."""

    def hbm_cycles(self, num_bytes: float) -> float:
        """Cycles in which `num_bytes` pass between HBM and the chip."""
        return num_bytes / self.hbm_bytes_per_second * self.clock_hertz

    def seconds(self, cycles: float) -> float:
        """Seconds of a number of cycles."""
        return cycles / self.clock_hertz


CHIPS = {
    "v4": Chip(1228e9, 1.05e9, has_sparse_core=False, granule_bytes=512),
    "v5e": Chip(819e9, 1.50e9, has_sparse_core=False),
    "v5p": Chip(2765e9, 1.75e9, has_sparse_core=True),
    "v6e": Chip(1640e9, 1.75e9, has_sparse_core=True),
}

LANES = 128
SPARSE_CORE = (
    "--xla_tpu_enable_offloading_gather_to_sparsecore=true "
    "--xla_tpu_enable_offloading_scatter_to_sparsecore=true"
)
"""The LIBTPU_INIT_ARGS that let the compiler move plain gathers and scatters to a SparseCore."""


def narrow_rows(shapes: list[list[int]]) -> list[int]:
    """Widths of tables at which the compiler hangs with SPARSE_CORE: not multiples of 128 lanes.

    Args:
        shapes: of the tables' arrays; vectors `[V]` have no width.
    """
    return sorted({shape[-1] for shape in shapes if len(shape) > 1 and shape[-1] % LANES})
