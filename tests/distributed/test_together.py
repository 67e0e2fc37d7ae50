"""`together`: a block of work that succeeds on all processes or fails on all."""

from __future__ import annotations

import pytest
from processes.worlds import run_processes

from torch_tpu_embedding.distributed.group import Alone, HostGroup, PeerError, together


@pytest.mark.parametrize("failing", [set(), {0}, {2}, {0, 1}, {0, 1, 2}])
def test_a_block_fails_on_all_processes_if_it_fails_on_one(failing: set[int]) -> None:
    def work(group: HostGroup) -> str:
        try:
            with together(group, "some call"):
                if group.rank in failing:
                    raise ValueError(f"of {group.rank}")
                return "done"
        except (ValueError, PeerError) as error:
            return f"{type(error).__name__} {error}"

    reasons = "; ".join(f"process {rank}: ValueError: of {rank}" for rank in sorted(failing))
    peers = f"PeerError some call: failed on {len(failing)} of 3 processes; {reasons}"
    assert run_processes(3, work) == [
        f"ValueError of {rank}" if rank in failing else peers if failing else "done"
        for rank in range(3)
    ]


def test_alone_the_own_exception_goes_on_as_it_is() -> None:
    error = OSError("disk gone")
    with pytest.raises(OSError, match="disk gone") as caught, together(Alone(), "some call"):
        raise error
    assert caught.value is error
