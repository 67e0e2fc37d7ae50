"""Lookup and update as compiled functions, for a backend that runs operators one by one (torch_tpu).

A compiled function that changes an array in place copies all of it under torch_tpu 0.2, and so does its
fused eager mode; an operator called by itself is given the array's memory. So what is compiled reads rows
and computes, and notes what is to be written; each array is then written by an eager call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from ... import runtime
from ...batch.program_shape import StackShape
from ...tables.layout import StackLayout
from ..lookup import activations, rows_of
from ..records import add_rows_in_place, gather_records
from ..stack_index import SentBatch, StackIndex, split_buffers
from ..update import apply_stack, row_gradients

_Program = Callable[..., list[Tensor]]


class _Noted:
    """An array that is read in a compiled function, and written after it.

    Has those methods of a tensor that the access to records uses.
    """

    def __init__(self, array: Tensor, writes: list[Tensor]) -> None:
        self._array = array
        self._writes = writes
        self.device = array.device

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        return self._array.index_select(dim, rows)

    def scatter_add_(self, dim: int, rows: Tensor, change: Tensor) -> _Noted:
        self._writes += [rows if rows.dim() == 1 else rows.select(1, 0), change]
        return self


class CompiledSteps:
    """The lookups and updates of one device's tables, each a program for every shape of a batch.

    The numbers are those of the functions that run operator by operator, but for the rounding of operators
    that the compiler fuses.

    Args:
        stacks: all of the store.
    """

    def __init__(self, stacks: Sequence[StackLayout]) -> None:
        self._stacks = stacks
        self._programs: dict[tuple[str, tuple[StackShape, ...]], _Program] = {}
        self._writes: dict[tuple[StackShape, ...], tuple[int, ...]] = {}
        """Twice the number of writes of each array, in an update of such a batch."""

    @property
    def takes_updates(self) -> bool:
        """True if each stack's update is one for each unique row, which is what is compiled."""
        return not any(
            stack.rule is not None and (stack.steps_per_occurrence or stack.rule.moves_all_rows)
            for stack in self._stacks
        )

    def look_up(
        self, batch: SentBatch, weights: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The records of each stack, and the activations of each feature by its index.

        Args:
            weights: the array of each stack's weights.
        """
        spans = [span for shape in batch.shapes for span in shape.order.spans]

        def program(*inputs: Tensor) -> list[Tensor]:
            rest = iter(inputs)
            indices = _split(batch, rest)
            records = [
                gather_records(index.shape.order.stack.arrays[0], array, index.ints.record)
                for index, array in zip(indices, rest, strict=True)
            ]
            found = list(records)
            for index, each in zip(indices, records, strict=True):
                found += activations(index, rows_of(index, each))
            return found

        found = self._run("look_up", batch, program, [*batch.buffers, *weights])
        records, parts = found[: len(batch.shapes)], found[len(batch.shapes) :]
        return records, {s.feature_index: part for s, part in zip(spans, parts, strict=True)}

    def update(
        self,
        batch: SentBatch,
        records: Sequence[Tensor],
        arrays: Sequence[Sequence[Tensor]],
        gradients: Sequence[Tensor],
        rates: Sequence[Tensor],
    ) -> None:
        """Apply one optimizer step to the records of a batch.

        Args:
            records: the records that `look_up` read of the weights of each stack, unchanged since.
            arrays: of each stack; changed.
            gradients: one per feature, in feature order.
            rates: the rates of each stack's tables, `[tables]`.
        """
        trained = [n for n, stack in enumerate(self._stacks) if stack.rule is not None]
        counts = [len(arrays[number]) for number in trained]
        written: list[int] = []
        """The number of writes of each array, which the trace below finds."""

        def program(*inputs: Tensor) -> list[Tensor]:
            rest = iter(inputs)
            indices = _split(batch, rest)
            held = [[next(rest) for _ in range(count)] for count in counts]
            kept, rate = [next(rest) for _ in trained], [next(rest) for _ in trained]
            given = list(rest)
            writes: list[Tensor] = []
            for place, number in enumerate(trained):
                index = indices[number]
                own = [given[span.feature_index] for span in index.shape.order.spans]
                of_arrays: list[list[Tensor]] = [[] for _ in held[place]]
                noted = list(map(_Noted, held[place], of_arrays))
                gradient = row_gradients(index, own)
                apply_stack(noted, index, kept[place], gradient, rate[place])  # type: ignore[arg-type]
                written.extend(len(each) for each in of_arrays)
                writes += [part for each in of_arrays for part in each]
            return writes

        inputs = batch.buffers
        targets = [array for number in trained for array in arrays[number]]
        inputs += targets
        inputs += [records[number] for number in trained]
        inputs += [rates[number] for number in trained]
        # A gradient of other strides would be another program.
        inputs += [gradient.contiguous() for gradient in gradients]
        parts = iter(self._run("update", batch, program, inputs))
        if written:
            self._writes[batch.shapes] = tuple(written)
        for array, count in zip(targets, self._writes[batch.shapes], strict=True):
            for _ in range(count // 2):
                add_rows_in_place(array, next(parts), next(parts))

    def _run(
        self, name: str, batch: SentBatch, function: _Program, inputs: list[Tensor]
    ) -> list[Tensor]:
        key = (name, batch.shapes)
        if key not in self._programs:
            self._programs[key] = runtime.compiled(function, inputs)
        return self._programs[key](*inputs)


def _split(batch: SentBatch, inputs: Iterator[Tensor]) -> tuple[StackIndex, ...]:
    """Name the parts of the buffers of a batch such as this one, which come first among the inputs."""
    return split_buffers(batch.shapes, *islice(inputs, len(batch.buffers)))
