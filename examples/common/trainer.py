"""The training that the examples share: `BaseTrainer`, a model with its tables and batches, and `train`.

A step of training looks as in any program that uses `TPUEmbedding`:

    numbers = next(batches)                # a thread has sent this batch, and its ids, to the device
    activations = embedding.dequeue()      # the rows that the ids name
    ...                                    # loss, backward, and a step of each optimizer
    tte.runtime.sync()                     # runs all of it on the device, as one program

Each example writes the middle, its `train_step`, in its own model.py. With --replay most steps run the
program again without that Python code, see `BaseTrainer.replay_steps`. All around it is here: the count of
steps, predictions for held-out samples, the state that a checkpoint holds beside the tables, and a loop
that evaluates, saves and measures without compiling anything after its first steps.

Shape letters: B batch, R rows of the data.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import torch_tpu_embedding as tte
from common.background import BackgroundBatches, Batch
from common.preemption import flush_and_sync, require_same, save_checkpoint, stop_signal
from common.processes import fetch_losses, no_bar


class Stateful(Protocol):
    """A module, an optimizer or a schedule of torch: anything whose state can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class BaseTrainer(ABC):
    """A model with its tables, its optimizers and its batches, all on the device.

    A subclass makes `embedding` and `batches` in its `__init__`, and defines the abstract methods.

    Args:
        settings: a dataclass, which has `batch_size`.

    Attributes:
        step: the number of steps trained so far.
        history: `loss`, a number for each step; `evaluations`, the step and the scores of each.
        seconds: the time of all steps, and the time of the whole run.

    `step`, `history` and `seconds` are saved in checkpoints: a resumed run goes on counting.
    """

    embedding: tte.TPUEmbedding
    batches: BackgroundBatches

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.step = 0
        self.history: dict[str, list[Any]] = {"loss": [], "evaluations": []}
        self.seconds = {"training": 0.0, "all": 0.0}
        self._replayed: tte.Replay | None = None

    @abstractmethod
    def cut(self, rows: np.ndarray) -> Batch:
        """This process's part of the batch of these rows; a short batch is filled up to the same size."""

    @abstractmethod
    def train_step(self, numbers: Tensor) -> Tensor:
        """Train on the batch that the thread has sent; returns its loss, a scalar that stays on the device.

        Args:
            numbers: `Batch.numbers`, on the device.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Predictions `[B, …]` on the device, for a batch that is not trained on."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Scores on the held-out samples, by name; changes nothing."""

    @abstractmethod
    def describe(self, scores: dict[str, float], new: bool) -> str:
        """A line about an evaluation, or nothing; `new` unless a resumed run makes one again."""

    @abstractmethod
    def parts(self) -> dict[str, Stateful]:
        """The dense layers, and all optimizers that have a state, by their names in a checkpoint."""

    @abstractmethod
    def data_identity(self) -> dict[str, Any]:
        """Facts about the data that must be the same for a run to continue another."""

    def replay_steps(self) -> None:
        """From now on trace only the first steps, and a few others as a check; the numbers are the same."""
        self._replayed = tte.replay(self.train_step, self.embedding)

    def advance(self) -> Tensor:
        """Train on the next batch; the loss is a device scalar, computed when it is fetched."""
        if self._replayed is not None:
            replayed: Tensor = self._replayed(next(self.batches))  # ends the step, too
            self.step += 1
            return replayed
        # `train_step` is a function of its own so that activations and gradients are gone before `sync`:
        # a tensor that is still referenced there becomes an output of the program, which XLA must keep.
        loss = self.train_step(next(self.batches))
        tte.runtime.sync()  # ends the step: runs it as one program, compiled the first time
        self.step += 1
        return loss

    @torch.no_grad()
    def predict_rows(self, rows: np.ndarray) -> Tensor:
        """Predictions `[R, …]` on the host for rows of the data, the same in every process."""
        flush_and_sync(self.embedding)
        self.embedding.eval()  # lookups without a gradient
        outputs, size = [], self.settings.batch_size
        for start in range(0, len(rows), size):
            outputs.append(self.predict(self.cut(rows[start : start + size])))
            tte.runtime.sync()
        gathered = [tte.distributed.gather(self.embedding.to_host(each)) for each in outputs]
        # The fillers of the last batch are at its end.
        return torch.cat(gathered)[: len(rows)]

    def identity(self) -> dict[str, Any]:
        """Settings and facts about the data that must be the same for a run to continue another."""
        return {**asdict(self.settings), **self.data_identity()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the tables."""
        return {
            "settings": self.identity(),
            "step": self.step,
            "batches": self.batches.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
            **{name: part.state_dict() for name, part in self.parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the state is of a run with other settings or data, which cannot be continued.
        """
        require_same(state["settings"], self.identity())
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        self.batches.load_state_dict(state["batches"])
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        tte.runtime.sync()


@dataclass(frozen=True)
class Schedule:
    """When a run does more than train, in steps, and where it saves."""

    steps: int  # in all, with the steps before a resume
    warm_up: int  # after these, and an evaluation, nothing is compiled any more
    fetch_every: int  # fetching losses waits for the device
    evaluate_every: int
    save_every: int
    directory: Path | None  # for the checkpoints; None saves nothing

    def evaluates(self, step: int) -> bool:
        """True if the scores after `step` steps are part of the history."""
        return step == self.steps or step % self.evaluate_every == 0

    def saves(self, step: int) -> bool:
        """True if a checkpoint is due after `step` steps."""
        return self.directory is not None and step % self.save_every == 0


@dataclass
class Measured:
    """Results of one call of `train`."""

    scores: dict[str, float]  # of the last evaluation
    samples_per_second: float | None  # median after warm-up; None if the run was too short
    compiles_after_warm_up: int | None  # None if the run ended during warm-up


class _Meter:
    """Losses on their way from the device to the history, and the speed of steps between two fetches."""

    def __init__(self, trainer: BaseTrainer, warm_up: int) -> None:
        self.trainer, self.warm = trainer, trainer.step + warm_up
        self.begin = time.perf_counter() - trainer.seconds["all"]
        # Losses still on the device: fetching one waits for its step.
        self.pending: list[Tensor] = []
        self.rates: list[float] = []  # samples a second, without the warm-up
        self.start()

    def start(self) -> None:
        """Measure the time of steps from now on."""
        self.clock = time.perf_counter()

    def add(self, loss: Tensor) -> None:
        self.pending.append(loss)

    def fetch(self, bar: tqdm[Any]) -> None:
        """Wait for the steps so far, write their losses into the history, and move the bar."""
        count, losses = len(self.pending), self.trainer.history["loss"]
        losses += fetch_losses(self.pending)
        self.pending.clear()
        seconds = time.perf_counter() - self.clock
        self.trainer.seconds["training"] += seconds
        rate = count * self.trainer.settings.batch_size / seconds
        if self.trainer.step - count >= self.warm:
            self.rates.append(rate)
        loss = statistics.fmean(losses[-100:])
        bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} samples/s", refresh=False)
        bar.update(count)

    def note_all(self) -> None:
        """Bring `seconds["all"]` up to now."""
        self.trainer.seconds["all"] = time.perf_counter() - self.begin


