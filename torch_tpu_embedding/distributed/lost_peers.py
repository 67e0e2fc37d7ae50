"""A note that a process is gone: made by the collective that failed, read by code that waits for a process
in another way, as for a file.
"""

from __future__ import annotations

_reason: str | None = None


def note(reason: str) -> None:
    """Note that a process is gone, and how that was seen."""
    global _reason
    _reason = reason


def forget() -> None:
    """Note that all processes are there: they have just been connected."""
    global _reason
    _reason = None


def known() -> str | None:
    """The note on how it was seen that a process is gone, or None."""
    return _reason
