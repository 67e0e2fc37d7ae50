"""The report of MovieLens runs: the final table, and the curves."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from common.epochs import EpochRun, loss_curve, mean_text, run_lines

import torch_tpu_embedding as tte


@dataclass
class Run(EpochRun):
    """The measurements of one training run."""

    rmses: list[float]  # before the first epoch, and after each


def result_lines(
    runs: list[Run], scores: dict[str, float], fallbacks_before: dict[str, int]
) -> list[tuple[str, str]]:
    """The final table: a name and a value on each line.

    Args:
        fallbacks_before: the operators that had left the device before the runs, with their counts.
    """
    final = [run.rmses[-1] for run in runs]
    mean = statistics.fmean(final)
    lines = [(f"RMSE, {name}", f"{score:.4f}") for name, score in scores.items()]
    lines += [("RMSE, this model", mean_text(final))]
    lines += [(f"better than {name} by", f"{score - mean:.4f}") for name, score in scores.items()]
    counts = tte.runtime.cpu_fallbacks().items()
    fallbacks = [name for name, count in counts if count > fallbacks_before.get(name, 0)]
    return [
        *lines,
        *run_lines(runs),
        ("operators that fell back to the host", ", ".join(fallbacks) or "none"),
    ]


def plot(path: Path, title: str, runs: list[Run], scores: dict[str, float]) -> None:
    """Training loss of each step and held-out RMSE of each epoch, as one picture."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    epochs = len(runs[0].rmses) - 1
    for number, run in enumerate(runs):
        color, name = f"C{number}", f"seed {run.seed}"
        left.plot(*loss_curve(run.losses, epochs, 4), color=color, linewidth=1.4, label=name)
        right.plot(range(epochs + 1), run.rmses, "o-", color=color, markersize=4, label=name)
    left.set(xlabel="epoch", ylabel="mean squared error", title="Training loss")
    for (name, score), style in zip(scores.items(), (":", "--"), strict=True):
        right.axhline(score, color="0.35", linestyle=style, label=f"{name}, {score:.3f}")
    right.set(xlabel="epoch", ylabel="RMSE in stars", title="Held-out RMSE")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
