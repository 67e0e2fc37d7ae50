"""Which tests the backend of this environment cannot run, and why."""

from __future__ import annotations

from torch_tpu_embedding import runtime

DEVICE = runtime.device_type()
"""The type of the devices, as messages show it."""

LAZY = "torch_tpu traces no programs: "
PARTITIONED = "torch_tpu has no partitioned programs: "
OF_TORCH_XLA = "about torch_xla itself: "

NO_SCALER = "torch_tpu 0.2 has no kernel for the unscaling of torch.amp.GradScaler"
ROUNDING = "op by op, torch.optim's Adagrad rounds once more or less than ours does: 1 ulp"

NEEDS_NOTHING = "under torch_tpu it needs no device: there is nothing to start, seed or ask"

NO_BFLOAT16 = "torch_tpu has no tables in bfloat16: refused when the embedding is built"
_BFLOAT16 = (
    *("test_bfloat16.py", "test_bfloat16_program.py", "test_bfloat16_spmd.py"),
    *("test_bfloat16_vocabularies.py", "order[bfloat16.md]", "recompile[--tables bfloat16"),
    "test_tables_in_bfloat16_learn_beside_float32_ones",
    *(
        f"tests/tables/low_precision/test_bfloat16_state.py::test_{begin}"
        for begin in (
            *("a_state_", "a_table_", "a_checkpoint_", "float32_", "rows_are_", "lookups_"),
            *("metrics_", "the_description_", "accumulated_", "imported_"),
        )
    ),
    *(
        f"tests/tables/low_precision/test_bfloat16_slots.py::test_{begin}"
        for begin in (
            *("a_checkpoint_", "a_state_", "a_table_", "checkpoints_and_", "start_values_"),
            *("the_description_", "the_device_", "the_reference_"),
        )
    ),
    *(
        f"tests/tables/low_precision/test_bfloat16_resumed.py::test_{begin}"
        for begin in ("a_resumed_", "a_state_", "a_part_", "the_description_", "without_")
    ),
    "tests/tables/low_precision/test_bfloat16_together.py",
    "test_bfloat16_activations.py::test_they_and_the_updates_are_those_of_the_reference",
    "updates_the_same_bit_for_bit[dtype1-",
    "test_a_step_that_is_written_again_is_the_same_map[dtype1-",
)
"""Parts of the names of tests that train such tables, or put them on a device."""

