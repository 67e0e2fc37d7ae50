"""Requests reach the owners of the records, whole and in the order of the devices that ask."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torch_tpu_embedding.batch.requests import IncomingRequest, Request, send_requests
from torch_tpu_embedding.distributed.group import Alone


class Mail(Alone):
    """One of several processes; leaves its messages in `sent`, and finds those of the others the second
    time."""

    def __init__(self, rank: int, size: int, sent: dict[int, list[Tensor]]) -> None:
        self.rank, self.size, self.sent = rank, size, sent

    def all_to_all(self, pieces: list[Tensor], lengths: list[int]) -> list[Tensor]:
        if self.rank not in self.sent:
            self.sent[self.rank] = pieces
            return [torch.zeros(length, dtype=torch.int32) for length in lengths]
        received = [self.sent[peer][self.rank] for peer in range(self.size)]
        assert [len(each) for each in received] == lengths
        return received


def deliver(requests: list[list[Request]], processes: int) -> list[list[IncomingRequest]]:
    """Send the requests `[stack][device of all]`; gives what comes in, in the same nest."""
    local = len(requests[0]) // processes
    of = [
        [of_stack[rank * local : (rank + 1) * local] for of_stack in requests]
        for rank in range(processes)
    ]
    counts = torch.stack(
        [torch.stack([torch.stack([r.counts for r in s]) for s in stacks]) for stacks in of]
    )
    sent: dict[int, list[Tensor]] = {}
    for _ in range(2):
        found = [
            send_requests(of[rank], counts, Mail(rank, processes, sent), local)
            for rank in range(processes)
        ]
    return [[each for part in found for each in part[n]] for n in range(len(requests))]


@settings(max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 3), st.lists(st.booleans(), min_size=1, max_size=3), st.data()
)
def test_a_device_gets_of_every_device_what_that_asks_it_for(
    processes: int, local: int, with_features: list[bool], data: st.DataObject
) -> None:
    devices = range(processes * local)
    counts = st.lists(st.integers(0, 3), min_size=len(devices), max_size=len(devices))
    requests, number = [], 0
    for has_features in with_features:
        of_stack = []
        for _ in devices:
            lengths = torch.tensor(data.draw(counts))
            records = torch.arange(int(lengths.sum()), dtype=torch.int32) + number
            number += len(records)
            features = records + 1000 if has_features else None
            of_stack.append(Request(records, lengths, torch.zeros(0), features))
        requests.append(of_stack)
    for of_stack, incoming in zip(requests, deliver(requests, processes), strict=True):
        for asked, each in enumerate(incoming):
            parts = [torch.split(r.records, r.counts.tolist())[asked] for r in of_stack]
            assert each.lengths == [len(part) for part in parts]
            assert torch.equal(each.records, torch.cat(parts))
            if of_stack[0].features is None:
                assert each.features is None
            else:
                assert each.features is not None
                assert torch.equal(each.features, each.records + 1000)
