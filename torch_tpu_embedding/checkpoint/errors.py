"""The errors of checkpoints on disk, and the advice that their messages end with."""

from __future__ import annotations

REMEDY = "restore it from a copy, or load another step (step=…, or fall_back=True)"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or could not be written. The message names the file."""


class StepRemovedError(CheckpointError):
    """A step was removed, or replaced by another save, while it was being opened."""
