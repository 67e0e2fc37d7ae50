"""The updates that pipelined execution holds back, of all objects that work on the same tables."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from ..program.engine import Engine
from .call_order import StepQueue
from .pipelining import Pipeline


@dataclass(frozen=True)
class _Holder:
    owner: weakref.ref[object]
    pipeline: Pipeline
    queue: StepQueue


_holders: weakref.WeakKeyDictionary[Engine, list[_Holder]] = weakref.WeakKeyDictionary()
"""In the order in which they began to work on the tables, which is the same in all processes."""


def share(engine: Engine, owner: object, pipeline: Pipeline, queue: StepQueue) -> None:
    """Let all that looks at the tables of `engine` apply what `pipeline` holds, even with `owner` gone."""
    held = _holders.setdefault(engine, [])
    held[:] = [each for each in held if each.owner() is not None or each.pipeline.holds]
    held.append(_Holder(weakref.ref(owner), pipeline, queue))


def flush(engine: Engine) -> None:
    """Apply all updates of these tables that are held back; a collective call."""
    for each in [*_holders.get(engine, ())]:
        each.pipeline.flush(engine, each.queue.first())
