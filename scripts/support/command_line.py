"""The command lines of the scripts: docstrings are the help, as they are written, with all defaults."""

from __future__ import annotations

import argparse


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with the description as it is written, and the default of each option that has one.

    >>> parser = argparse.ArgumentParser(prog="x", formatter_class=HelpFormatter)
    >>> _ = parser.add_argument("--sizes", nargs="+", default=[1, 2], help="in rows")
    >>> print(parser.format_help().splitlines()[-1].strip())
    in rows (default: 1 2)
    """

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        unknown = default is None or default is False or default is argparse.SUPPRESS
        if unknown or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})".strip()


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a script; the description is its docstring, the first line a summary."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
