"""TensorFlow's record of the newest checkpoint: the text file `checkpoint` of a directory.

`tf.train.latest_checkpoint` and a CheckpointManager read it; names in it are relative to the directory.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

NAME = "checkpoint"


def newest(directory: Path) -> str | None:
    """The checkpoint that the record of a directory calls the newest; None if there is no record."""
    if not (directory / NAME).is_file():
        return None
    found = _read(directory / NAME).get("model_checkpoint_path")
    return _unquoted(found[0]) if found else None


def record(prefix: Path) -> None:
    """Note that this checkpoint, complete now, is the newest of its directory; others stay on record.

    Raises:
        OSError: the record cannot be written.
    """
    path = prefix.parent / NAME
    record_now = _read(path) if path.is_file() else {}
    names = record_now.get("all_model_checkpoint_paths", [])
    times = record_now.get("all_model_checkpoint_timestamps", [])
    if len(times) != len(names):
        times = []  # older ones have none, and TensorFlow wants one each or none
    mine = _quoted(prefix.name)
    kept = [position for position, name in enumerate(names) if name != mine]
    lines = [("model_checkpoint_path", mine)]
    lines += [("all_model_checkpoint_paths", name) for name in [*(names[n] for n in kept), mine]]
    if times:
        now = [*(times[n] for n in kept), repr(time.time())]
        lines += [("all_model_checkpoint_timestamps", each) for each in now]
    lines += [
        ("last_preserved_timestamp", each)
        for each in record_now.get("last_preserved_timestamp", [])
    ]
    partial = path.with_name(f"{NAME}.partial")
    partial.write_text("".join(f"{name}: {value}\n" for name, value in lines), encoding="utf-8")
    os.replace(partial, path)


def _read(path: Path) -> dict[str, list[str]]:
    """Field → its values as they are written."""
    found: dict[str, list[str]] = {}
    text = path.read_text(encoding="utf-8")
    for name, value in re.findall(
        r'^\s*(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|\S+)\s*$', text, re.MULTILINE
    ):
        found.setdefault(name, []).append(value)
    return found


def _quoted(name: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", name).replace("\n", r"\n") + '"'


def _unquoted(value: str) -> str:
    """A string of a text proto: letters outside ASCII may be octal bytes."""

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return (
            bytes([int(code, 8)]) if code.isdigit() else {b"n": b"\n", b"t": b"\t"}.get(code, code)
        )

    return re.sub(rb"\\([0-7]{1,3}|.)", byte, value[1:-1].encode()).decode()
