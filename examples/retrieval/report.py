"""The report of retrieval runs: the final table, and the curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.epochs import EpochRun, loss_curve, mean_text, run_lines


@dataclass
class Run(EpochRun):
    """The measurements of one training run."""

    scores: list[dict[str, float]]  # before the first epoch, and after each


def result_lines(runs: list[Run], baselines: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """The final table: a name and a value on each line."""
    lines = [
        (f"{score}, {name}", f"{value:.4f}")
        for name, scores in baselines.items()
        for score, value in scores.items()
    ]
    for score in runs[0].scores[-1]:
        final = [run.scores[-1][score] for run in runs]
        lines.append((f"{score}, two towers", mean_text(final)))
    return [*lines, *run_lines(runs)]


def plot(path: Path, title: str, runs: list[Run], baselines: dict[str, dict[str, float]]) -> None:
    """Training loss of each step, and recall@10 and MRR of each epoch beside the baselines."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    names = [*runs[0].scores[-1]]
    figure, axes = pyplot.subplots(1, 1 + len(names), figsize=(13, 4), layout="constrained")
    figure.suptitle(title)
    epochs = len(runs[0].scores) - 1
    for number, run in enumerate(runs):
        color, label = f"C{number}", f"two towers, seed {run.seed}"
        axes[0].plot(*loss_curve(run.losses, epochs, 8), color=color, label=label)
        for axis, name in zip(axes[1:], names, strict=True):
            values = [scores[name] for scores in run.scores]
            axis.plot(range(epochs + 1), values, "o-", color=color, markersize=4, label=label)
    axes[0].set(xlabel="epoch", ylabel="in-batch softmax", title="Training loss")
    for axis, name in zip(axes[1:], names, strict=True):
        for (baseline, scores), style in zip(baselines.items(), (":", "--"), strict=True):
            label = f"{baseline}, {scores[name]:.3f}"
            axis.axhline(scores[name], color="0.35", linestyle=style, label=label)
        axis.set(xlabel="epoch", ylim=(0, None), title=f"{name} of held-out movies")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
