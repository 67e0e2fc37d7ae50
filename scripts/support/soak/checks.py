"""The checks of scripts/soak.py, and how both soaks report what they found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GROWTH = 0.01
"""Growth of the resident memory that is allowed."""


def failures(report: dict[str, Any]) -> list[str]:
    """One line for each check that failed, with its numbers.

    Args:
        report: as `main` writes it.
    """
    found = []
    if report["growth"] > GROWTH:
        before, after = report["resident_mib_before"], report["resident_mib_after"]
        grown = f"{before} to {after} MiB, {report['growth']:.2%}"
        found.append(f"memory: it grew from {grown}; at most {GROWTH:.0%} is allowed")
    if report["loader_threads_left"]:
        found.append(f"threads: {report['loader_threads_left']} of loaders left after iterations")
    if report["threads_after"] > report["threads_before"]:
        numbers = f"{report['threads_after']}, {report['threads_before']} in the middle"
        found.append(f"threads: {numbers} of the training")
    if not report["tables_equal"]:
        error, lost = report["error_against_float64"], report["error_of_one_lost_update"][0]
        found.append(
            f"tables: {error:.2e} from the emulation, where one lost update is {lost:.2e}"
            + ("" if report["pipelined"] else ", or not those trained without a thread")
        )
    return found


def tell(report: dict[str, Any], problems: list[str], path: Path | None) -> int:
    """Print a report, and what failed on the standard error; gives the status of the command.

    Args:
        path: of the file to write the report to, too.
    """
    print(json.dumps(report))
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return int(bool(problems))
