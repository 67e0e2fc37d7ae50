"""AUC along the stream, in numbers and as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from dlrm.report import auc

WINDOWS = 15


def window_auc(labels: Sequence[torch.Tensor], logits: Sequence[torch.Tensor]) -> list[float]:
    """The AUC of each of some stretches of the stream, end to end."""
    pairs = zip(*(torch.cat([*each]).chunk(WINDOWS) for each in (labels, logits)), strict=True)
    return [auc(label.numpy(), logit.numpy()) for label, logit in pairs]


def mean_auc(of_seeds: Sequence[Sequence[float]]) -> str:
    """The mean over the second half of the stream, and its range over the seeds."""
    halves = [float(np.mean(curve[WINDOWS // 2 :])) for curve in of_seeds]
    return f"{np.mean(halves):.4f}   ({min(halves):.4f} to {max(halves):.4f})"


def plot(path: Path, curves: Mapping[str, Sequence[Sequence[float]]], steps: int) -> None:
    """Draw the curves of all seeds."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (way, of_seeds) in enumerate(curves.items()):
        for seed, curve in enumerate(of_seeds):
            at = (np.arange(len(curve)) + 0.5) * steps / len(curve)
            label = way if seed == 0 else None
            axes.plot(at, curve, "o-", color=f"C{number}", markersize=3, linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel="AUC before learning", title="Items that come and go")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
