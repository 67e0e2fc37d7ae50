"""Several processes under torchrun: how they find each other, share a batch, and add up dense gradients.

One rule gives any number of processes the gradients that one process would have: divide the loss, a mean
over the samples of this process, by `num_replicas()`, and *sum* all gradients over the processes. The
embeddings do so in `apply_gradients`; `sum_gradients` does it for the dense model. The sum of the
divided gradients is the average of the undivided ones, the gradient of the mean over the whole batch.

Alone, and with several devices under SPMD (where a program sees the whole batch), `num_replicas()` is 1 and
nothing is summed: the same script serves all cases. Letters: B batch of all processes, S processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from .. import runtime
from ..runtime import host
from .all_gather import check_value, gather_with_gradient
from .calls import calling
from .group import TIMEOUT, HostGroup, host_group, set_timeout
from .rendezvous import fresh_store, without_greetings


def initialize(*, spmd: bool | None = None, timeout: timedelta = TIMEOUT) -> None:
    """Connect the processes that torchrun started, and choose the devices; call it first of all.

    One process with one device needs neither, but may call it. One process on a host with several devices
    uses only one of them without it.

    Args:
        spmd: True drives several devices with one partitioned program. None decides: so on
            a TPU with one process per host, and on CPU where `CPU_NUM_DEVICES` asks for several devices.
            False: one device, however many there are. Under torch_tpu there are no partitioned programs:
            None is False, and True an error.
        timeout: how long a process waits for another that is alive but does not come. One that dies is
            noticed at once.

    Raises:
        RuntimeError: the processes cannot connect within the timeout, or `spmd` is True under torch_tpu.
    """
    count = runtime.num_processes()
    if spmd is False:
        runtime.use_one_device()
    if spmd is None:
        spmd = runtime.default_spmd()
    if spmd:
        runtime.use_spmd()
    if count > 1 and not dist.is_initialized():
        set_timeout(timeout)
        runtime.end_without_waiting()
        if runtime.platform() == "TPU" and not spmd:
            runtime.init_process_group()
        else:
            store, number, size = next(rendezvous("env://", timeout=timeout))
            store.set_timeout(timeout)
            store = fresh_store(store, number, size, timeout)
            with without_greetings():
                dist.init_process_group(
                    "gloo", store=store, rank=number, world_size=size, timeout=timeout
                )
    if is_main() and (count > 1 or spmd):
        way = "Spmd, one program over the devices of all" if spmd else "Process, a device for each"
        print(f"{count} processes connected; exchange: {way}", file=sys.stderr)


def shutdown() -> None:
    """Close the connections, after the last collective call of all processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 … S-1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """S, the number of connected processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the one process that prints and draws."""
    return rank() == 0


def num_replicas() -> int:
    """The number of losses of a step over all processes; divide each loss by it."""
    return 1 if runtime.is_spmd() else world_size()


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of a dense model over the processes, in place; every process must call it.

    A parameter without a gradient in some process counts as zero there; without one in any, it stays so.

    Args:
        parameters: the same in every process.
    """
    if num_replicas() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    device = trained[0].device
    there = host.ints([p.grad is not None for p in trained]).float()
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trained]
    )
    call = calling(f"sum_gradients of {len(flat)} numbers")
    if runtime.is_accelerated(device) and runtime.device_kind() == "TPU":
        with call:
            total, there = runtime.sum_over_processes(flat), _group().sum(there)
    else:
        if runtime.is_accelerated(device):
            runtime.sync()  # one program for all that the gradients come from, run once
        with call:
            both = _group().sum(torch.cat([flat.cpu(), there]))
        total, there = both[: len(flat)].to(device), both[len(flat) :]
    at = 0
    for parameter, count in zip(trained, there.tolist(), strict=True):
        if count:
            parameter.grad = total.narrow(0, at, parameter.numel()).view(parameter.shape)
        at += parameter.numel()


def local_positions(count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """The samples of a batch that this process takes, so that all processes together take each once.

    Args:
        count: samples in the batch, at most B: fewer in the last one of an epoch.
        batch_size: B, divisible by S.

    Returns:
        (positions `[B / S]` in the batch, whether each is a sample `[B / S]` bool). The positions of a
        short batch are filled with its first samples again, so that it has about as many ids as others:
        give those no weight in the loss. Their ids are looked up anyway, so they change nothing.

    Raises:
        ValueError: B is not divisible by S, or `count` is not in 1 … B.

    Examples:
        >>> local_positions(3, 4)
        (tensor([0, 1, 2, 0]), tensor([ True,  True,  True, False]))
    """
    if batch_size % world_size() or not 0 < count <= batch_size:
        raise ValueError(
            f"local_positions: batch_size {batch_size} must be divisible by the {world_size()} processes "
            f"and hold the {count} samples, of which there must be one at least"
        )
    size = batch_size // world_size()
    positions = host.arange(rank() * size, (rank() + 1) * size)
    return positions % count, positions < count


def gather(value: Tensor) -> Tensor:
    """A host tensor of each process, joined along the first dimension in every process; a collective call.

    Args:
        value: a CPU tensor, of the same shape and dtype in every process; no gradient passes.
    """
    if world_size() == 1:
        return value
    with calling("gather"):
        parts: list[Tensor] = _group().gather_objects(value)
    return torch.cat(parts)


def all_gather(tensor: Tensor) -> Tensor:
    """A tensor of each process, joined along the first dimension in every process; differentiable.

    For losses in which the samples of all processes meet, such as a softmax over the items of the whole
    batch, here for the samples `mine` of `local_positions`, whose `users` and `items` are `[B / S, D]`:

        scores = users @ distributed.all_gather(items).T  # [B / S, B]
        loss = functional.cross_entropy(scores, embedding.to_device(mine))
        (loss / distributed.num_replicas()).backward()

    The gradient is *summed*: backward gives this process's tensor the sum, over all processes, of their
    gradients for it (a reduce-scatter). That is the rule of `sum_gradients` and of the tables, so with each
    loss a mean over the own samples, divided by `num_replicas()`, all gradients are those of the mean over
    the whole batch, and S processes train what one process with the whole batch trains.

    A collective call, and so is its backward: every process must let the result take part in its loss.
    Alone, and under SPMD, where tensors are those of the whole batch already, it returns its argument.

    Args:
        tensor: `[n, …]` on any device, of one shape and dtype in all processes, and needing a gradient in
            all of them or in none.

    Returns:
        `[S · n, …]`, process 0's part first, on the same device.

    Raises:
        TypeError, ValueError: it is no tensor, or one without dimensions; or, on all processes alike, the
            processes gave tensors that differ in shape, dtype or need of a gradient.
    """
    value = check_value(tensor)
    if num_replicas() == 1:
        return value
    in_program = runtime.is_accelerated(value.device) and runtime.device_kind() == "TPU"
    return gather_with_gradient(value, _group(), in_program)


def _group() -> HostGroup:
    return host_group(None)
