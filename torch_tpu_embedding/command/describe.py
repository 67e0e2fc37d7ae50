"""`describe`: tables, dims, optimizers and bytes of a saved configuration or of a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from ..checkpoint.convert.tensorflow import AddCommand
from ..checkpoint.reading.reader import open_checkpoint
from ..config.resolved import WEIGHT, field_shape, resolve
from ..config.serialization import callable_names, config_from_dict, optimizer_to_dict
from ..io.paths import path_option


def tables_of_config(path: Path) -> list[dict[str, Any]]:
    """The tables of a configuration that was saved as JSON.

    Args:
        path: of a file that holds what `config_to_dict` gives.

    Raises:
        ValueError: it holds something else.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        features = config_from_dict(
            described, dict.fromkeys(callable_names(described), _not_called)
        )
    except (AttributeError, TypeError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path}: not a configuration ({error}); give a file that holds json.dumps(config_to_dict(…))"
        ) from error
    return [
        _entry(
            table.name,
            optimizer_to_dict(table.optimizer),
            {name: [*field_shape(table, name)] for name in (WEIGHT, *table.slot_names)},
        )
        for table in resolve(features, None).tables
    ]


def tables_of_checkpoint(directory: Path, step: int | None) -> tuple[int, list[dict[str, Any]]]:
    """The number of a step and its tables, from its index alone.

    Args:
        directory: of the run.
        step: None for the newest complete one.
    """
    with open_checkpoint(directory, step, verify=False) as reader:
        tables = [
            _entry(
                entry.name,
                entry.optimizer,
                {name: [entry.vocabulary_size, width] for name, width in entry.fields.items()},
            )
            for entry in reader.tables.values()
        ]
        return reader.step, tables


def _not_called(*_: Any) -> Any:
    """Stands for an initializer or a learning rate, which JSON does not have."""
    raise AssertionError("a description calls nothing")


def _entry(name: str, optimizer: Any, fields: dict[str, list[int]]) -> dict[str, Any]:
    rows, dim = fields[WEIGHT]
    size = 4 * sum(math.prod(shape) for shape in fields.values())
    slots = [each for each in fields if each != WEIGHT]
    made = {"name": name, "vocabulary_size": rows, "dim": dim, "optimizer": optimizer}
    return made | {"slots": slots, "bytes": size}


def _describe(args: argparse.Namespace) -> tuple[int, Any, str]:
    result: dict[str, Any] = {"path": str(args.path)}
    if args.path.is_file():
        result["tables"] = tables_of_config(args.path)
        title = f"{args.path}: configuration"
    else:
        result["step"], result["tables"] = tables_of_checkpoint(args.path, args.step)
        title = f"{args.path}: step {result['step']}"
    result["bytes"] = sum(table["bytes"] for table in result["tables"])
    lines = [title]
    for table in result["tables"]:
        optimizer = table["optimizer"]["class"] if table["optimizer"] else "none or not known"
        lines.append(
            f"  {table['name']}: {table['vocabulary_size']:,} x {table['dim']}, optimizer {optimizer}, "
            f"slots {', '.join(table['slots']) or 'none'}, {table['bytes']:,} bytes"
        )
    lines.append(f"{len(result['tables'])} tables, {result['bytes']:,} bytes in all")
    return 0, result, "\n".join(lines)


def add_describe(add: AddCommand) -> None:
    """Add `describe` to the command line."""
    made = add(
        "describe", _describe, "show tables, dims, optimizers and bytes, without reading rows"
    )
    made.add_argument(
        "path",
        type=path_option,
        help="directory of a run, which holds step-<n>/, or a JSON file of config_to_dict",
    )
    made.add_argument("--step", type=int, help="of a run (default: the newest complete one)")
