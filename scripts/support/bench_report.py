"""The report of scripts/bench.py: its table, its JSON and its chart, from the samples."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

DISTURBED = 0.15
"""Rounds in which other processes used more cores are left out: waiting threads suffer most."""


def as_json(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with their summaries."""
    return {"series": [{**each, "summary": summarize(each)} for each in results]}


def summarize(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per side: quartiles of a step and medians of its phases in milliseconds, ratio to ours, rates."""
    found = {}
    ours = result["sides"].get("ours", {}).get("rounds_ms")
    for name, side in result["sides"].items():
        rounds = side["rounds_ms"]
        kept = undisturbed(result["others_cores"][: len(rounds)])
        steps = [step for at in kept for step in rounds[at]]
        times = [step["all"] for step in steps]
        low, median, high = quartiles(times)
        counts, seconds = result["counts"], median / 1e3
        shares = [_of_turn(rounds[at]) / _of_turn(ours[at]) for at in kept] if ours else []
        phases = [phase for phase in steps[0] if phase != "all"]
        found[name] = {
            "median_ms": median,
            "quartiles_ms": [low, high],
            "rounds": len(kept),
            "rounds_left_out": len(rounds) - len(kept),
            "ratio_to_ours": statistics.median(shares) if shares else None,
            "ratio_quartiles": [quartiles(shares)[0], quartiles(shares)[2]] if shares else None,
            "phases_ms": {
                phase: statistics.median(step[phase] for step in steps) for phase in phases
            },
        }
        if name != "one-feature":  # the counts are those of all features
            found[name] |= {
                "ids_per_second": counts["ids"] / seconds,
                "copy_fraction": counts["least_bytes"] / seconds / result["copy_bytes_per_second"],
            }
    return found


def undisturbed(others: list[float]) -> list[int]:
    """The rounds in which other processes left the cores alone; all, if there was none.

    >>> undisturbed([0.0, 1.3, 0.1])
    [0, 2]
    >>> undisturbed([0.9, 1.3])
    [0, 1]
    """
    return [at for at, cores in enumerate(others) if cores <= DISTURBED] or [*range(len(others))]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The first, the median and the third.

    >>> quartiles([4.0, 1.0, 2.0, 3.0, 5.0])
    (2.0, 3.0, 4.0)
    >>> quartiles([7.0])
    (7.0, 7.0, 7.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _of_turn(steps: list[dict[str, float]]) -> float:
    return statistics.median(step["all"] for step in steps)


def table(results: list[dict[str, Any]]) -> str:
    """The results as text."""
    lines: list[str] = []
    for result in results:
        settings = result["settings"]
        lines.append(f"\n{settings['workload']}, {settings['optimizer']}")
        if result["sides"]:
            lines += _measured(result)
        lines += [f"  {name} not measured: {why}" for name, why in result["absent"].items()]
    return "\n".join(lines)


def _measured(result: dict[str, Any]) -> list[str]:
    counts, kinds, others = result["counts"], result["machine"], result["others_cores"]
    lines = [
        f"  {counts['ids']:,.0f} ids a step, {counts['bytes_requested'] / 1e6:.1f} MB requested; "
        f"{counts['unique_rows']:,.0f} unique rows, {counts['unique_bytes'] / 1e6:.1f} MB with slots; "
        f"at least {counts['least_bytes'] / 1e6:.1f} MB to touch",
        f"  {kinds['cores']} cores of {kinds['processor']}, load {kinds['load']:.1f}; a copy moves "
        f"{result['copy_bytes_per_second'] / 1e9:.1f} GB/s; tables {counts['table_bytes'] / 1e9:.2f} GB; "
        f"programs compiled after the warm-up: {result['compiled_after_warm_up']}",
        f"  of {len(others)} rounds, {sum(each > DISTURBED for each in others)} were disturbed by other "
        "processes; those are left out where any other is there",
        f"  {'side':<12}{'ms':>9}  {'quartiles':<17}{'to ours':>8}  {'quartiles':<12}"
        f"{'Mid/s':>7}{'of copy':>9}  {'equal':<6} phases, ms",
    ]
    for name, found in summarize(result).items():
        low, high = found["quartiles_ms"]
        ratio = ratios = rate = share = ""
        if found["ratio_to_ours"] is not None and name != "ours":
            ratio = f"{found['ratio_to_ours']:.2f}"
            ratios = "{:.2f}–{:.2f}".format(*found["ratio_quartiles"])
        if "copy_fraction" in found:
            rate = f"{found['ids_per_second'] / 1e6:.2f}"
            share = f"{found['copy_fraction']:.3f}"
        checked = result["sides"][name]["checked"]
        equal = "–" if isinstance(checked, str) else "yes" if checked["equal"] else "NO"
        phases = ", ".join(f"{key} {value:.1f}" for key, value in found["phases_ms"].items())
        lines.append(
            f"  {name:<12}{found['median_ms']:>9.2f}  {f'{low:.2f}–{high:.2f}':<17}{ratio:>8}  "
            f"{ratios:<12}{rate:>7}{share:>9}  {equal:<6} {phases}"
        )
        if name == "one-feature" and found["ratio_to_ours"]:
            lines.append(f"  all features cost {1 / found['ratio_to_ours']:.2f} times one")
    return lines


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Step times as bars with their quartiles, a panel for each workload and optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [each for each in results if each["sides"]]
    if not shown:
        return
    columns = min(2, len(shown))
    size = (len(shown) + columns - 1) // columns
    figure, axes = pyplot.subplots(
        size, columns, figsize=(5.5 * columns, 2.4 * size), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, shown, strict=False):
        summary = summarize(result)
        for at, (name, found) in enumerate(summary.items()):
            low, high = found["quartiles_ms"]
            median = found["median_ms"]
            spread = [[max(0.0, median - low)], [max(0.0, high - median)]]
            color = "tab:orange" if name == "ours" else "tab:blue"
            axis.barh(at, median, xerr=spread, color=color, capsize=3)
            text = f" {median:.1f} ms"
            if name != "ours" and found["ratio_to_ours"] is not None:
                text += f" ({found['ratio_to_ours']:.2f}×)"
            axis.text(high, at, text, va="center", fontsize=8)
        axis.set_yticks(range(len(summary)), list(summary))
        axis.invert_yaxis()
        axis.margins(x=0.4)
        if max(each["median_ms"] for each in summary.values()) > 20 * min(
            each["median_ms"] for each in summary.values()
        ):
            axis.set_xscale("log")
        axis.set_title(f"{result['settings']['workload']}, {result['settings']['optimizer']}")
        axis.set_xlabel("milliseconds a step (bar: median, line: quartiles)")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
