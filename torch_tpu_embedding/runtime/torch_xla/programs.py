"""Programs that are traced once and run again: torch_xla's private functions for it, behind plain names.

They are looked for at first use (`missing`); where one is gone, steps are traced as ever.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Sequence, Set
from itertools import compress, starmap
from typing import Any

import torch
from torch import Tensor, nn

from .device import as_typed, bindings, seeded, sent, upload
from .in_place import calls, count_calls

_BINDINGS = (
    "_check_device_tensor_need_materialization", "_check_tensor_need_materialization",
    "_get_base_seed_as_tensor", "_get_graph_hash", "_get_seed_info_id", "_get_tensors_handle",
    "_get_tensors_xla_device_data_node", "_get_xla_sharding_spec", "_run_cached_graph",
    "_set_buffer_donation", "_xla_get_rng_seed", "_xla_get_tensor_id", "_xla_set_rng_seed",
    "_xla_counter_value", "_xla_sync_live_tensors", "_xla_sync_multi", "_xla_tensors_from_aten",
    "_xla_warm_up_cache",
)  # fmt: skip
_TENSORS = frozenset((Tensor, nn.Parameter))
_MOST_STEPS = 1000
"""Steps of others between two steps, after which random numbers are still known to begin anew."""
_OF_TORCH = (
    "_from_functional_tensor", "_functionalize_commit_update", "_functionalize_replace",
    "_functionalize_sync", "_is_functional_tensor",
)  # fmt: skip


def missing(sample: Tensor) -> list[str]:
    """The private functions that this torch and torch_xla lack; empty if programs can be run again.

    Args:
        sample: any tensor on the device.
    """
    found = [name for name in _BINDINGS if not hasattr(bindings(), name)]
    found += [f"torch.{name}" for name in _OF_TORCH if not hasattr(torch, name)]
    try:
        import torch_xla.utils.buffer_donor_context  # noqa: F401
    except ImportError:
        found.append("torch_xla.utils.buffer_donor_context")
    if not found and not torch._is_functional_tensor(sample):
        found.append("functionalization (XLA_DISABLE_FUNCTIONALIZATION is set)")
    return found


def is_on_device(value: object) -> bool:
    """True for an XLA tensor."""
    return isinstance(value, Tensor) and value.device.type == "xla"


def pending(tensors: Sequence[Tensor]) -> list[bool]:
    """True for each tensor that is traced, or noted for upload, and has no memory on the device yet."""
    found: list[bool] = bindings()._check_tensor_need_materialization(tensors)
    return found


def num_pending() -> int:
    """The number of tensors of this process that are pending."""
    return sum(bindings()._check_device_tensor_need_materialization(""))


def settle(tensors: Sequence[Tensor]) -> None:
    """Compute or upload those of some tensors that are pending."""
    found = [each for each, waits in zip(tensors, pending(tensors), strict=True) if waits]
    if found:
        bindings()._xla_sync_multi(found, devices=[], wait=True, sync_xla_data=True)


def settle_all() -> None:
    """End what was traced so far, upload what was noted for it, and wait for the device."""
    import torch_xla.core.xla_model as xm

    xm.wait_device_ops()
    compute_all()
    if num_pending():
        settle(live_tensors())  # those that wait for their upload
    xm.wait_device_ops()


def compute_all() -> None:
    """Compute what was traced so far. Unlike `sync` this ends no step: the random numbers go on."""
    bindings()._xla_sync_live_tensors("", [], False)


def live_tensors() -> list[Tensor]:
    """All tensors on the device that Python knows."""
    return _device_tensors(gc.get_objects())


def _device_tensors(objects: list[Any]) -> list[Tensor]:
    kinds = map(_TENSORS.__contains__, map(type, objects))  # by the million: no bytecode for each
    found = [each for each in compress(objects, kinds) if is_on_device(each)]
    for each in found:
        each._fix_weakref()  # one that C++ alone has held (a gradient) would die with it, under us
    return found


class NewTensors:
    """Finds the tensors made since this was, without a look at all objects of Python."""

    def __init__(self) -> None:
        self._before = _made(), _copies()
        self._collected = _collected()

    def counts(self) -> tuple[int, int] | None:
        """How many tensors were traced, and how many of these are copies; None while one is uploaded."""
        (made, copies), now = self._before, _made()
        return None if made is None or now is None else (now - made, _copies() - copies)

    def all(self) -> list[Tensor] | None:
        """The new tensors on the device, and some others; None if they are among the old ones by now."""
        young = gc.get_objects(0) + gc.get_objects(1)  # a list made before them would be in itself
        return None if _collected() != self._collected else _device_tensors(young)


def _collected() -> list[int]:
    """How often Python's collector has made young objects old."""
    return [each["collections"] for each in gc.get_stats()[1:]]


