"""The user's declarations of tables and features, which resolve into a fixed order.

Letters: V vocabulary, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..optimizers import Optimizer
from .initializers import RowIdInitializer
from .quantization import QuantizationConfig
from .vocabulary import DynamicVocabulary, HashedVocabulary, Vocabulary

Initializer = Callable[..., torch.Tensor]

COMBINERS = ("mean", "sum", "sqrtn")
ROUNDINGS = ("stochastic", "nearest")
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class TableConfig:
    """One embedding table, after `tf.tpu.experimental.embedding.TableConfig`.

    Tables compare by identity: two configs with equal fields are two tables. The object is never
    changed by the library.

    Args:
        vocabulary_size: V, the number of rows; ids are 0 … V-1. Each device holds 2^31 - 8 rows of
            a table at the most.
        dim: D, the length of one embedding vector.
        initializer: gives the start values `[V, D]`: a callable (shape, dtype) → tensor, a factory
            such as `torch.zeros`, or a function of `torch.nn.init`. None: a normal with standard
            deviation 1/√D, cut at two deviations.
        optimizer: this table's own optimizer; None takes the one given to `TPUEmbedding`.
        combiner: the combination of the rows of one bag into one vector: 'mean' Σwe/Σw, 'sum' Σwe,
            'sqrtn' Σwe/√Σw². Ignored for dense and sequence features, whose bags hold one id.
        name: the table's name in checkpoints and messages; None becomes `table_<position>`.
        quantization_config: rounds the rows as they are looked up, as a table in low precision
            would; the table stays.
        dtype: the dtype of the weights, torch.float32 or torch.bfloat16. Gradients and sums are float32 in
            any case, and so are activations, unless a feature's `output_dtype` says otherwise.
        rounding: the way in which an update rounds new weights and slots to bfloat16: 'stochastic' up or
            down by chance, so that the expected number is the exact one and small changes add up, or
            'nearest'.
            None: 'stochastic' for torch.bfloat16. Only for that dtype.
        slot_dtype: the dtype of the slots of a table in bfloat16, torch.float32 or torch.bfloat16. A slot
            of one number a row is float32 in any case.
        padding_idx: an id that stands for no id, as in `torch.nn.EmbeddingBag`: a pooled feature
            leaves it out (a mean does not count it), a dense feature or a position of a sequence gets
            zeros, and its row, which starts as zeros, is neither read nor trained. A negative one
            counts from the end: -1 is the row V-1. (Where the data has the id -1 itself, choose
            `id_bounds="drop"`.) With a `vocabulary` it is any int64 id, has no row, and none counts from
            the end.
        vocabulary: the way from ids to rows. None: an id is the number of its row. A HashedVocabulary
            and a DynamicVocabulary take any int64 id, negative too, as `hash_ids` makes them of strings;
            vocabulary_size is then the number of rows alone.

    Raises:
        ValueError: a field is out of range, naming the field, the value and what is allowed.
    """

    vocabulary_size: int
    dim: int
    initializer: Initializer | None = field(default=None, kw_only=True)
    optimizer: Optimizer | None = field(default=None, kw_only=True)
    combiner: str = field(default="mean", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    quantization_config: QuantizationConfig | None = field(default=None, kw_only=True)
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    rounding: str | None = field(default=None, kw_only=True)
    slot_dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    padding_idx: int | None = field(default=None, kw_only=True)
    vocabulary: Vocabulary | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _require_int("TableConfig", "vocabulary_size", self.vocabulary_size, 1)
        _require_int("TableConfig", "dim", self.dim, 1)
        if self.initializer is not None and not callable(self.initializer):
            given, long = repr(self.initializer), 60
            if len(given) > long or "\n" in given:
                given = f"a {type(self.initializer).__name__}"
            raise ValueError(
                f"TableConfig: initializer must be None or a callable, got {given}; to start from values "
                "that are at hand give a function that returns them, lambda shape, dtype: values"
            )
        if self.combiner not in COMBINERS:
            raise ValueError(
                f"TableConfig: combiner must be one of {', '.join(map(repr, COMBINERS))}, "
                f"got {self.combiner!r}"
            )
        quantization = self.quantization_config
        if quantization is not None and not isinstance(quantization, QuantizationConfig):
            raise ValueError(
                "TableConfig: quantization_config must be None or a QuantizationConfig, got "
                f"{quantization!r}"
            )
        self._check_dtype()
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ValueError(
                f"TableConfig: name must be None or a non-empty str, got {self.name!r}"
            )
        self._check_vocabulary()
        padding, size = self.padding_idx, self.vocabulary_size
        if padding is not None and self.vocabulary is None:
            _require_int("TableConfig", "padding_idx", padding, -size)
            if padding >= size:
                raise ValueError(
                    f"TableConfig: padding_idx must be None or lie in [{-size}, {size}), the rows of the "
                    f"table, got {padding}"
                )

    def _check_dtype(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"TableConfig: dtype must be torch.float32 or torch.bfloat16, got {self.dtype!r}"
            )
        if self.slot_dtype not in DTYPES:
            raise ValueError(
                "TableConfig: slot_dtype must be torch.float32 or torch.bfloat16, got "
                f"{self.slot_dtype!r}"
            )
        if self.slot_dtype != torch.float32 and self.dtype == torch.float32:
            raise ValueError(
                f"TableConfig: slot_dtype={self.slot_dtype} is for tables in bfloat16; leave it out, or "
                "give dtype=torch.bfloat16"
            )
        if self.rounding is None:
            return
        if self.rounding not in ROUNDINGS:
            raise ValueError(
                f"TableConfig: rounding must be None, 'stochastic' or 'nearest', got {self.rounding!r}"
            )
        if self.dtype == torch.float32:
            raise ValueError(
                f"TableConfig: rounding={self.rounding!r} is about tables in bfloat16; leave it out, or "
                "give dtype=torch.bfloat16"
            )

    def _check_vocabulary(self) -> None:
        if self.vocabulary is None:
            return
        if not isinstance(self.vocabulary, (HashedVocabulary, DynamicVocabulary)):
            raise ValueError(
                "TableConfig: vocabulary must be None, a HashedVocabulary or a DynamicVocabulary, got "
                f"{self.vocabulary!r}"
            )
        if isinstance(self.vocabulary, DynamicVocabulary):
            self._check_dynamic(self.vocabulary)
        if isinstance(self.initializer, RowIdInitializer):
            raise ValueError(
                "TableConfig: RowIdInitializer fills rows by their numbers, which are no ids of a table "
                "with a vocabulary; leave one of them out"
            )
        if self.padding_idx is not None:
            _require_int("TableConfig", "padding_idx", self.padding_idx, -(2**63))
            if self.padding_idx >= 2**63:
                raise ValueError(
                    f"TableConfig: padding_idx must be an int64 id, got {self.padding_idx}"
                )

    def _check_dynamic(self, vocabulary: DynamicVocabulary) -> None:
        if vocabulary.oov_rows >= self.vocabulary_size or self.vocabulary_size > 2**30:
            raise ValueError(
                f"TableConfig: with a DynamicVocabulary of {vocabulary.oov_rows} oov_rows, vocabulary_size "
                f"must be above that and at most {2**30}, got {self.vocabulary_size}"
            )
        by_id = (None, torch.zeros, torch.ones, torch.nn.init.zeros_, torch.nn.init.ones_)
        if self.initializer not in by_id and not isinstance(self.initializer, RowIdInitializer):
            raise ValueError(
                "TableConfig: with a DynamicVocabulary a row starts when its id comes, for which "
                f"initializer must be None, torch.zeros or torch.ones, got {self.initializer!r}"
            )


@dataclass(frozen=True, eq=False)
class FeatureConfig:
    """One input feature, after `tf.tpu.experimental.embedding.FeatureConfig`.

    Args:
        table: the table that this feature looks up; several features may share one.
        max_sequence_length: L. 0 combines the ids of a sample into one vector `[B, D]`; above 0 it
            is a sequence feature, one vector per position `[B, L, D]`, longer samples cut, shorter
            ones padded with zeros.
        validate_weights_and_indices: False trusts the weights and saves the check that they are
            finite and do not cancel. Ids are checked in any case, for one out of range would touch
            another table's row.
        output_shape: shape of the activations without D; None takes it from `build` or from the
            first input. It may begin with another number than the batch size.
        name: the feature's name in messages; None takes its path in feature_config, as in
            'user/age'. In a list of features also its key in a KeyedJaggedTensor.
        is_weighted: False leaves out whatever weights come with the ids of this feature, as
            TorchRec's collections with `is_weighted=False` do; a KeyedJaggedTensor that has weights
            has them for all keys.
        output_dtype: the dtype of the activations, torch.float32 or torch.bfloat16. Rows are summed in
            float32 and rounded once, to nearest, at the end; gradients are then bfloat16 as well, and are
            summed in float32.

    Raises:
        ValueError: a field has the wrong type or is out of range.
    """

    table: TableConfig
    max_sequence_length: int = field(default=0, kw_only=True)
    validate_weights_and_indices: bool = field(default=True, kw_only=True)
    output_shape: Sequence[int] | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    is_weighted: bool = field(default=True, kw_only=True)
    output_dtype: torch.dtype = field(default=torch.float32, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.table, TableConfig):
            raise ValueError(f"FeatureConfig: table must be a TableConfig, got {self.table!r}")
        _require_int("FeatureConfig", "max_sequence_length", self.max_sequence_length, 0)
        if not isinstance(self.validate_weights_and_indices, bool):
            raise ValueError(
                "FeatureConfig: validate_weights_and_indices must be a bool, got "
                f"{self.validate_weights_and_indices!r}"
            )
        if self.output_dtype not in DTYPES:
            raise ValueError(
                "FeatureConfig: output_dtype must be torch.float32 or torch.bfloat16, got "
                f"{self.output_dtype!r}"
            )
        if not isinstance(self.is_weighted, bool):
            raise ValueError(f"FeatureConfig: is_weighted must be a bool, got {self.is_weighted!r}")
        if self.output_shape is not None:
            if isinstance(self.output_shape, str) or not isinstance(self.output_shape, Sequence):
                raise TypeError(
                    "FeatureConfig: output_shape must be None or a sequence of ints, got "
                    f"{self.output_shape!r}"
                )
            for size in self.output_shape:
                _require_int("FeatureConfig", "each size in output_shape", size, 1)
            if self.max_sequence_length > 0:
                raise ValueError(
                    f"FeatureConfig: max_sequence_length={self.max_sequence_length} and output_shape="
                    f"{[*self.output_shape]} exclude each other; leave max_sequence_length 0 and give "
                    "ragged ids with one row per sequence"
                )
        if self.name is not None and not isinstance(self.name, str):
            raise ValueError(f"FeatureConfig: name must be None or a str, got {self.name!r}")


def _require_int(owner: str, name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"{owner}: {name} must be a Python int of at least {least}, got {value!r} "
            f"({type(value).__name__})"
        )
