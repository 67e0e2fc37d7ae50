"""`python -m torch_tpu_embedding.checkpoint`: the commands about checkpoints alone; no torch_xla."""

from __future__ import annotations

import argparse
import sys

from ..io.terminal import escape_what_it_lacks
from .command_line import add_commands, adder, run

PROGRAM = "python -m torch_tpu_embedding.checkpoint"


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; gives the exit status: 0 good, 1 damaged or different, 2 not usable."""
    escape_what_it_lacks()
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look into, verify, compare, reshard and convert checkpoints. Exit status: 0 good, "
        "1 damaged (verify) or different (diff), 2 not usable.",
    )
    add_commands(adder(parser.add_subparsers(required=True, metavar="COMMAND")))
    return run(PROGRAM, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