NOT_UNDER_TORCH_TPU = {
    "tests/replay/": LAZY
    + "replay calls the step (tests/torch_tpu/test_without_tracing.py tests that)",
    "test_tables_are_written_in_place_without_copies_on_four_chips[": LAZY
    + "what is compiled is the step's one program",
    **{
        f"torchs_operator_gives_with_a_number_of_python[{call}-dtype{each}]": "op by op, torch_tpu's "
        "addcmul of 16 bits rounds otherwise than its operators with a number of Python"
        for call in ("plus", "plus_product", "plus_ratio")
        for each in (1, 2)
    },
    "tests/dense_optimizers/test_program.py": LAZY + "in place in the step's one program",
    "test_states.py::test_a_state_loads_both_ways_on_an_xla_device[case1-": ROUNDING,
    "torchs_to_the_bit_where_the_formula_is_the_same[Adagrad-": ROUNDING,
    "test_a_batch_looked_up_before_unfreezing_leaves_the_table_alone[scaled]": NO_SCALER,
    "test_a_batch_looked_up_before_unfreezing_leaves_the_table_alone[unscaled]": NO_SCALER,
    "changed_in_place_or_made_under_autocast_are_those_of_cpu_mode": NO_SCALER,
    "test_a_step_that_a_grad_scaler_skips_needs_nothing": NO_SCALER,
    "test_a_step_skipped_with_accumulated_batches_skips_them_too": NO_SCALER,
    "test_a_step_that_is_to_be_skipped_on_another_process_is_skipped_here": NO_SCALER,
    "test_processes_out_of_step_are_told_which_call_each_is_in[scalers]": NO_SCALER,
    "test_scales_that_part_are_an_error_on_all_before_the_tables_change": NO_SCALER,
    "test_the_smallest_scale_given_to_all_keeps_processes_together": NO_SCALER,
    "test_what_averages_gradients_over_processes_leaves_activations_alone": OF_TORCH_XLA
    + "its sum over processes",
    "test_accelerate_trains_it_and_averages_no_activation": "accelerate 1.15 knows no device of "
    "torch_tpu, and would move the tables to the CPU, which they refuse",
    "tests/vocabularies/test_live_program.py": LAZY + "the step's one program",
    "test_a_replayed_step_is_traced_instead_and_says_so": LAZY
    + "no step is replayed, whatever its vocabularies",
    "test_steps_on_rows_by_hash_can_be_replayed": LAZY + "no step is replayed",
    "test_with_eviction_the_number_of_devices_decides_not_that_of_processes": PARTITIONED
    + "several devices of one process",
    "test_each_array_has_one_gather_a_scatter_for_each_physical_row": LAZY
    + "the step's one program",
    "test_a_pipelined_step_that_reads_its_rows_before_the_last": LAZY + "the step's one program",
    "test_clipping_by_the_norm_sums_no_gradient_twice_and": LAZY + "the step's one program",
    "test_the_traced_tpu_program_makes_nothing_of_a_tables_size": LAZY + "the step's one program",
    "test_norms_are_those_of_the_sampled_step": LAZY + "norms are known before the step ends",
    "test_a_compiled_model_trains_as_the_model_itself[openxla]": OF_TORCH_XLA
    + "its backend of torch.compile",
    "test_the_package_does_not_import_the_compiler": "torch_tpu itself imports it",
    "test_a_program_ends_though_loops_of_it_have_not": "torch_tpu warns of its allocator at import",
    "test_devices_that_stay_idle_are_warned_of_with_the_remedy": PARTITIONED
    + "and its plugin for tests has one device",
    "test_in_the_program_of_a_process_for_each_chip_values_and_gradients": OF_TORCH_XLA
    + "its replicas in threads",
    "tests/examples/test_movielens_replay.py": LAZY
    + "replay, which the example asks for, runs its step as it is and warns",
    "test_a_program_of_replicas_that_is_not_run_prints_no_stack": OF_TORCH_XLA
    + "what it traces is compiled for replicas",
    **{
        f"test_what_needs_it_names_the_install_line[tte.runtime.{call}(": NEEDS_NOTHING
        for call in (
            *("sync", "manual_seed", "wait_seconds", "cpu_fallbacks", "use_spmd", "is_spmd"),
            "cache_compiled_programs",
        )
    },
    **dict.fromkeys(_BFLOAT16, NO_BFLOAT16),
    "tests/kernels/": OF_TORCH_XLA + "row kernels are calls that it makes",
    "tests/runtime/test_forked_python.py": OF_TORCH_XLA
    + "a fork of a process that has started torch_tpu's device cannot use it",
    "tests/distributed/test_spmd.py": PARTITIONED + "several devices of one process",
    "tests/distributed/test_replicas.py": OF_TORCH_XLA + "its replicas in threads",
    "tests/program/test_exchange_program.py": PARTITIONED + "the exchange in the program",
    "tests/runtime/test_program_cache.py": OF_TORCH_XLA + "its cache of programs",
    "test_new_tensors.py::test_a_gradient_that_was_found_outlives_its_parameter": OF_TORCH_XLA
    + "its counts of the tensors that were made",
    "test_the_program_has_fewer_slices_and_else_the_operators_it_had": LAZY
    + "a look at the step's one program",
    "tests/scripts/test_bench_host.py": LAZY + "it measures replayed steps beside traced ones",
    "tests/scripts/test_tpu_report.py": OF_TORCH_XLA + "reports on its programs",
}
"""Part of a test's name, `path::function[parameters]` → why it does not run under torch_tpu."""

FILES_OF_TORCH_XLA = [
    "program/test_pipeline_program.py",
    "program/test_rows_added.py",
    "runtime/test_held.py",
    "runtime/test_out_of_place.py",
]
"""The files that import torch_xla by their first lines: not collected under torch_tpu."""


def reason_to_skip(name: str, needs_torch_tpu: bool) -> str:
    """Why a test is skipped; empty if it runs.

    Args:
        name: as pytest shows it, `path::function[parameters]`.
        needs_torch_tpu: it has the marker `torch_tpu`.
    """
    if runtime.backend() == "torch_xla":
        return "needs torch_tpu: scripts/run --backend torch-tpu pytest" if needs_torch_tpu else ""
    return next((why for part, why in NOT_UNDER_TORCH_TPU.items() if part in name), "")
