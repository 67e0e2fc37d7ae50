"""`export_serving`: a trained embedding as a plain CPU module, or as a program in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..embedding import TPUEmbedding
from .program import export_program
from .served_module import Input, ServingModule


def export_serving(
    embedding: TPUEmbedding,
    path: str | Path | None = None,
    example: Mapping[str, Input] | None = None,
) -> ServingModule:
    """A plain CPU module with the tables as they are now; with a path also a program of it in a file.

        tte.export_serving(embedding, "tables.pt2", {"user": torch.tensor([7]), "seen": bags})

    Args:
        embedding: on any device.
        path: where to write what `torch.export.load(path).module()` reads, with plain torch alone; ends in
            '.pt2'. See `export_program`.
        example: a batch for the program, by feature names, as the module takes it.

    Raises:
        TypeError, ValueError: two tables or two features would have one name; path or example is wrong.
    """
    module = ServingModule(embedding).eval()
    if path is not None or example is not None:
        if path is None or example is None:
            raise ValueError("export_serving: give both a path and an example, or neither")
        export_program(module, path, example)
    return module
