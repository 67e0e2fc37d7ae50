"""The shape of each feature's activations: configured, given to `build`, or taken from the first batch.

In that order of priority, as in TF. A shape that is known never changes, so that the programs do not.
Letters: B batch, D dim, L max_sequence_length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config.nest import flatten_like
from ..config.resolved import Feature, Resolved
from .at_once.bags import AtOnceBags
from .bags import Bags

Shape = tuple[int, ...]


class OutputShapes:
    """The activation shapes (without D) of all features, as far as they are known."""

    def __init__(self, resolved: Resolved, batch_size: int) -> None:
        self._features = resolved.features
        self._structure = resolved.structure
        self._batch_size = batch_size
        self.explicit: list[Shape | None] = [feature.output_shape for feature in resolved.features]
        """The shapes that are configured or given to build, which an input must fill; None for others."""
        self.known: list[Shape | None] = list(self.explicit)
        """The shapes that are known in any way, with which all batches must agree; None for others."""

    def give(self, input_shapes: Any) -> None:
        """Take the shapes given to `build`.

        Args:
            input_shapes: the batch size, or nested like feature_config with the shape of each input:
                `[B]` for a dense one, else its last size (ids per bag, None if it varies) is dropped.

        Raises:
            ValueError: a size is not known, or a shape is at odds with output_shape or the batch size.
        """
        if isinstance(input_shapes, int) and not isinstance(input_shapes, bool):
            if input_shapes != self._batch_size:
                raise ValueError(
                    f"build: per_replica_input_shapes={input_shapes}, but batch_size is "
                    f"{self._batch_size}"
                )
            return
        given = flatten_like(
            self._structure, input_shapes, "per_replica_input_shapes", containers_are_leaves=True
        )
        found = [
            self._one(feature, shape) for feature, shape in zip(self._features, given, strict=True)
        ]
        for number, shape in enumerate(found):
            if self._features[number].max_sequence_length == 0:
                self.explicit[number] = shape
            self.known[number] = shape

    def check(self, bags: Sequence[Bags], follows: Sequence[bool]) -> None:
        """Raise ValueError if a batch has another shape than those before.

        Args:
            follows: per feature, True if the first size of its shape is the number of samples, which may
                differ.
        """
        shapes = self._of(bags, follows)
        if self.known == shapes:
            return
        for feature, known, shape in zip(self._features, self.known, shapes, strict=True):
            if known is not None and known != shape:
                raise ValueError(
                    f"feature {feature.name!r}: this batch gives activations of shape "
                    f"{[*shape]} (without dim), but {[*known]} was settled before; every batch "
                    "must give the same"
                )

    def remember(self, bags: Sequence[Bags], follows: Sequence[bool]) -> None:
        """Keep the shapes of the first batch."""
        self.known = [*self._of(bags, follows)]

    def _of(self, bags: Sequence[Bags], follows: Sequence[bool]) -> list[Shape]:
        """The shapes that the bags would have with as many samples as the batch size says."""
        if isinstance(bags, AtOnceBags):
            return [(self._batch_size, *shape[1:]) for shape in bags.shapes]
        return [
            (self._batch_size, *each.shape[1:]) if begins else each.shape
            for each, begins in zip(bags, follows, strict=True)
        ]

    def _one(self, feature: Feature, shape: object) -> Shape:
        where = f"build: input shape of feature {feature.name!r}"
        if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) == 0:
            raise ValueError(f"{where} must be a non-empty sequence of ints, got {shape!r}")
        outer = tuple(shape) if len(shape) == 1 else tuple(shape[:-1])
        configured = feature.output_shape
        if configured is not None:
            fits = len(outer) == len(configured) and all(
                size is None or size == wanted
                for size, wanted in zip(outer, configured, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"{where}: {[*shape]} is inconsistent with its output_shape {[*configured]}"
                )
            return configured
        for size in outer:
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(
                    f"{where}: every size but the last must be a known int, got {[*shape]}"
                )
        length = feature.max_sequence_length
        if length:
            outer = (outer[0], length) if len(outer) == 1 else outer
            if outer != (self._batch_size, length):
                raise ValueError(
                    f"{where}: {[*shape]} is not [{self._batch_size}, ids] or "
                    f"[{self._batch_size}, {length}, ids], as max_sequence_length={length} asks"
                )
        return outer
