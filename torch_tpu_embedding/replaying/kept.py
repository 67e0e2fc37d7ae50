"""A program that is kept for its key, and how far it is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from .program import Program


class ReplayError(RuntimeError):
    """A traced step is another program than the one that was run in its place since the last check."""


@dataclass
class Kept:
    """A program, and how far it is trusted."""

    program: Program | None = None
    agreed: int = 0
    """Traces in a row that gave this program."""
    due: int = 0
    """Steps that may be replayed before the next trace."""
    replayed: int = 0
    """Steps replayed since the last trace."""
    strikes: int = 0
    """Traces in a row that could not be replayed at all."""
