"""The HLO module of a kernel, read back by XLA."""

from __future__ import annotations

import torch

from torch_tpu_embedding.kernels.hlo_module import Array, custom_call_module
from torch_tpu_embedding.kernels.write_rows import kernel_text
from torch_tpu_embedding.runtime.torch_xla import device as xla


def text_of(alias: int | None) -> str:
    operands = [Array((1,), torch.int32), Array((300,), torch.int32), Array((300, 128))]
    array = Array((4096, 128))
    module = custom_call_module("write", [*operands, array], array, '{"a": 1}', alias)
    text: str = xla.bindings()._xla_computation_text(xla.computation("write", module))
    return text


def test_xla_reads_the_module_as_one_call_whose_result_has_the_memory_of_the_array() -> None:
    text = text_of(alias=3)
    assert text.count("custom-call(") == 1
    assert 'custom_call_target="tpu_custom_call"' in text
    assert "output_to_operand_aliasing={{}: (3, {})}" in text
    for shape in ("s32[1]{0}", "s32[300]{0}", "f32[300,128]{1,0}", "f32[4096,128]{1,0}"):
        assert shape in text


def test_without_an_alias_the_result_has_memory_of_its_own() -> None:
    assert "aliasing" not in text_of(alias=None)


def test_the_text_of_a_kernel_has_no_size_left_open() -> None:
    for name in ("write_records", "write_marked_rows"):
        assert "$" not in kernel_text(name, 4096, 1024, 1)
