"""The trainer of examples that train for epochs, with rates that fall to 0, and parts of their reports."""

from __future__ import annotations

import statistics
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch_tpu_embedding as tte
from common.background import TrainingOrder
from common.trainer import BaseTrainer, Schedule, Stateful, train


class EpochTrainer(BaseTrainer):
    """A trainer whose learning rates fall to 0 over all epochs.

    A subclass makes `model` and `order` in its `__init__`, then calls `make_optimizers`; its settings have
    `epochs`, `seed` and `dense_lr`. It decides where `schedulers` step.
    """

    model: nn.Module
    order: TrainingOrder

    def make_optimizers(self) -> None:
        """Make `optimizers`, of the tables and of the model, and their `schedulers`."""
        dense = tte.dense_optimizers.Adam(self.model.parameters(), self.settings.dense_lr)
        self.optimizers = {"tables": tte.EmbeddingOptimizer(self.embedding), "dense": dense}
        # Both optimizers are torch optimizers, so torch's schedulers drive both: a straight line to 0.
        self.schedulers = {
            name: torch.optim.lr_scheduler.LinearLR(each, 1.0, 0.0, total_iters=self.total_steps)
            for name, each in self.optimizers.items()
        }

    @property
    def steps_per_epoch(self) -> int:
        return self.order.batches

    @property
    def total_steps(self) -> int:
        epochs: int = self.settings.epochs
        return epochs * self.steps_per_epoch

    @abstractmethod
    def scores_as_text(self, scores: dict[str, float]) -> str:
        """The scores of an evaluation, as they end its line."""

    def describe(self, scores: dict[str, float], new: bool) -> str:
        epoch = self.step // self.steps_per_epoch
        if not new or not epoch:
            return ""
        loss = statistics.fmean(self.history["loss"][-self.steps_per_epoch :])
        begin = f"seed {self.settings.seed}   epoch {epoch:>2}   train loss {loss:.4f}   "
        return begin + self.scores_as_text(scores)

    def parts(self) -> dict[str, Stateful]:
        optimizers: dict[str, Any] = {f"{n} optimizer": o for n, o in self.optimizers.items()}
        schedulers: dict[str, Any] = {f"{n} schedule": s for n, s in self.schedulers.items()}
        return {"model": self.model, **optimizers, **schedulers}


@dataclass
class EpochRun:
    """The measurements of one training run, whatever its scores."""

    seed: int
    losses: list[float]  # of each step
    seconds: float  # with the time before a resume
    samples_per_second: float
    compiles_after_warm_up: int


def train_epochs(
    trainer: EpochTrainer,
    directory: Path | None,
    signals: list[int],
    warm_up: int,
    fetch_every: int,
) -> EpochRun:
    """Train all epochs of one seed; score before the first epoch, score and save after each.

    Args:
        directory: for checkpoints; None saves nothing.
        signals: the signals received so far, from `stop_on_signals`.
        warm_up, fetch_every: as in `Schedule`.
    """
    settings, epoch = trainer.settings, trainer.steps_per_epoch
    steps = Schedule(trainer.total_steps, warm_up, fetch_every, epoch, epoch, directory)
    measured = train(trainer, steps, signals, f"seed {settings.seed}")
    losses, seconds = trainer.history["loss"], trainer.seconds
    return EpochRun(
        seed=settings.seed,
        losses=losses,
        seconds=seconds["all"],
        samples_per_second=len(losses) * settings.batch_size / seconds["training"],
        compiles_after_warm_up=measured.compiles_after_warm_up or 0,
    )


def mean_text(values: Sequence[float]) -> str:
    """The mean of the runs' scores, with the standard deviation where there are several."""
    text = f"{statistics.fmean(values):.4f}"
    return text + f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else text


def run_lines(runs: Sequence[EpochRun]) -> list[tuple[str, str]]:
    """The lines of the final table about losses, speed and compiles."""
    last = statistics.fmean(statistics.fmean(run.losses[-50:]) for run in runs)
    return [
        ("train loss, last 50 steps", f"{last:.4f}"),
        ("training samples/s", f"{statistics.median(r.samples_per_second for r in runs):,.0f}"),
        ("seconds per run", f"{statistics.fmean(run.seconds for run in runs):.0f}"),
        ("compiles", str(tte.runtime.compile_count())),
        ("compiles after warm-up", str(sum(run.compiles_after_warm_up for run in runs))),
    ]


def loss_curve(
    losses: Sequence[float], epochs: int, parts_of_epoch: int
) -> tuple[list[float], list[float]]:
    """The middles, in epochs, and the mean losses of parts of the epochs: single steps are noisy."""
    count = min(parts_of_epoch * epochs, len(losses))
    parts = torch.tensor(losses).tensor_split(count)
    middles = [(part + 0.5) * epochs / count for part in range(count)]
    return middles, [float(part.mean()) for part in parts]
