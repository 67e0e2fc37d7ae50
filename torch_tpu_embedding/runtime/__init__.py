"""The seam to the accelerator backend: all that imports torch_xla lies in this folder."""

from .mesh import Mesh
from .modes import allow_backward
from .out_of_place import trace_out_of_place
from .processes import (
    init_process_group,
    is_spmd,
    num_processes,
    one_device_is_enough,
    platform,
    require_own_process,
    use_one_device,
    use_spmd,
)
from .program_cache import cache_compiled_programs
from .xla import (
    DeviceKind,
    all_gather,
    all_to_all,
    annotate,
    compile_count,
    cpu_fallbacks,
    device,
    device_kind,
    is_accelerated,
    is_computed,
    local_device_ids,
    manual_seed,
    reduce_scatter,
    sum_over_processes,
    sync,
    times_changed,
    upload,
    wait_seconds,
)

__all__ = [
    "DeviceKind",
    "Mesh",
    "all_gather",
    "all_to_all",
    "allow_backward",
    "annotate",
    "cache_compiled_programs",
    "compile_count",
    "cpu_fallbacks",
    "device",
    "device_kind",
    "init_process_group",
    "is_accelerated",
    "is_computed",
    "is_spmd",
    "local_device_ids",
    "manual_seed",
    "num_processes",
    "one_device_is_enough",
    "platform",
    "reduce_scatter",
    "require_own_process",
    "sum_over_processes",
    "sync",
    "times_changed",
    "trace_out_of_place",
    "upload",
    "use_one_device",
    "use_spmd",
    "wait_seconds",
]
