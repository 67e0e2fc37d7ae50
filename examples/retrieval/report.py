"""The report of retrieval runs: the final table, and the curves."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

import torch_tpu_embedding as tte


@dataclass
class Run:
    """The measurements of one training run."""

    seed: int
    losses: list[float]  # of each step
    scores: list[dict[str, float]]  # before the first epoch, and after each
    seconds: float  # with the time before a resume
    samples_per_second: float
    compiles_after_warm_up: int


def result_lines(runs: list[Run], baselines: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """The final table: a name and a value on each line."""
    lines = [
        (f"{score}, {name}", f"{value:.4f}")
        for name, scores in baselines.items()
        for score, value in scores.items()
    ]
    for score in runs[0].scores[-1]:
        final = [run.scores[-1][score] for run in runs]
        text = f"{statistics.fmean(final):.4f}"
        if len(runs) > 1:
            text += f" ± {statistics.stdev(final):.4f}"
        lines.append((f"{score}, two towers", text))
    last = statistics.fmean(statistics.fmean(run.losses[-50:]) for run in runs)
    return [
        *lines,
        ("train loss, last 50 steps", f"{last:.4f}"),
        ("training samples/s", f"{statistics.median(r.samples_per_second for r in runs):,.0f}"),
        ("seconds per run", f"{statistics.fmean(run.seconds for run in runs):.0f}"),
        ("compiles", str(tte.runtime.compile_count())),
        ("compiles after warm-up", str(sum(run.compiles_after_warm_up for run in runs))),
    ]


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
        count = min(8 * epochs, len(run.losses))  # single steps are noisy: show parts of epochs
        parts = torch.tensor(run.losses).tensor_split(count)
        middles = [(part + 0.5) * epochs / count for part in range(count)]
        axes[0].plot(middles, [float(part.mean()) for part in parts], color=color, label=label)
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
