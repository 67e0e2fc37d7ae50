"""Tables in 8 bits: the bound of the error, bytes, programs, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import torch_tpu_embedding as tte
from torch_tpu_embedding.serving import int8
from torch_tpu_embedding.serving.int8 import Int8Embedding

ROUNDING = 2.0**-22
"""The share that the float32 sum may lose, times the largest magnitude of a row."""


def bound(weight: torch.Tensor) -> torch.Tensor:
    """`[V]`: the promised largest error of each row, in float64."""
    exact = weight.double()
    tiny = torch.finfo(torch.float32).tiny  # numbers below it have fewer digits
    span = (exact.amax(1) - exact.amin(1)) / 510
    return span + ROUNDING * exact.abs().amax(1) + tiny


numbers = st.floats(-(2.0**126), 2.0**126, width=32)
rows = st.lists(
    st.one_of(
        st.lists(numbers, min_size=4, max_size=4),
        st.tuples(
            numbers, st.lists(st.floats(-(2.0**-10), 2.0**-10, width=32), min_size=4, max_size=4)
        ).map(
            lambda drawn: [drawn[0] + each for each in drawn[1]]  # far from 0, close together
        ),
        numbers.map(lambda number: [number] * 4),
    ),
    min_size=1,
    max_size=6,
)


@given(rows)
def test_a_value_is_off_by_at_most_half_the_scale_of_its_row(values: list[list[float]]) -> None:
    weight = torch.tensor(values, dtype=torch.float32)
    table = Int8Embedding(weight, "t")
    error = (table(torch.arange(len(weight))).double() - weight.double()).abs()
    assert bool((error <= bound(weight)[:, None]).all())


@given(st.floats(-(2.0**126), 2.0**126, width=32))
def test_a_row_of_equal_values_is_exact(value: float) -> None:
    weight = torch.full((2, 3), value, dtype=torch.float32)
    assert torch.equal(Int8Embedding(weight, "t")(torch.tensor([1, 0])), weight)


def test_blocks_of_rows_are_quantized_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    whole = Int8Embedding(weight, "t").state_dict()
    monkeypatch.setattr(int8, "BLOCK_ROWS", 4)
    for name, part in Int8Embedding(weight, "t").state_dict().items():
        assert torch.equal(part, whole[name]), name


def trained(dim: int = 16, vocabulary: int = 40) -> tte.TPUEmbedding:
    config = {
        combiner: tte.FeatureConfig(
            tte.TableConfig(vocabulary, dim, combiner=combiner, name=combiner, padding_idx=3)
        )
        for combiner in ("mean", "sum", "sqrtn")
    }
    config["dense"] = tte.FeatureConfig(config["sum"].table)
    config["sequence"] = tte.FeatureConfig(config["mean"].table, max_sequence_length=3)
    return tte.TPUEmbedding(config, 3, None, seed=3, device="cpu")


@given(
    st.lists(st.lists(st.integers(0, 39), max_size=5), min_size=3, max_size=3),
    st.lists(st.floats(-2, 2, width=16), min_size=15, max_size=15),
)
def test_a_bag_is_off_by_at_most_its_weights_times_half_the_scale(
    bags: list[list[int]], drawn: list[float]
) -> None:
    embedding = trained()
    exact, small = tte.export_serving(embedding), tte.export_serving(embedding, quantize="int8")
    ids = tte.Ragged.from_lists(bags, torch.int64)
    weights = torch.tensor(drawn[: len(ids.values)], dtype=torch.float32)
    dense, lengths = torch.tensor([3, 7, 39]), ids.row_splits.diff()
    batch = {
        "sum": (ids.values, ids.row_splits, weights),
        "mean": ids,
        "sqrtn": ids,
        "dense": dense,
        "sequence": ids,
    }
    found, wanted = small(batch), exact(batch)
    limit = {name: bound(table.weight).amax() for name, table in exact.tables.named_children()}
    limit |= {"dense": limit["sum"], "sequence": limit["mean"]}
    gain = {"sum": torch.stack([part.abs().sum() for part in weights.split(lengths.tolist())])}
    gain["sqrtn"] = lengths.double().sqrt()  # n ids of 1 / sqrt(n)
    for name, value in wanted.items():
        error = (found[name].double() - value.double()).abs().flatten(1).amax(1)
        assert bool((error <= gain.get(name, torch.ones(3)) * limit[name] + 1e-6).all()), name
    assert torch.equal(small({"dense": dense})["dense"][0], torch.zeros(16))  # the padding row


@pytest.mark.parametrize(
    ("dim", "ratio"), [(1, 1.0), (2, 1.0), (3, 11 / 12), (16, 24 / 64), (128, 136 / 512)]
)
def test_a_table_takes_a_byte_a_value_and_eight_a_row_and_never_more_than_before(
    dim: int, ratio: float
) -> None:
    embedding = trained(dim)
    held = sum(
        x.nbytes for x in tte.export_serving(embedding, quantize="int8").state_dict().values()
    )
    whole = sum(x.nbytes for x in tte.export_serving(embedding).state_dict().values())
    assert held / whole == ratio


def test_a_program_of_8_bit_tables_is_read_with_plain_torch_alone(tmp_path: Path) -> None:
    batch = {"mean": tte.Ragged.from_lists([[1, 2], [4]]), "dense": torch.tensor([5, 3])}
    path = tmp_path / "t.pt2"
    embedding = trained(vocabulary=5_000)
    module = tte.export_serving(embedding, path, batch, quantize="int8")
    code = (
        "import sys, json, torch; program = torch.export.load(sys.argv[1]).module()\n"
        "found = program({'mean': (torch.tensor([1, 2, 4]), torch.tensor([0, 2, 3])),\n"
        "                 'dense': torch.tensor([5, 3])})\n"
        "print(json.dumps({name: each.tolist() for name, each in found.items()}))\n"
        "assert not {'torch_tpu_embedding', 'torch_xla'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {name: each.tolist() for name, each in module(batch).items()}
    assert json.loads(done.stdout) == wanted
    float_path = tmp_path / "f.pt2"
    tte.export_serving(embedding, float_path, batch)
    assert path.stat().st_size < 0.6 * float_path.stat().st_size


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_and_the_remedy_helps(
    bad: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(int8, "BLOCK_ROWS", 4)
    embedding = trained()
    with torch.no_grad():
        for config, table in embedding.embedding_tables.items():
            table[9, 5] = bad if config.name == "sum" else 0.0
    message = (
        rf"table 'sum' cannot become int8: row 9, column 5 is {bad}; mend the row with write_rows, or "
        "export without quantize"
    )
    batch = {"dense": torch.tensor([1])}
    with pytest.raises(ValueError, match=message):
        tte.export_serving(embedding, tmp_path / "t.pt2", batch, quantize="int8")
    assert not [*tmp_path.iterdir()]
    tte.export_serving(embedding)
    embedding.write_rows("sum", torch.tensor([9]), torch.zeros(1, 16))
    tte.export_serving(embedding, quantize="int8")


def test_another_word_for_quantize_is_refused() -> None:
    with pytest.raises(ValueError, match="quantize must be None or 'int8', got 'int4'"):
        tte.export_serving(trained(), quantize="int4")  # type: ignore[arg-type]
