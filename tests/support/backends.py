"""Which tests the backend of this environment cannot run, and why."""

from __future__ import annotations

from torch_tpu_embedding import runtime

LAZY = "torch_tpu traces no programs: "
PARTITIONED = "torch_tpu has no partitioned programs: "
OF_TORCH_XLA = "about torch_xla itself: "

NOT_UNDER_TORCH_TPU = {
    "tests/replay/": LAZY
    + "nothing to run again, replay calls the step (tests/torch_tpu tests that)",
}
"""The beginning of a test's name, path first → why it does not run under torch_tpu."""


def reason_to_skip(name: str, needs_torch_tpu: bool) -> str:
    """Why a test is skipped; empty if it runs.

    Args:
        name: as pytest shows it, `path::function[parameters]`.
        needs_torch_tpu: it has the marker `torch_tpu`.
    """
    if runtime.backend() == "torch_xla":
        return "needs torch_tpu: scripts/run --backend torch-tpu pytest" if needs_torch_tpu else ""
    for begin, reason in NOT_UNDER_TORCH_TPU.items():
        if name.startswith(begin):
            return reason
    return ""
