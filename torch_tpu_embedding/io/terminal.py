"""Printing on terminals of any encoding."""

from __future__ import annotations

import io
import sys


def escape_what_it_lacks() -> None:
    """From now on stdout shows letters that its encoding lacks as escapes, as stderr always does; otherwise
    such a letter, in the name of a table say, would end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
