"""Stop when told to, and go on later as if nothing had happened: signals, checkpoints, exit codes.

A machine that is about to be taken away says so with SIGTERM (TPU VMs do), a user with Ctrl-C. The step
at hand is finished; a checkpoint holds the tables, the dense model, the measurements and the position in
the data; the exit code tells whoever started the program to run the same command again.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from tqdm import tqdm

import torch_tpu_embedding as tte
from torch_tpu_embedding import checkpoint

PREEMPTED = 75  # exit code after SIGTERM and a save: EX_TEMPFAIL of sysexits.h, "try again later"


class Resumable(Protocol):
    """A training run that can be saved and resumed; `BaseTrainer` in trainer.py is one."""

    embedding: tte.TPUEmbedding
    step: int

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides the tables."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, or raise ValueError."""


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of ending; the second Ctrl-C raises as usual."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        tqdm.write("stopping after this step; Ctrl-C again to abort at once", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_signal(received: Sequence[int]) -> int:
    """The signal that any process got, or 0; a collective call, so that all stop at the same step."""
    number = received[0] if received else 0
    return int(tte.distributed.gather(torch.tensor([number])).max())


def report_stop(number: int, step: int, directory: Path | None) -> int:
    """Say where training stopped because of a signal; returns the exit status."""
    if tte.distributed.is_main():
        where = f"saved in {directory}" if directory else "nothing saved"
        print(f"stopped after step {step:,}: {where}", file=sys.stderr)
    return PREEMPTED if directory and number == signal.SIGTERM else 128 + number


def flush_and_sync(embedding: tte.TPUEmbedding) -> None:
    """Apply the update that pipelined execution holds back, in a program of its own.

    Evaluating or saving the tables flushes them in any case. Without a `sync` the update would become part
    of the evaluation's first program, which would then be compiled twice: with the update and without.
    """
    embedding.flush()
    tte.runtime.sync()


def save_checkpoint(directory: Path, trainer: Resumable) -> None:
    """Write `directory/step-N/`, all processes together, and remove all but the one before it.

    A crash at any moment leaves the new one whole, or the old one.
    """
    flush_and_sync(trainer.embedding)
    state = trainer.state_dict()
    checkpoint.save(trainer.embedding, directory, trainer.step, extra=state, keep_last=2)


def resume(directory: Path | None, trainer: Resumable) -> None:
    """Go on from the newest whole checkpoint, if there is any, of any number of processes.

    Raises:
        ValueError: it belongs to a run with other settings, or none is whole.
    """
    if directory is None or not checkpoint.complete_steps(directory):
        return
    try:
        loaded = checkpoint.load(trainer.embedding, directory, fall_back=True)
        trainer.load_state_dict(loaded.extra)
    except (checkpoint.CheckpointError, ValueError) as error:
        raise ValueError(f"cannot resume from {directory}: {error}") from error
    print(f"resumed at step {trainer.step:,} from {directory}")


def require_same(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise ValueError unless a run with the settings `own` can continue one with the settings `saved`."""
    for name, value in own.items():
        if value != saved.get(name):
            raise ValueError(
                f"it was written with {name} = {saved.get(name)}, this run has {value}; use the same "
                "options, or another directory for --checkpoint"
            )


def run_program(main: Callable[[], int]) -> None:
    """Be the program: run `main`, close the connections, and exit with its status."""
    try:
        status = main()
        tte.distributed.shutdown()
        sys.exit(status)
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        sys.exit(130)