class Traces:
    """Notices that something was traced, by anybody, since it was asked last.

    A tensor that is a copy of another one may share its memory until a program has run, and one that was
    copied into (`copy_`) even longer; no program may overwrite that memory.
    """

    def __init__(self) -> None:
        count_calls()
        self._made: int | None = None
        self._copies: int | None = None
        self._seen: int | None = None
        """The number of tensors at the last look."""
        self._alone = False
        """True if nobody made any between the last look and the note after it."""

    def look(self) -> tuple[bool, bool]:
        """True, if something may have been traced that is not computed yet; and true, if a tensor was
        copied into another since `note`."""
        self._seen, copies = _made(), _copies()
        made = self._seen is None or self._seen != self._made
        return made or not (self._alone or num_pending() == 0), copies != self._copies

    def note(self, own: int | None = None) -> None:
        """Take all that was traced so far as known.

        Args:
            own: how many tensors the caller has made since `look`; None if it cannot tell.
        """
        self._made, self._copies = _made(), _copies()
        # So nothing waits to be computed before the next one is made; to look at all tensors takes longer.
        expected = None if own is None or self._seen is None else self._seen + own
        self._alone = expected is not None and self._made == expected


def _made() -> int | None:
    """The number of tensors made or changed in place so far, but for uploads; None while one is under
    way."""
    begun = sent["begun"]
    made = int(bindings()._xla_counter_value("CreateXlaTensor") or 0) + calls["begun"]
    return made - begun if sent["done"] == begun == sent["begun"] else None


def _copies() -> int:
    count = bindings()._xla_counter_value
    return int(count("xla::copy") or 0) + int(count("xla::copy_") or 0)


def memory_ids(tensors: Sequence[Tensor]) -> list[int]:
    """A number for the device memory of each tensor, none of which may be pending or being computed."""
    found: list[int] = bindings()._get_tensors_handle(tensors)
    return found


def shared_memory(tensors: Sequence[Tensor], memory: Set[int]) -> bool:
    """True if one of some tensors has memory with one of these numbers.

    Args:
        tensors: computed or not; their memory may be gone.
    """
    waits = pending(tensors)
    found = [each for each, pends in zip(tensors, waits, strict=True) if not pends]
    try:
        return not memory.isdisjoint(memory_ids(found))
    except RuntimeError:  # memory of one is gone
        return any(not memory.isdisjoint(_memory_id(each)) for each in found)


def _memory_id(value: Tensor) -> list[int]:
    try:
        return memory_ids([value])
    except RuntimeError:
        return []


def tensor_id(value: Tensor) -> int:
    """A number for a device tensor; an alias that has seen the same changes may share it."""
    found: int = bindings()._xla_get_tensor_id(value)
    return found


def sharding(value: Tensor) -> str:
    """The way in which the devices share a tensor, as text; empty if they do not."""
    found: str = bindings()._get_xla_sharding_spec(value)
    return found


def own_memory(value: Tensor) -> None:
    """Give a tensor memory that nothing else shares. torch_xla lets scalars that were sent with one value
    share it, also with the constants of a program, and tensors of which one was copied into the other."""
    assign([value], [upload(value.detach().cpu(), value.device)])


def storage_id(value: Tensor) -> int:
    """A number that a tensor shares with its aliases, and with nothing else."""
    found: int = value.untyped_storage()._cdata
    return found


def apply_views(tensors: Sequence[Tensor]) -> None:
    """Bring tensors up to what was done to them through their aliases."""
    for each in tensors:
        torch._functionalize_sync(each)


