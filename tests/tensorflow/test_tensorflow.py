"""Live comparison with TensorFlow's own lookup and optimizer kernels, for those who have it.

TensorFlow stays out of this package's environment, for the two disagree about common dependencies. With

    python3.11 -m venv tensorflow-env && tensorflow-env/bin/pip install tensorflow-cpu
    TTE_TENSORFLOW_PYTHON=$PWD/tensorflow-env/bin/python pytest -m tensorflow

the cases below go to that Python in one file (`tensorflow_oracle.py`), and its answers come back in one.

What is not generated, because TF's own answers differ there by path, is in `DIFFERENCES`: weights of 0 or
below in a sparse 'mean' or 'sqrtn' (pruned on the CPU, used on TPU), ids outside the vocabulary, and
trailing empty samples of a sparse feature with validate_weights_and_indices=False (cut off). Divisors
that all but cancel are left out too, for they measure rounding alone.

Letters: V vocabulary, D dim, B batch, N ids.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from models import helpers
from places import SLOW, SUPPORT
from torch import Tensor

import torch_tpu_embedding as tte
from torch_tpu_embedding.config.quantization import QuantizationConfig
from torch_tpu_embedding.config.resolved import resolve
from torch_tpu_embedding.inputs.bags import parse
from torch_tpu_embedding.program.engine import Engine

PYTHON = os.environ.get("TTE_TENSORFLOW_PYTHON", "")

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        not PYTHON,
        reason="needs a Python with TensorFlow: python3.11 -m venv tensorflow-env && tensorflow-env/bin/"
        "pip install tensorflow-cpu, then set TTE_TENSORFLOW_PYTHON=tensorflow-env/bin/python",
    ),
]

COMBINERS = ("mean", "sum", "sqrtn")
LOOKUP_TOLERANCE = 2e-6
"""For activations and gradients, relative and absolute: float32 sums of up to 6 rows of size about 1."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Lookup:
    """One feature looked up once."""

    form: str
    """The form of the input, for the report."""
    kind: str
    """dense, sparse or ragged, as TF has it."""
    combiner: str
    arrays: Arrays = field(repr=False)
    shape: tuple[int, ...] = ()
    """The shape of a sparse input."""
    length: int = 0
    validate: bool = True
    output_shape: tuple[int, ...] | None = None
    quantization: tuple[int, float, float] | None = None

    def config(self) -> tte.FeatureConfig:
        vocabulary, dim = self.arrays["table"].shape
        quantization = self.quantization and QuantizationConfig(*self.quantization)
        return tte.FeatureConfig(
            tte.TableConfig(
                vocabulary, dim, combiner=self.combiner, quantization_config=quantization
            ),
            max_sequence_length=self.length,
            validate_weights_and_indices=self.validate,
            output_shape=self.output_shape,
        )

    def inputs(self) -> tuple[object, object]:
        """Ids and weights as this package takes them."""
        ids = torch.from_numpy(self.arrays["ids"])
        weights = torch.from_numpy(self.arrays["weights"]) if "weights" in self.arrays else None
        if self.kind == "dense":
            # several activations per sample: TF's CPU lookup takes [B, P], TPU and this package [B, P, 1]
            return ids if ids.dim() == 1 else ids[..., None], None

        def make(values: Tensor) -> object:
            if self.kind == "sparse":
                indices = torch.from_numpy(self.arrays["indices"]).T
                return torch.sparse_coo_tensor(indices, values, self.shape)
            return tte.Ragged(values, torch.from_numpy(self.arrays["splits"]))

        return make(ids), None if weights is None else make(weights)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def id_rows(
    rng: np.random.Generator, count: int, vocabulary: int, full_end: bool
) -> list[list[int]]:
    """Bags of 0 to 6 ids, often repeated; the last one not empty if `full_end`."""
    sizes = rng.integers(0, 7, count)
    sizes[rng.random(count) < 0.2] = 0
    if full_end:
        sizes[-1] = max(1, sizes[-1])
    high = int(rng.integers(1, vocabulary + 1))  # small ranges make duplicates
    return [rng.integers(0, high, size).tolist() for size in sizes]


