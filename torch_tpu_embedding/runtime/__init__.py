"""The seam to the accelerator backend: nothing outside this folder imports torch_xla.

Everything else in the package is plain ATen operators on tensors. The import happens on first use:
configuration, input checking and CPU serving work where torch_xla cannot load.
"""

from .modes import allow_backward
from .processes import num_processes, one_device_is_enough, use_one_device
from .torch_xla.device import (
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
    require_own_process,
    sum_over_processes,
    sync,
    times_changed,
    upload,
    wait_seconds,
)
from .torch_xla.mesh import Mesh
from .torch_xla.out_of_place import trace_out_of_place
from .torch_xla.processes import init_process_group, is_spmd, platform, use_spmd
from .torch_xla.program_cache import cache_compiled_programs

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
