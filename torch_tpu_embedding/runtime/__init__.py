"""The seam to the accelerator backend: nothing outside this folder imports torch_xla or torch_tpu.

Everything else in the package is plain ATen operators on tensors. The functions below are those of
`torch_xla/` or of `torch_tpu/`, by what is installed (`backend`). Either is imported on first use:
configuration, input checking and CPU serving work where neither can be loaded.
"""

from .backends import backend, backend_name, device_type
from .device_kinds import DeviceKind, is_accelerated
from .modes import allow_backward
from .own_process import require_own_process
from .processes import num_processes, one_device_is_enough, use_one_device
from .torch_xla.mesh import Mesh

if backend() == "torch_tpu":
    from .torch_tpu.collectives import (
        all_gather,
        all_to_all,
        reduce_scatter,
        sum_over_processes,
    )
    from .torch_tpu.compiling import compiled, compiles_functions
    from .torch_tpu.device import (
        annotate,
        compile_count,
        cpu_fallbacks,
        device,
        device_kind,
        is_computed,
        local_device_ids,
        manual_seed,
        sync,
        times_changed,
        trace_out_of_place,
        upload,
        wait_seconds,
    )
    from .torch_tpu.processes import (
        default_spmd,
        end_without_waiting,
        init_process_group,
        is_spmd,
        platform,
        use_spmd,
    )
    from .torch_tpu.program_cache import cache_compiled_programs
else:
    from .torch_xla.compiling import compiled, compiles_functions
    from .torch_xla.device import (
        all_gather,
        all_to_all,
        annotate,
        compile_count,
        cpu_fallbacks,
        device,
        device_kind,
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
    from .torch_xla.out_of_place import trace_out_of_place
    from .torch_xla.processes import (
        default_spmd,
        end_without_waiting,
        init_process_group,
        is_spmd,
        platform,
        use_spmd,
    )
    from .torch_xla.program_cache import cache_compiled_programs

__all__ = [
    "DeviceKind",
    "Mesh",
    "all_gather",
    "all_to_all",
    "allow_backward",
    "annotate",
    "backend",
    "backend_name",
    "cache_compiled_programs",
    "compile_count",
    "compiled",
    "compiles_functions",
    "cpu_fallbacks",
    "default_spmd",
    "device",
    "device_kind",
    "device_type",
    "end_without_waiting",
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


def __dir__() -> list[str]:
    """The public names, without what they are made of."""
    return sorted(__all__)