def some_weights(
    rng: np.random.Generator, rows: list[list[int]], kind: str, combiner: str
) -> np.ndarray:
    """Weights of both signs where TF treats them like any other, else from 0.25; some are exactly 0."""
    count = sum(map(len, rows))
    weights = rng.uniform(0.25, 2.0, count)
    if combiner == "sum" or (kind == "ragged" and combiner == "sqrtn"):
        weights *= rng.choice([-1, 1], count)
    weights[rng.random(count) < 0.1] = 0.0
    return weights.astype(np.float32)


FORMS = (
    "dense",
    "dense [B, P]",
    "ragged",
    "sparse",
    "sparse, unchecked",
    "sparse [B, P, width]",
    "sparse, negative ids dropped",
    "ragged sequence",
    "sparse sequence with gaps",
    "ragged to output_shape",
    "ragged to sequences of output_shape",
)


def make_lookup(
    rng: np.random.Generator, form: str, batch: int | None = None, table: np.ndarray | None = None
) -> Lookup:
    """A case of one form with everything else drawn."""
    if table is None:
        table = normal(rng, int(rng.integers(1, 30)), int(rng.choice([1, 2, 3, 4, 5, 8, 16, 33])))
    vocabulary, dim = table.shape
    batch = batch or int(rng.integers(1, 7))
    combiner = str(rng.choice(COMBINERS))
    kind = form.split()[0].rstrip(",")
    more: dict[str, Any] = {}
    arrays: Arrays = {"table": table}
    sequence = "sequence" in form
    if form.startswith("dense"):
        more_places = (int(rng.integers(1, 4)),) if form == "dense [B, P]" else ()
        outer = (batch, *more_places)
        arrays["ids"] = rng.integers(0, vocabulary, outer)
    else:
        outer = (batch,)
        if form in ("sparse [B, P, width]", "ragged to output_shape"):
            outer = (batch, int(rng.integers(1, 4)))
        rows = id_rows(rng, int(np.prod(outer)), vocabulary, form == "sparse, unchecked")
        arrays["ids"] = np.array([i for row in rows for i in row], dtype=np.int64)
        if form == "sparse, negative ids dropped":
            arrays["ids"][rng.random(len(arrays["ids"])) < 0.2] = -1
        if not sequence and rng.random() < 0.6:
            arrays["weights"] = some_weights(rng, rows, kind, combiner)
        length = int(rng.integers(1, 6))
        if kind == "ragged":
            arrays["splits"] = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        else:
            width = 8
            places = [
                (*np.unravel_index(bag, outer), column)
                for bag, row in enumerate(rows)
                for column in sorted(rng.choice(width, len(row), replace=False))
            ]
            arrays["indices"] = np.array(places, dtype=np.int64).reshape(-1, len(outer) + 1)
            more["shape"] = (*outer, width)
        if form in ("ragged sequence", "sparse sequence with gaps"):
            more["length"] = length
            outer = (batch, length)
        if form == "ragged to output_shape":
            more["output_shape"] = outer
        if form == "ragged to sequences of output_shape":
            length = max(2, length)  # of 1 it would be a bag
            more["output_shape"] = outer = (batch, length)
        more["validate"] = form != "sparse, unchecked"
    arrays["cotangent"] = normal(rng, *outer, dim)
    return Lookup(form, kind, combiner, arrays, **more)


LOOKUPS_OF_EACH_FORM = 80


@functools.cache
def lookups() -> list[Lookup]:
    rng = np.random.default_rng(20)
    return [make_lookup(rng, form) for form in FORMS for _ in range(LOOKUPS_OF_EACH_FORM)]


DEVICE_BATCH, DEVICE_STEPS = 4, 12