def train(
    trainer: BaseTrainer, schedule: Schedule, signals: list[int], title: str = ""
) -> Measured:
    """Train to the last step or until a signal to any process, with evaluations and checkpoints on the way.

    Args:
        signals: the signals received so far, from `stop_on_signals`.
        title: a text before the progress bar.
    """
    total, warm_up = schedule.steps, schedule.warm_up
    first = saved = trainer.step  # saved: the step of the newest checkpoint
    compiles, stopping = None, 0
    meter = _Meter(trainer, warm_up)

    def save() -> int:
        assert schedule.directory is not None
        meter.note_all()
        save_checkpoint(schedule.directory, trainer)
        return trainer.step

    with tqdm(total=total, initial=first, desc=title, unit=" steps", disable=no_bar()) as bar:
        scores = _evaluate(trainer, schedule)  # the start of the curve, and one program to compile
        meter.start()
        while trainer.step < total and not stopping:
            meter.add(trainer.advance())
            stopping = stop_signal(signals)
            step = trainer.step
            if step - first == (warm_up + 1) // 2:
                flush_and_sync(trainer.embedding)  # if pipelined, evaluations and saves do it, too
            if step - first == warm_up:
                compiles = tte.runtime.compile_count()
            evaluating, saving = schedule.evaluates(step), schedule.saves(step)
            if evaluating or saving or stopping or step % schedule.fetch_every == 0:
                meter.fetch(bar)
                if evaluating and not stopping:
                    scores = _evaluate(trainer, schedule)
                if saving:
                    saved = save()
                meter.start()
    if schedule.directory and saved != trainer.step:
        save()
    meter.note_all()
    return Measured(
        scores,
        statistics.median(meter.rates) if meter.rates else None,
        None if compiles is None else tte.runtime.compile_count() - compiles,
    )


def _evaluate(trainer: BaseTrainer, schedule: Schedule) -> dict[str, float]:
    """Evaluate, print a line, and add the scores to the history if they are due and not there yet."""
    scores, evaluations = trainer.evaluate(), trainer.history["evaluations"]
    seen = any(each["step"] == trainer.step for each in evaluations)
    new = schedule.evaluates(trainer.step) and not seen
    if new:
        evaluations.append({"step": trainer.step, **scores})
    if line := trainer.describe(scores, new):
        tqdm.write(line)
    return scores
