"""A served model as a file: torch.export with all sizes that may differ from batch to batch left open.

Letters: B batch, N ids.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as tracing

from ..config.resolved import Feature
from ..io.paths import local_path
from .served_module import Input, ServingModule, as_tensors

_SAMPLES, _IDS = 3, 5
"""B and N of the traced batch: different from each other, and neither 0 nor 1."""


def export_program(
    model: nn.Module, path: str | Path, *example: Mapping[str, Input] | Tensor
) -> torch.export.ExportedProgram:
    """Write a model that holds a ServingModule to a file, for any number of samples and ids, also 0 and 1.

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.tables, self.head = tte.export_serving(embedding), copy.deepcopy(head).cpu()

            def forward(self, features, dense):
                rows = self.tables(features)
                return self.head(torch.cat([rows["user"], rows["seen"], dense], dim=1))

        tte.export_program(Model().eval(), "model.pt2", {"user": ids, "seen": bags}, dense)
        score = torch.export.load("model.pt2").module()

    The program takes what the example has: the same features in the same order, a Ragged as its (values,
    row_splits), a pair of Raggeds as (values, row_splits, weights). Of the example only kinds, dtypes and
    trailing sizes count. A feature with `output_shape` has as many samples as the example.

    Args:
        model: in evaluation mode, on the CPU.
        path: ends in '.pt2'; a file that is there is replaced once the new one is whole.
        example: the positional arguments of the model: features by name, or tensors `[B, …]`.

    Raises:
        TypeError, ValueError: path, model or example is wrong; nothing was written.
    """
    target = local_path(path)
    if target.suffix != ".pt2":
        raise ValueError(f"export_program: the path must end in '.pt2', got {str(path)!r}")
    if model.training:
        raise ValueError("export_program: the model is in training mode; call model.eval() first")
    tables = next((each for each in model.modules() if isinstance(each, ServingModule)), None)
    if tables is None:
        raise ValueError(
            "export_program: the model holds no ServingModule; give it export_serving(embedding) as a "
            "submodule"
        )
    pairs = [_stand_in(tables, each) for each in example]
    inputs, shapes = tuple(each for each, _ in pairs), tuple(each for _, each in pairs)
    # Else sizes of 0 and 1 are taken for constants, and a program for more refuses a single sample.
    with tracing.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    partial = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        torch.export.save(program, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return program


_OPEN = {0: torch.export.Dim.DYNAMIC}


def _stand_in(tables: ServingModule, example: Mapping[str, Input] | Tensor) -> tuple[Any, Any]:
    """An argument like the example to be traced, and which of its sizes are open.

    No tensor is twice in it: torch.export would take the two for one.
    """
    if isinstance(example, Tensor):
        return _zeros(example, _SAMPLES), _OPEN
    values, shapes = {}, {}
    for name, value in example.items():
        feature = tables.feature(name)
        parts = as_tensors(f"feature {name!r}", feature, value)
        made = _of_feature(feature, parts)
        single = isinstance(value, Tensor)
        values[name] = made[0][0] if single else tuple(each for each, _ in made)
        shapes[name] = made[0][1] if single else tuple(each for _, each in made)
    return values, shapes


def _of_feature(feature: Feature, parts: tuple[Tensor, ...]) -> list[tuple[Tensor, Any]]:
    """The tensors of one feature, each with its open sizes."""
    fixed = feature.output_shape is not None
    if len(parts) == 1:
        return [
            (torch.zeros_like(parts[0]), None) if fixed else (_zeros(parts[0], _SAMPLES), _OPEN)
        ]
    values, splits, *weights = parts
    samples = len(splits) if fixed else _SAMPLES + 1
    made = [(_zeros(values, _IDS), _OPEN), (_zeros(splits, samples), None if fixed else _OPEN)]
    return [*made, *((_zeros(each, _IDS), _OPEN) for each in weights)]


def _zeros(like: Tensor, size: int) -> Tensor:
    return like.new_zeros(size, *like.shape[1:])
