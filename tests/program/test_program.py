"""The compiled step: its structure, and that it is compiled once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from programs.traced import traced

import torch_tpu_embedding as tte

BAGS = ["--ids-per-sample", "3"]
RAGGED = [*BAGS, "--ragged"]


@pytest.mark.parametrize(
    ("options", "num_arrays", "scatters"),
    [
        (["--optimizer", "SGD", "--dim", "16"], 1, 1),
        (["--optimizer", "SGD", "--linear"], 1, 1),
        (["--optimizer", "Adagrad", "--linear", "--tables", "2"], 1, 2),
        (["--optimizer", "Adagrad", "--dim", "64", "--tables", "3"], 1, 2),
        (["--optimizer", "Adam", "--dim", "64", "--tables", "2", "--ids-per-sample", "5"], 1, 3),
        (["--optimizer", "Adagrad", "--dim", "16", "--layout", "TPU", *BAGS], 1, 1),
        (["--optimizer", "Adagrad", "--dim", "16", "--layout", "TPU", *RAGGED], 1, 1),
        (["--optimizer", "Adam", "--dim", "64", "--tables", "2", *RAGGED], 1, 3),
        (["--optimizer", "Adam", "--dim", "64", "--layout", "TPU", "--tables", "2"], 2, 1),
    ],
)
def test_each_array_has_one_gather_a_scatter_for_each_physical_row_no_copy_and_is_donated(
    tmp_path: Path, options: list[str], num_arrays: int, scatters: int
) -> None:
    report = traced(tmp_path, *options)
    assert report["programs"] == 1, "the whole step is one program"
    assert len(report["arrays"]) == num_arrays
    sizes = []
    for array in report["arrays"]:
        rows, width = array["shape"]
        sizes.append(rows * width)
        assert (array["gathers"], array["scatters"]) == (1, scatters), array
        assert array["copies"] == 0, array
        assert array["donated"], array
    assert len(set(sizes)) == num_arrays, "equal byte sizes would let XLA swap the buffers"
    assert report["temporary_bytes"] < min(sizes) * 4 / 2, "no temporary of table size"


@pytest.mark.parametrize(
    ("optimizer", "scatters"), [("SGD", 1), ("Adagrad", 2), ("RowWiseAdagrad", 1), ("Adam", 3)]
)
def test_a_pipelined_step_that_reads_its_rows_before_the_last_update_copies_no_table(
    tmp_path: Path, optimizer: str, scatters: int
) -> None:
    for kind in ([], BAGS, RAGGED):
        options = ["--optimizer", optimizer, "--pipelined", "--linear", "--tables", "2", *kind]
        (array,) = traced(tmp_path, *options)["arrays"]
        assert (array["gathers"], array["copies"]) == (2, 0), array
        assert array["scatters"] == scatters
        assert array["donated"], array


def test_clipping_by_the_norm_sums_no_gradient_twice_and_micro_batches_copy_no_table(
    tmp_path: Path,
) -> None:
    plain, clipped, several = (
        traced(tmp_path, "--optimizer", "SGD", *RAGGED, *more)
        for more in ([], ["--clip"], ["--clip", "--micro-batches", "3"])
    )
    assert clipped["programs"] == several["programs"] == 1
    assert clipped["arrays"] == plain["arrays"]
    for kind in ("gathers", "scatters"):
        assert clipped["structure"][kind] == plain["structure"][kind]
    for array, of_plain in zip(several["arrays"], plain["arrays"], strict=True):
        # each batch reads its rows, and the update those of all
        assert (array["gathers"], array["copies"]) == (4, 0), array
        assert array["scatters"] == of_plain["scatters"]
        assert array["donated"], array
    assert several["structure"]["table_sized"] == plain["structure"]["table_sized"]


STRUCTURES = [
    ["--optimizer", "SGD"],
    ["--optimizer", "Adagrad"],
    ["--optimizer", "Adam"],
    ["--optimizer", "Adagrad", "--dim", "192"],
    ["--optimizer", "Adagrad", *BAGS],
    ["--optimizer", "Adagrad", *RAGGED],
    ["--optimizer", "Adagrad", "--tables", "13"],
    ["--optimizer", "Adagrad", "--evaluate"],
]


@pytest.mark.parametrize("options", STRUCTURES, ids=" ".join)
def test_the_traced_tpu_program_makes_nothing_of_a_tables_size_and_stays_short(
    tmp_path: Path, options: list[str]
) -> None:
    report = traced(tmp_path, "--layout", "TPU", *options)
    structure, training = report["structure"], "--evaluate" not in options
    arrays, features = len(report["arrays"]), 13 if "13" in options else 1
    wanted = {"parameter": arrays, **({"scatter": arrays} if training else {})}
    assert structure["table_sized"] == wanted, "rows are written into arrays, and that is all"
    sizes = sorted(rows * width for rows, width in (each["shape"] for each in report["arrays"]))
    assert structure["donated"] == (sizes if training else []), "arrays are updated in place"
    assert structure["sorts"] == 0, "the host deduplicates"
    # one for the places of a feature, one for the bags of a stack, one for the rates of its tables
    assert structure["gathers"] <= arrays + features + 2
    assert structure["scatters"] <= (arrays + features + 1 if training else 1)
    assert structure["instructions"] <= 120 + 50 * arrays + 10 * features


def ragged_batches(rows: int, vocabulary: int, seed: int) -> Iterator[tte.Ragged]:
    """Bags of 0 to 8 ids, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        lengths = torch.randint(0, 9, (rows,), generator=generator)
        ids = torch.randint(0, vocabulary, (int(lengths.sum()),), generator=generator)
        yield tte.Ragged.from_lengths(ids, lengths)


