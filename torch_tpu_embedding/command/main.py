"""`torch-tpu-embedding`: checkpoints, what a saved run holds, and whether training works here."""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from ..checkpoint.command_line import add_commands, adder, run
from ..io.terminal import escape_what_it_lacks
from .describe import add_describe
from .smoke import add_smoke

PROGRAM = "torch-tpu-embedding"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; gives the exit status, as the help says."""
    escape_what_it_lacks()
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Embedding tables for PyTorch on TPU: look into, verify, compare, reshard and convert "
        "checkpoints, and check that training works here. Exit status: 0 good, 1 damaged (verify), "
        "different (diff) or wrong (smoke), 2 not usable.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    command = adder(parser.add_subparsers(required=True, metavar="COMMAND"))
    add_smoke(command)
    add_describe(command)
    add_commands(command)
    try:
        return run(PROGRAM, parser.parse_args(arguments))
    except ModuleNotFoundError as error:
        if error.name not in ("torch_xla", "torch_tpu"):
            raise
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
