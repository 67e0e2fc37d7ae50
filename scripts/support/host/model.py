"""The samples/s that a TPU host could reach, modelled from the thread time of a step's two halves.

    samples/s = B / max(main thread, loader thread, device)
    device    = ids x 71 cycles / clock of the chip

Assumed: the loader's thread and the main thread run at once without slowing each other (an EmbeddingLoader,
two free cores, no wait for Python's lock), the host is as fast as the one measured, and a device step is
the scatter-add of its ids alone, at the 71 cycles a row that the TPU compiler's code for v5e has
(docs/lab/performance.md, "What costs"), every id counted as a row. That is more than the distinct rows, and
leaves out gathers, segment sums, the dense layers and any waiting for memory. No TPU was run.
"""

from __future__ import annotations

from typing import Any

from support.tpu.chips import CHIPS

CYCLES = 71
ASSUMPTIONS = (
    "modelled samples/s = B / max(main thread, loader thread, device), device = ids x 71 cycles / clock of "
    "the chip: two threads at once that do not slow each other, a host as fast as this one, and a device "
    "step that is the scatter-add of its ids alone. A model, not a measurement: no TPU was run"
)


def model_of_host(
    batch_size: int, ids: float, medians: dict[str, float], chip: str
) -> dict[str, Any]:
    """The modelled speed of one side.

    Args:
        medians: milliseconds of the 'main thread' and of the 'loader thread' in a step.
        chip: of CHIPS.

    Returns:
        `device_ms`, `samples_per_second`, `limit` (the name of what takes longest), and
        `host_samples_per_second`, of the two threads without the device.

    >>> found = model_of_host(100, 150_000, {"main thread": 1.0, "loader thread": 5.0}, "v5e")
    >>> round(found["device_ms"], 3), round(found["samples_per_second"]), found["limit"]
    (7.1, 14085, 'device')
    >>> found["host_samples_per_second"]
    20000.0
    """
    device = 1e3 * CHIPS[chip].seconds(ids * CYCLES)
    parts = {name: medians[name] for name in ("main thread", "loader thread")}
    host = max(parts.values())
    parts["device"] = device
    limit = max(parts, key=parts.__getitem__)
    return {
        "chip": chip,
        "device_ms": device,
        "samples_per_second": 1e3 * batch_size / parts[limit],
        "limit": limit,
        "host_samples_per_second": 1e3 * batch_size / host,
    }
