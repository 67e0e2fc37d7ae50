#!/usr/bin/env python3
"""Write constraints.txt: exact versions of all that `scripts/run` installs, as this environment has them.

The versions are those of every distribution that the extra `dev` needs, directly or by way of others. For
newer ones run it in an environment that was installed without the file:

    python3.11 -m venv newest && newest/bin/pip install -e '.[dev]' && newest/bin/python scripts/lock.py

Those of `scripts/run --backend torch-tpu` are written in the same way, with `--extra dev-torch-tpu --file
constraints-torch-tpu.txt`, in an environment that has that extra.

What torch itself pins to one version (triton, the GPU libraries) is left out, and a local version such as
2.9.0+cpu is written without its end: so the file fits torch's CPU wheels, and those of PyPI.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from support.command_line import make_parser
from support.paths import output_file

ROOT = Path(__file__).parent.parent
PACKAGE = "torch_tpu_embedding"
OF_TORCH = ("triton", "nvidia-")
HEAD = """\
# Exact versions of all that `scripts/run` installs; scripts/lock.py writes it, and says how to renew them.
"""


def canonical(name: str) -> str:
    """The name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(package: str, extra: str) -> dict[str, str]:
    """Name → version of each distribution that an extra of a package needs here.

    Args:
        package: an installed distribution.
        extra: one of its extras.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(package, extra)]
    while waiting:
        name, extra = waiting.pop()
        if (canonical(name), extra) in seen or canonical(name).startswith(OF_TORCH):
            continue
        seen.add((canonical(name), extra))
        of = distribution(name)
        found[canonical(name)] = of.version.partition("+")[0]
        for text in of.requires or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            waiting += [(requirement.name, each) for each in ("", *requirement.extras)]
    del found[canonical(package)]
    return found


def main() -> int:
    """Run from the command line."""
    parser = make_parser(__doc__)
    help_of_file = "the file to write"
    parser.add_argument(
        "--file", type=output_file, default=str(ROOT / "constraints.txt"), help=help_of_file
    )
    parser.add_argument("--extra", default="dev", help="the extra whose versions are written")
    args = parser.parse_args()
    lines = [
        f"{name}=={version}\n" for name, version in sorted(needed(PACKAGE, args.extra).items())
    ]
    args.file.write_text(HEAD + "".join(lines))
    print(f"{len(lines)} versions written to {args.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