def inputs_of(roots: Sequence[Tensor]) -> list[tuple[Tensor, int, bool]]:
    """The inputs of the program that computes `roots`, in its order: each as a tensor, the number of its
    memory, and whether it is the seed of random numbers."""
    ids, values = bindings()._get_tensors_xla_device_data_node(roots)
    seed = bindings()._get_seed_info_id()
    return [
        (value, memory, number == seed)
        for number, value, memory in zip(ids, values, memory_ids(values), strict=True)
    ]


def compiled(roots: Sequence[Tensor], donated: Sequence[Tensor]) -> bytes:
    """Compile the program that computes `roots`, if it is new; gives its key among torch_xla's programs.

    Args:
        donated: those of its inputs, as `inputs_of` gives them, whose memory it may overwrite.
    """
    from torch_xla.utils.buffer_donor_context import alias_with_buffer_donor_config

    xla = bindings()
    for each in donated:
        xla._set_buffer_donation(each, True)
    with alias_with_buffer_donor_config():
        key: bytes = xla._get_graph_hash(roots)
        xla._xla_warm_up_cache(roots, [])
    return key


def run_again(key: bytes, inputs: list[Tensor], results: list[list[Tensor]]) -> None:
    """Run a compiled program, and append the list of its results to `results`.

    No interrupt (Ctrl-C) can come between the two: from the start of the program on the memory of donated
    inputs is gone, and its results are all there is.

    Raises:
        RuntimeError: torch_xla has dropped the program.
    """
    results.extend(starmap(bindings()._run_cached_graph, ((key, inputs),)))


def memory_of(values: Sequence[Tensor]) -> list[Tensor]:
    """The present memory of each tensor, whatever it is assigned later.

    XLA's CPU device waits for the running program to destroy memory that was donated to it; to hold it for
    one more step avoids that.
    """
    return [*map(torch._from_functional_tensor, values)]


def assign(values: Sequence[Tensor], results: Sequence[Tensor]) -> None:
    """Give each of some tensors the memory of another one; aliases follow. Twice does no harm."""
    # No bytecode for each tensor: a step assigns all of its state.
    deque(map(torch._functionalize_replace, values, memory_of(results)), maxlen=0)
    deque(map(torch._functionalize_commit_update, values), maxlen=0)
    deque(map(torch._functionalize_sync, values), maxlen=0)


def rng_seed() -> int:
    """The seed of the device's random numbers in the step that begins now."""
    seed: int = bindings()._xla_get_rng_seed()
    return seed


def seed_tensor(device: str) -> Tensor:
    """The seed as an input of a program."""
    return as_typed(bindings()._get_base_seed_as_tensor(device))


def random_begins_anew(known: int) -> bool:
    """False if random numbers were traced on the device since the last step ended, so that those of the
    next step come after them, or if they were seeded other than by `manual_seed`.

    To ask for the seed's tensor would begin them anew, and the next step would draw the same numbers again.
    So this looks whether the seed is that of a step to come: steps of others may have ended since.

    Args:
        known: what `rng_seed` gave after the last step.
    """
    now = rng_seed()
    if now in seeded:
        return True
    for _ in range(_MOST_STEPS):
        if now == known:
            return True
        known = next_seed(known)
    return False


def next_seed(seed: int) -> int:
    """The seed of the step after one with this seed, as torch_xla's MarkStep computes it."""
    return (1012031 + seed * 7012063) % (1 << 64)


def set_rng_seed(seed: int, device: str) -> None:
    """Set the seed of the step that comes next."""
    bindings()._xla_set_rng_seed(seed, device)


def ended_steps() -> int:
    """How often a step was ended in this process."""
    import torch_xla.debug.metrics as met

    return int(met.counter_value("MarkStep") or 0)


def reads() -> int:
    """How often a value was copied from the device to the host in this process, by any thread."""
    import torch_xla.debug.metrics as met

    data = met.metric_data("TransferFromDeviceTime")
    return (int(data[0]) if data else 0) + int(met.counter_value("aten::_local_scalar_dense") or 0)
