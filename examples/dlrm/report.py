"""The report of a DLRM run: exact metrics, the final table, and the curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

TABLE = {
    "steps": ("steps", ",d"),
    "train_loss": ("train loss, last 100 steps", ".4f"),
    "log_loss": ("held-out log loss", ".4f"),
    "auc": ("held-out AUC", ".4f"),
    "dense_only_auc": ("dense-only AUC", ".4f"),
    "best_possible_auc": ("best possible AUC", ".4f"),
    "samples_per_second": ("samples/s, median after warm-up", ",.0f"),
    "compiles": ("compiles", "d"),
    "compiles_after_warm_up": ("compiles after warm-up", "d"),
}


def result_table(results: dict[str, Any]) -> str:
    """The results as aligned text; a result that this run does not have is left out."""
    found = {name: results[name] for name in TABLE if results.get(name) is not None}
    lines = [(TABLE[name][0], format(value, TABLE[name][1])) for name, value in found.items()]
    if results.get("auc", 0.0) is None:
        lines.append((TABLE["auc"][0], "not defined"))
    left, right = (max(len(line[side]) for line in lines) for side in (0, 1))
    rule = "-" * (left + 3 + right)
    return "\n".join([rule, *(f"{name:<{left}}   {text:>{right}}" for name, text in lines), rule])


def plot(path: Path, title: str, history: dict[str, list[Any]]) -> None:
    """Loss curve (raw and smoothed) and AUC curves, as one picture."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    loss, evaluations = np.array(history["loss"]), history["evaluations"]
    curves = {name: [each[name] for each in evaluations] for name in evaluations[-1]}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    raw = {"color": "tab:blue", "alpha": 0.25, "linewidth": 0.8}
    left.plot(np.arange(1, len(loss) + 1), loss, label="training, each step", **raw)
    window = max(1, min(100, len(loss) // 20))
    if len(loss):
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        at = np.arange(window, len(loss) + 1)
        left.plot(at, smooth, color="tab:blue", label=_mean_of(window))
    left.plot(curves["step"], curves["log_loss"], "o-", color="tab:orange", label="held out")
    left.set(xlabel="step", ylabel="log loss", title="Log loss")
    if None in curves["auc"]:
        right.text(
            0.5, 0.5, "not defined: all labels are equal", ha="center", transform=right.transAxes
        )
    else:
        _plot_auc(right, curves)
    right.set(xlabel="step", ylabel="AUC", title="AUC on held-out samples")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _plot_auc(right: Any, curves: dict[str, list[Any]]) -> None:
    """Draw the curves of the AUC into axes."""
    right.plot(curves["step"], curves["auc"], "o-", color="tab:orange", label="DLRM")
    if "dense_only_auc" in curves:
        baseline = {"color": "tab:gray", "label": "without embeddings (dense-only)"}
        right.plot(curves["step"], curves["dense_only_auc"], "s-", **baseline)
    if "best_possible_auc" in curves:
        best = curves["best_possible_auc"][-1]
        right.axhline(best, color="tab:green", linestyle="--", label=f"best possible: {best:.3f}")


def _mean_of(window: int) -> str:
    """The label of a smoothed curve."""
    return f"training, mean of {window} steps" if window > 1 else "training"


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The exact area under the ROC curve: P(score of a click > score of a non-click), ties half.

    Computed as the rank statistic of Mann and Whitney, in O(n log n), with no histogram. NaN if all
    labels are the same, for then there is no pair of a click and a non-click.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.5, 0.5]))
    0.875
    """
    clicked = np.asarray(labels) > 0.5
    clicks = int(clicked.sum())
    pairs = clicks * (clicked.size - clicks)
    if pairs == 0:
        return float("nan")
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2  # tied scores share the middle of their ranks
    return float((rank[group][clicked].sum() - clicks * (clicks + 1) / 2) / pairs)


def auc_or_none(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """`auc`, or None where all labels are equal: JSON has no NaN.

    >>> auc_or_none(np.array([1, 1]), np.array([0.1, 0.9])) is None
    True
    """
    area = auc(labels, scores)
    return None if math.isnan(area) else area


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross entropy of logits, in float64 and without overflow.

    >>> round(log_loss(np.array([0, 1]), np.array([0.0, 1000.0])), 4)  # log(2) / 2
    0.3466
    """
    logits = np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))
