"""The report of scripts/bench_host.py: Markdown tables of its JSON, and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.host.loader import BAR, PARTS
from support.host.measure import INPUT, SIDES, STEP
from support.host.model import ASSUMPTIONS

COLOURS = "tab20"


def tables(out: dict[str, Any]) -> str:
    """All of a run as Markdown, as docs/performance.md and docs/lab/performance.md show it."""
    parts = []
    if out["steps"]:
        parts += [summary(out["steps"]), phases(out["steps"]), f"({ASSUMPTIONS}.)"]
    if out["loader"]:
        parts.append(hidden(out["loader"]))
    return "\n\n".join(parts)


def rows(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table.

    >>> print(rows(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *body]
    text = ["| " + " | ".join(each) + " |" for each in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def summary(steps: list[dict[str, Any]]) -> str:
    """The first table of docs/performance.md: milliseconds of the threads, and modelled samples/s."""
    head = ["workload, optimizer", "loader thread", "main thread, traced", "replayed", "ratio"]
    head += ["device, modelled", "modelled samples/s, traced", "replayed"]
    body = []
    for each in steps:
        traced, replayed = (each["sides"][side]["median_ms"] for side in SIDES)
        speeds = [each["modelled"][side] for side in SIDES]
        body.append(
            [
                f"{each['workload']}, {each['optimizer']}",
                f"{replayed['loader thread']:.2f}",
                f"{traced['main thread']:.2f}",
                f"{replayed['main thread']:.2f}",
                f"{each['ratio']:.1f}",
                f"{speeds[0]['device_ms']:.2f}",
                *(f"{speed['samples_per_second']:,.0f} ({speed['limit']})" for speed in speeds),
            ]
        )
    return rows(head, body)


def phases(steps: list[dict[str, Any]]) -> str:
    """Milliseconds of each phase, traced and replayed side by side."""
    head = ["phase", *(f"{each['workload']}, {each['optimizer']}" for each in steps)]
    body = []
    for name in (*INPUT, "loader thread", *STEP, "main thread"):
        both = [[each["sides"][side]["median_ms"][name] for side in SIDES] for each in steps]
        shown = [
            " / ".join("–" if value == 0 else f"{value:.2f}" for value in pair) for pair in both
        ]
        body.append([name, *shown])
    return rows(head, body)


def hidden(loader: list[dict[str, Any]]) -> str:
    """Milliseconds of each part alone and of the step with the loader."""
    head = ["workload, optimizer", *PARTS, "with the loader", f"to the largest (bar: {BAR})"]
    body = []
    for each in loader:
        times = [f"{each['median_ms'][kind]:.2f}" for kind in (*PARTS, "with the loader")]
        body.append(
            [f"{each['workload']}, {each['optimizer']}", *times, f"{each['to_larger']:.2f}"]
        )
    return rows(head, body)


def plot(steps: list[dict[str, Any]], path: Path) -> None:
    """Phases of the main thread and of the loader's as stacked bars, traced above replayed.

    A row of panels for each workload, a column for each optimizer.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    workloads = list(dict.fromkeys(each["workload"] for each in steps))
    optimizers = list(dict.fromkeys(each["optimizer"] for each in steps))
    figure, axes = pyplot.subplots(
        len(workloads), len(optimizers), squeeze=False, layout="constrained",
        figsize=(3 + 4.5 * len(optimizers), 0.8 + 1.2 * len(workloads)),
    )  # fmt: skip
    colours = pyplot.get_cmap(COLOURS)
    for each in steps:
        axis = axes[workloads.index(each["workload"]), optimizers.index(each["optimizer"])]
        labels = []
        for side in SIDES:
            medians = each["sides"][side]["median_ms"]
            for thread, names in (("main thread", STEP), ("loader thread", INPUT)):
                left = 0.0
                for name in names:
                    colour = colours((*STEP, *INPUT).index(name))
                    axis.barh(len(labels), medians[name], left=left, color=colour, label=name)
                    left += medians[name]
                axis.text(left, len(labels), f" {left:.2f}", va="center", fontsize=8)
                labels.append(f"{side}: {thread}")
        axis.axvline(each["modelled"][SIDES[0]]["device_ms"], color="black", linestyle=":")
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_title(f"{each['workload']}, {each['optimizer']}", fontsize=9)
    figure.supxlabel(
        "milliseconds of thread time a step (dotted: the device, modelled)", fontsize=9
    )
    handles, names = axes.flat[0].get_legend_handles_labels()
    seen = dict(zip(names, handles, strict=True))
    figure.legend(seen.values(), seen.keys(), loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
