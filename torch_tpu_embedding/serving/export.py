"""`export_serving`: a trained embedding as a plain CPU module, or as a program in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ..embedding import TPUEmbedding
from .program import export_program
from .served_module import Input, ServingModule


def export_serving(
    embedding: TPUEmbedding,
    path: str | Path | None = None,
    example: Mapping[str, Input] | None = None,
    *,
    quantize: Literal["int8"] | None = None,
) -> ServingModule:
    """A plain CPU module with the tables as they are now; with a path also a program of it in a file.

        tte.export_serving(embedding, "tables.pt2", {"user": torch.tensor([7]), "seen": bags})

    Args:
        embedding: on any device.
        path: where to write what `torch.export.load(path).module()` reads, with plain torch alone; ends in
            '.pt2'. See `export_program`.
        example: a batch for the program, by feature names, as the module takes it.
        quantize: None for tables in float32, those in bfloat16 too, which lose nothing; "int8" for rows of
            8-bit codes with a scale and an offset
            each, (D + 8) / 4D of the bytes (tables with D below 3 stay as they are). A looked-up value
            is then off by at most (max − min) / 510 of its row, plus the rounding of float32; see
            `Int8Embedding`.

    Raises:
        TypeError, ValueError: two tables or two features would have one name; path, example or quantize
            is wrong; a value of a table that is to be quantized is nan or infinite.
    """
    if quantize not in (None, "int8"):
        raise ValueError(f"export_serving: quantize must be None or 'int8', got {quantize!r}")
    module = ServingModule(embedding, int8=quantize == "int8").eval()
    if path is not None or example is not None:
        if path is None or example is None:
            raise ValueError("export_serving: give both a path and an example, or neither")
        export_program(module, path, example)
    return module