@functools.cache
def device_lookups() -> list[list[Lookup]]:
    """Batches for one TPUEmbedding: a feature of each form that needs no output_shape, on four tables."""
    rng = np.random.default_rng(21)
    tables = [normal(rng, *shape) for shape in ((29, 4), (11, 16), (7, 3), (50, 4))]
    steps = []
    special = ("[", "output_shape", "dropped")
    plain = [form for form in FORMS if not any(mark in form for mark in special)]
    for _ in range(DEVICE_STEPS):
        batch = []
        for number, form in enumerate(plain):
            case = make_lookup(rng, form, DEVICE_BATCH, tables[number % len(tables)])
            while steps and (case.combiner, case.length) != (
                steps[0][number].combiner,
                steps[0][number].length,
            ):  # both are of the config, which stays
                case = make_lookup(rng, form, DEVICE_BATCH, tables[number % len(tables)])
            batch.append(case)
        steps.append(batch)
    return steps


@dataclass(frozen=True)
class Training:
    """Five steps of one optimizer on one table."""

    optimizer: tte.optimizers.Optimizer
    arrays: Arrays = field(repr=False)

    @property
    def name(self) -> str:
        return type(self.optimizer).__name__


STEPS, ROWS, TRAINED = 5, 6, (12, 5)  # ids a step, [V, D]

TOLERANCES = {
    "SGD": 1e-6,
    "Adagrad": 2e-6,
    "AdagradMomentum": 5e-6,
    "Adam": 5e-6,
    "FTRL": 2e-5,  # δ = a'ᵖ − aᵖ cancels, and powers other than ½ round
}
"""The tolerance of weights and slots after all steps, relative and absolute."""


def draw_optimizer(rng: np.random.Generator, name: str) -> tte.optimizers.Optimizer:
    rate = float(rng.choice([0.01, 0.1, 0.5]))
    start = float(rng.choice([0.1, 1.0]))
    if name == "SGD":
        return tte.SGD(rate)
    if name == "Adagrad":
        return tte.Adagrad(rate, initial_accumulator_value=start)
    if name == "AdagradMomentum":
        return tte.AdagradMomentum(
            rate,
            momentum=float(rng.choice([0.0, 0.9])),
            use_nesterov=bool(rng.random() < 0.5),
            exponent=float(rng.choice([2.0, 3.0])),
            beta2=float(rng.choice([1.0, 0.9])),
            epsilon=float(rng.choice([1e-10, 0.1])),
        )
    if name == "Adam":
        # TF's kernel has ε outside the root. Inside it stands as ε², which is nothing at 1e-12.
        inside = bool(rng.random() < 0.5)
        return tte.Adam(
            rate,
            # As the kernel has them: 1 − β in float32 is 1.3e-5 off for β = 0.999, ours is exact.
            beta_1=float(np.float32(rng.choice([0.0, 0.9]))),
            beta_2=float(np.float32(rng.choice([0.99, 0.999]))),
            epsilon=1e-12 if inside else float(rng.choice([1e-7, 1e-3])),
            sum_inside_sqrt=inside,
            # Rows without any gradient yet have v = 0, where m/(√v + ε²) would be 0/0 without ε.
            lazy_adam=inside or bool(rng.random() < 0.5),
        )
    return tte.FTRL(
        rate,
        learning_rate_power=float(rng.choice([-0.5, -0.7])),
        l1_regularization_strength=float(rng.choice([0.0, 0.05, 0.5])),
        l2_regularization_strength=float(rng.choice([0.0, 0.1])),
        beta=float(rng.choice([0.0, 0.2])),
        initial_accumulator_value=start,
        multiply_linear_by_learning_rate=bool(rng.random() < 0.5),
    )


TRAININGS_OF_EACH, RUNS_ON_XLA = 40, 2


@functools.cache
def trainings() -> list[Training]:
    rng = np.random.default_rng(22)
    found = []
    for name in TOLERANCES:
        for _ in range(TRAININGS_OF_EACH):
            # gradients away from 0: there g/√(v + ε²) and g/(√v + ε) part
            gradients = rng.uniform(0.05, 2.0, (STEPS, ROWS, TRAINED[1]))
            gradients *= rng.choice([-1, 1], gradients.shape)
            ids = [rng.permutation(TRAINED[0])[:ROWS] for _ in range(STEPS)]
            arrays = {
                "table": normal(rng, *TRAINED),
                "ids": np.array(ids),
                "gradients": gradients.astype(np.float32),
            }
            found.append(Training(draw_optimizer(rng, name), arrays))
    return found


