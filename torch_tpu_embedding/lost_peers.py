"""What is known of processes that are gone: noted by the collective that failed, read by those who wait
for such a process in another way, as for a file.
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
    """How it was seen that a process is gone, or None."""
    return _reason
