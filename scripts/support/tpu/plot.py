"""The plot of scripts/tpu_report.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {
    "ours": "tab:blue",
    "kernels": "tab:green",
    "torch_tpu": "tab:purple",
    "plain": "tab:orange",
    "naive": "tab:red",
}


def plot(rows: list[dict[str, Any]], path: Path) -> bool:
    """Cycles of each case as bars, a panel for each chip: estimates, and counted code on top.

    Args:
        rows: the rows of the report; failed ones are left out.

    Returns:
        False if none is left to be drawn; nothing is written then.
    """
    rows = [row for row in rows if "failed" not in row and not row.get("sparse_core")]
    if not rows:
        return False
    chips = list(dict.fromkeys(row["chip"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    forms = [form for form in COLOURS if any(row["form"] == form for row in rows)]
    height = 2.6 * len(chips) + 1
    figure, panels = pyplot.subplots(
        len(chips), sharex=True, squeeze=False, figsize=(1.5 + 0.7 * len(cases), height)
    )
    width = 0.8 / max(len(forms), 1)
    for chip, panel in zip(chips, panels[:, 0], strict=True):
        mine = {(row["case"], row["form"]): row for row in rows if row["chip"] == chip}
        for at, form in enumerate(forms):
            for position, case in enumerate(cases):
                row = mine.get((case, form))
                if row is None:
                    continue
                left = position + (at - (len(forms) - 1) / 2) * width
                total = row["all_cycles"] / 1e6
                estimate = row["program"]["estimated_cycles"] / 1e6
                panel.bar(left, total, width, color=COLOURS[form], alpha=0.45)
                panel.bar(left, estimate, width, color=COLOURS[form])
        for position, case in enumerate(cases):
            row = mine.get((case, "ours"))
            if row and "bound_cycles" in row:
                left, right = position - 0.45, position + 0.45
                panel.hlines(row["bound_cycles"] / 1e6, left, right, color="black")
        panel.set_yscale("log")
        panel.set_ylabel(f"{chip}: Mcycles")
        panel.grid(axis="y", alpha=0.3)
    panels[-1, 0].set_xticks(range(len(cases)), cases, rotation=60, ha="right")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[form]) for form in forms]
    figure.legend(handles, forms, loc="upper right", ncol=len(forms))
    figure.suptitle(
        "Estimates for one step, compiled and not run. Full: printed by the compiler; pale: counted\n"
        "in the code of gathers, scatters and sorts; line: HBM bound of our step",
        x=0.01, ha="left", fontsize=9,
    )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