TABLE = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]], dtype=np.float32)


def ragged_or_sparse(
    form: str, rows: list[list[int]], weights: list[float] | None = None, **more: Any
) -> Lookup:
    """A small case by hand on `TABLE`, with ids and weights of any type."""
    ids = np.array([i for row in rows for i in row], dtype=more.pop("id_type", np.int64))
    arrays: Arrays = {"table": TABLE, "ids": ids}
    if weights is not None:
        arrays["weights"] = np.array(weights, dtype=more.pop("weight_type", np.float32))
    if form == "ragged":
        arrays["splits"] = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    else:
        places = [(b, j) for b, row in enumerate(rows) for j in range(len(row))]
        arrays["indices"] = np.array(places, dtype=np.int64)
        more["shape"] = (len(rows), max(map(len, rows)))
    arrays["cotangent"] = np.float32(1.0)
    return Lookup(form, form, more.pop("combiner", "mean"), arrays, **more)


DIFFERENCES: dict[str, tuple[Lookup, list[list[float]] | str, list[list[float]] | str]] = {
    # TF drops the second id of 'mean' and 'sqrtn', but not of 'sum'; TPU and ragged inputs use it
    "a negative weight in a sparse mean": (
        ragged_or_sparse("sparse", [[0, 1]], [2.0, -1.0]),
        [[1.0, 10.0]],
        [[0.0, 0.0]],
    ),
    "a negative weight in a sparse sum": (
        ragged_or_sparse("sparse", [[0, 1]], [2.0, -1.0], combiner="sum"),
        [[0.0, 0.0]],
        [[0.0, 0.0]],
    ),
    "a negative weight in a ragged mean": (
        ragged_or_sparse("ragged", [[0, 1]], [4.0, -1.0]),
        [[2 / 3, 20 / 3]],
        [[2 / 3, 20 / 3]],
    ),
    "weights that add up to 0 in a ragged mean": (
        ragged_or_sparse("ragged", [[0, 1]], [1.0, -1.0]),
        [[0.0, 0.0]],
        [[0.0, 0.0]],
    ),
    "a negative id in a sparse feature": (
        ragged_or_sparse("sparse", [[0, -1], [2]]),
        [[1.0, 10.0], [3.0, 30.0]],
        "id -1 at sample 0, position 1 is outside",
    ),
    "a negative id in a ragged feature": (
        ragged_or_sparse("ragged", [[0, -1], [2]]),
        "InvalidArgumentError",
        "id -1 at sample 0, position 1 is outside",
    ),
    "an id beyond the vocabulary": (
        ragged_or_sparse("sparse", [[0, 4], [2]]),
        "InvalidArgumentError",
        "id 4 at sample 0, position 1 is outside",
    ),
    "empty samples at the end of an unchecked sparse feature": (
        ragged_or_sparse("sparse", [[0], [], []], validate=False),
        [[1.0, 10.0]],
        [[1.0, 10.0], [0.0, 0.0], [0.0, 0.0]],
    ),
    "two ids at one position of a sparse sequence": (
        Lookup(
            "sparse",
            "sparse",
            "sum",
            {
                "table": TABLE,
                "ids": np.array([0, 1]),
                "indices": np.array([[0, 0], [0, 0]]),
                "cotangent": np.float32(1.0),
            },
            shape=(1, 1),
            length=1,
        ),
        [[[3.0, 30.0]]],
        "two ids at sample 0, position 0",
    ),
    "weights that add up to 0 in a sparse mean": (
        ragged_or_sparse("sparse", [[0, 1]], [1.0, -1.0]),
        [[1.0, 10.0]],
        [[0.0, 0.0]],
    ),
    "weights that add up to 0 in a sqrtn": (
        ragged_or_sparse("ragged", [[0, 1]], [1.0, -1.0], combiner="sqrtn"),
        [[-(0.5**0.5), -10 * 0.5**0.5]],
        [[-(0.5**0.5), -10 * 0.5**0.5]],
    ),
    "weights whose squares are 0 in float32": (
        ragged_or_sparse("ragged", [[0, 1]], [1e-30, 1e-30], combiner="sqrtn"),
        [[0.0, 0.0]],
        [[3 * 0.5**0.5, 30 * 0.5**0.5]],
    ),
    "weights that all but cancel": (
        ragged_or_sparse("ragged", [[0, 1]], [1.0, -1.0000001]),
        [[8388610.0, 83886096.0]],
        [[8388610.0, 83886096.0]],
    ),
    "int16 ids": (
        ragged_or_sparse("sparse", [[0, 1]], id_type=np.int16),
        "InvalidArgumentError",
        [[1.5, 15.0]],
    ),
    "uint8 ids, ragged": (
        ragged_or_sparse("ragged", [[0, 1]], id_type=np.uint8),
        "ValueError",
        [[1.5, 15.0]],
    ),
    "int16 ids of a sparse sequence": (
        ragged_or_sparse("sparse", [[0, 1]], id_type=np.int16, length=2),
        [[[1.0, 10.0], [2.0, 20.0]]],
        [[[1.0, 10.0], [2.0, 20.0]]],
    ),
    "float64 weights, sparse": (
        ragged_or_sparse("sparse", [[0, 1]], [2.0, 2.0], weight_type=np.float64),
        "ValueError",
        [[1.5, 15.0]],
    ),
    "float64 weights, ragged": (
        ragged_or_sparse("ragged", [[0, 1]], [2.0, 2.0], weight_type=np.float64),
        "InvalidArgumentError",
        [[1.5, 15.0]],
    ),
    "float64 weights, sparse and unchecked": (
        ragged_or_sparse("sparse", [[0, 1]], [2.0, 2.0], weight_type=np.float64, validate=False),
        [[1.5, 15.0]],
        [[1.5, 15.0]],
    ),
    "int32 weights, sparse and unchecked": (
        ragged_or_sparse("sparse", [[0, 1]], [2, 2], weight_type=np.int32, validate=False),
        [[1.5, 15.0]],
        "weights must be floating point, got torch.int32",
    ),
    "a negative id in a sparse sequence": (
        ragged_or_sparse("sparse", [[0, -1], [2]], length=2),
        "InvalidArgumentError",
        "id -1 at sample 0, position 1 is outside",
    ),
    "a negative id cut off a sparse sequence": (
        ragged_or_sparse("sparse", [[0, -1], [2]], length=1),
        [[[1.0, 10.0]], [[3.0, 30.0]]],
        "id -1 at sample 0, position 1 is outside",
    ),
    "an id cut off a ragged sequence": (
        ragged_or_sparse("ragged", [[0, 7], [2]], length=1),
        "InvalidArgumentError",
        "id 7 at sample 0, position 1 is outside",
    ),
    "a negative id in an unchecked sparse feature": (
        ragged_or_sparse("sparse", [[0, -1], [2]], validate=False),
        "InvalidArgumentError",
        "id -1 at sample 0, position 1 is outside",
    ),
    "quantization on the CPU": (
        ragged_or_sparse("ragged", [[0], [1, 1]], quantization=(2, 0.0, 8.0)),
        [[1.0, 10.0], [2.0, 20.0]],
        [[0.0, 8.0], [0.0, 8.0]],
    ),
}
"""Kind of case → (case, TF's answer, ours); an answer is the activations or an error."""