def test_nothing_is_compiled_after_warm_up_with_ragged_input_and_a_changing_rate() -> None:
    rate = iter(0.1 / (1 + step) * (step % 7) for step in range(10_000))  # 0 and odd values
    small = tte.TableConfig(50, 8, optimizer=tte.Adam(0.0), name="small")
    large = tte.TableConfig(5000, 16, optimizer=tte.Adagrad(lambda: next(rate)), name="large")
    config = {
        "bags": tte.FeatureConfig(large),
        "sequence": tte.FeatureConfig(large, max_sequence_length=5),
        "dense": tte.FeatureConfig(small),
    }
    embedding = tte.TPUEmbedding(config, 32, None)
    optimizer = tte.EmbeddingOptimizer(embedding)
    head = torch.nn.Linear(16 + 5 * 16 + 8, 1).to(embedding.device)
    bags, sequences = ragged_batches(32, 5000, 1), ragged_batches(32, 5000, 2)

    def step(training: bool) -> torch.Tensor:
        features = {
            "bags": next(bags),
            "sequence": next(sequences),
            "dense": torch.randint(0, 50, (32,)),
        }
        embedding.train(training)
        parts = embedding(features)
        x = torch.cat([parts["bags"], parts["sequence"].flatten(1), parts["dense"]], dim=1)
        loss = (torch.tanh(head(x)) ** 2).mean()
        if training:
            optimizer.param_groups[1]["lr"] *= 0.99  # 'small' is second in flattening order
            loss.backward()
            head.zero_grad()
            optimizer.step()
        return loss.detach()

    assert [group["name"] for group in optimizer.param_groups] == ["large", "small"]
    optimizer.param_groups[1]["lr"] = 0.1
    for number in range(20):
        loss = step(training=number % 10 != 9)
        tte.runtime.sync()
    compiled, fallbacks = tte.runtime.compile_count(), tte.runtime.cpu_fallbacks()
    for number in range(200):
        loss = step(training=number % 10 != 9)
        tte.runtime.sync()
    assert torch.isfinite(loss.cpu())
    assert tte.runtime.compile_count() == compiled
    assert tte.runtime.cpu_fallbacks() == fallbacks, "no operator left the device"


def test_only_the_runtime_module_imports_torch_xla() -> None:
    package = Path(tte.__file__).parent
    importing = {
        str(path.parent.relative_to(package))
        for path in package.rglob("*.py")
        if any(
            line.strip().startswith(("import torch_xla", "from torch_xla"))
            for line in path.read_text().splitlines()
        )
    }
    assert importing == {"runtime/torch_xla"}


def test_importing_the_package_does_not_load_torch_xla() -> None:
    code = "import sys, torch_tpu_embedding; assert 'torch_xla' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