@dataclass(frozen=True)
class Answers:
    """TensorFlow's, by case."""

    version: str
    of_case: dict[int, Arrays] = field(repr=False)

    def __call__(self, case: Lookup | Training) -> Arrays:
        return self.of_case[id(case)]


def as_json(case: Lookup | Training) -> dict[str, Any]:
    if isinstance(case, Lookup):
        return {k: v for k, v in vars(case).items() if k not in ("arrays", "form")}
    return {
        "optimizer": case.name,
        "options": asdict(case.optimizer),
        "slots": case.optimizer.slot_initial_values(),
    }


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """TensorFlow's answers to all cases of this file."""
    cases: list[Lookup | Training] = [*lookups(), *trainings()]
    cases += [case for step in device_lookups() for case in step]
    cases += [case for case, _, _ in DIFFERENCES.values()]
    folder = tmp_path_factory.mktemp("tensorflow")
    arrays = {f"{n}/{k}": v for n, case in enumerate(cases) for k, v in case.arrays.items()}
    np.savez(folder / "cases.npz", cases=json.dumps([*map(as_json, cases)]), **arrays)
    script = SUPPORT / "tensorflow_side" / "tensorflow_oracle.py"
    command = [PYTHON, str(script), str(folder / "cases.npz"), str(folder / "answers.npz")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert run.returncode == 0, f"{' '.join(command)} failed:\n{run.stderr[-3000:]}"
    of_case: dict[int, Arrays] = {id(case): {} for case in cases}
    with np.load(folder / "answers.npz") as held:
        for name in held.files:
            number, _, array = name.partition("/")
            if array:
                of_case[id(cases[int(number)])][array] = held[name]
        return Answers(str(held["version"]), of_case)


class Comparison:
    """Counts what agrees and keeps the largest difference, for the report."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.agreed: Counter[str] = Counter()
        self.largest = 0.0

    def check(self, what: str, case: object, found: dict[str, Tensor], wanted: Arrays) -> None:
        """|found − wanted| ≤ tolerance · max(1, |wanted|), element by element of each tensor."""
        assert "error" not in wanted, f"{case}: TensorFlow raised {wanted['text']}"
        for name, value in found.items():
            expected = torch.from_numpy(wanted[name])
            assert value.shape == expected.shape, f"{name} of {case}"
            scale = expected.abs().clamp(min=1.0)
            difference = float(((value - expected).abs() / scale).max()) if value.numel() else 0.0
            self.largest = max(self.largest, difference)
            assert difference <= self.tolerance, f"{name} is off by {difference:.2e}: {case}"
        self.agreed[what] += 1

    def report(self, name: str, version: str, capsys: pytest.CaptureFixture[str]) -> None:
        counts = ", ".join(f"{count} {what}" for what, count in self.agreed.items())
        with capsys.disabled():
            print(
                f"\nTensorFlow {version}, {name}: {counts} agree to {self.tolerance:.0e}; "
                f"largest difference {self.largest:.1e}"
            )


@pytest.mark.parametrize("form", FORMS)
def test_the_serving_lookup_and_its_gradient_are_tensorflows(
    form: str, tensorflow: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = Comparison(LOOKUP_TOLERANCE)
    for case in lookups():
        if case.form != form:
            continue
        config = case.config()
        table = torch.from_numpy(case.arrays["table"]).requires_grad_()
        ids, weights = case.inputs()
        (activations,) = tte.serving_embedding_lookup(
            (ids,),
            (weights,),
            {config.table: table},
            (config,),
            id_bounds="drop" if "dropped" in form else "raise",
        )
        (activations * torch.from_numpy(case.arrays["cotangent"])).sum().backward()
        found = {"activations": activations.detach(), "gradient": table.grad}
        comparison.check("lookups with gradient", case, found, tensorflow(case))
    assert comparison.agreed.total() == LOOKUPS_OF_EACH_FORM
    comparison.report(f"serving_embedding_lookup, {form}", tensorflow.version, capsys)


@pytest.mark.parametrize("layout", ["CPU", "TPU"])
def test_the_lookup_on_the_xla_device_is_tensorflows(
    layout: str, tensorflow: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    first = device_lookups()[0]
    tables: dict[tuple[int, str], tte.TableConfig] = {}  # features of one array and combiner share
    start = {}
    config = []
    for case in first:
        values = case.arrays["table"]
        name = f"table{len(tables)}"
        table = tables.setdefault(
            (id(values), case.combiner),
            tte.TableConfig(*values.shape, combiner=case.combiner, name=name),
        )
        start[f"{table.name}.weight"] = torch.from_numpy(values)
        config.append(
            tte.FeatureConfig(
                table,
                max_sequence_length=case.length,
                validate_weights_and_indices=case.validate,
            )
        )
    embedding = tte.TPUEmbedding(config, DEVICE_BATCH, None, layout=layout)
    embedding.load_state_dict(start)
    comparison = Comparison(LOOKUP_TOLERANCE)
    for step in device_lookups():
        inputs = [case.inputs() for case in step]
        embedding.enqueue([i for i, _ in inputs], [w for _, w in inputs], training=False)
        activations = embedding.dequeue()
        tte.runtime.sync()
        for case, found in zip(step, activations, strict=True):
            comparison.check("lookups", case, {"activations": found.cpu()}, tensorflow(case))
    assert comparison.agreed.total() == DEVICE_STEPS * len(first)
    comparison.report(f"TPUEmbedding on XLA, {layout} layout", tensorflow.version, capsys)


def trained_on_engine(case: Training) -> dict[str, Tensor]:
    """Weight and slots after all steps, by the package's device code run on plain tensors."""
    table = tte.TableConfig(*TRAINED, name="t", optimizer=case.optimizer)
    resolved = resolve([tte.FeatureConfig(table)], None)
    engine = Engine(resolved, torch.device("cpu"), "TPU")
    starts = case.optimizer.slot_initial_values()
    values = {"weight": torch.from_numpy(case.arrays["table"])}
    values |= {name: torch.full(TRAINED, start) for name, start in starts.items()}
    engine.store.fill(lambda _: [(0, values)])
    for ids, gradients in zip(case.arrays["ids"], case.arrays["gradients"], strict=True):
        bags = parse(resolved.features[0], resolved.tables[0], torch.from_numpy(ids))
        looked_up, _ = engine.look_up(engine.send([bags]))
        engine.update(looked_up, [torch.from_numpy(gradients)], [case.optimizer.learning_rate])
    return engine.store.read()[0]


def trained_on_xla(case: Training) -> dict[str, Tensor]:
    """The same through TPUEmbedding."""
    table = tte.TableConfig(*TRAINED, name="t", optimizer=case.optimizer)
    embedding = tte.TPUEmbedding([tte.FeatureConfig(table)], ROWS, None)
    start = {"t.weight": torch.from_numpy(case.arrays["table"])}
    embedding.load_state_dict(start, strict=False)
    for ids, gradients in zip(case.arrays["ids"], case.arrays["gradients"], strict=True):
        helpers.train_step(
            embedding, [torch.from_numpy(ids)], gradients=[torch.from_numpy(gradients)]
        )
    return {key.removeprefix("t."): value for key, value in helpers.tensors(embedding).items()}


def of_optimizer(name: str) -> Iterator[Training]:
    return (case for case in trainings() if case.name == name)


@pytest.mark.parametrize("name", TOLERANCES)
def test_five_steps_of_an_optimizer_are_those_of_tensorflows_kernels(
    name: str, tensorflow: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = Comparison(TOLERANCES[name])
    for number, case in enumerate(of_optimizer(name)):
        ways = [("runs of weight and slots", trained_on_engine)]
        if number < RUNS_ON_XLA:
            ways.append(("runs on XLA", trained_on_xla))
        for what, train in ways:
            found = train(case)
            assert set(found) == {"weight", *case.optimizer.slot_variable_names}
            comparison.check(what, case, found, tensorflow(case))
    assert comparison.agreed.total() == TRAININGS_OF_EACH + RUNS_ON_XLA
    comparison.report(name, tensorflow.version, capsys)


@pytest.mark.parametrize("what", DIFFERENCES)
def test_the_documented_differences_are_as_documented(what: str, tensorflow: Answers) -> None:
    case, theirs, ours = DIFFERENCES[what]
    answer = tensorflow(case)
    if isinstance(theirs, str):
        assert str(answer["error"]) == theirs
    else:
        np.testing.assert_allclose(answer["activations"], theirs, rtol=1e-6)
    config = case.config()
    ids, weights = case.inputs()

    def look_up() -> Tensor:
        tables = {config.table: torch.from_numpy(TABLE)}
        return tte.serving_embedding_lookup(ids, weights, tables, config)

    if isinstance(ours, str):
        with pytest.raises(ValueError, match=ours):
            look_up()
    else:
        torch.testing.assert_close(look_up(), torch.tensor(ours))
